"""The ports that a session has bound, and the connections to them: each becomes a channel of the session."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import msgspec
from twisted.internet.defer import succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from pipeops_agent.sandbox.faults import BindRefused, FaultBox
from pipeops_agent.sandbox.serving import IServerReactor, Roll
from pipeops_agent.tunnel.reading import Reading
from pipeops_agent.tunnel.relay import Relay
from pipeops_agent.tunnel.remotes import ANY_ADDRESS, ReverseRemote
from pipeops_agent.tunnel.ssh.common import SSHError
from pipeops_agent.tunnel.ssh.connection import ConnectionLayer, OpenRefused
from pipeops_agent.tunnel.traffic import ChannelTally

_log = Logger(namespace="sandbox")

MAX_RELAYS: Final = 4096
"""How many forwarded connections the server holds at a time; further ones are closed at once."""


BACKLOG: Final = 1024
"""How many connections to a port may wait to be accepted: a user may come with a thousand at once."""


class Grant(msgspec.Struct, frozen=True):
    """
    What somebody who logged in may do.

    @ivar subject: who that is, for people.
    @ivar ports: the ports that may be bound, and the name of the forward of each; None: any.
    """

    subject: str
    ports: Mapping[int, str] | None = None


class Bound(msgspec.Struct, frozen=True):
    """A port that is listened on, and where it leads."""

    subject: str
    forward: str
    port: int
    target: str


class Refused(Exception):
    """A request can't be granted; the text is the reply's, in chisel's words."""


class Ground(Protocol):
    """What all sessions of a server share."""

    @property
    def reactor(self) -> IServerReactor:
        """Who listens."""

    @property
    def interface(self) -> str:
        """The address that ports are bound on, whichever a client names."""

    @property
    def box(self) -> FaultBox:
        """What is to go wrong."""

    @property
    def relays(self) -> Roll[Relay]:
        """The forwarded connections. They may outlive their session for as long as it takes to end well."""

    @property
    def ports(self) -> Roll[IListeningPort]:
        """The ports that are open, or not yet closed."""

    def opened(self, bound: Bound) -> None:
        """A port is listened on."""

    def closed(self, bound: Bound) -> None:
        """It is so no more."""


class Bindings:
    """
    One session's ports.

    @param grant: which ports those may be.
    @param layer: where channels are opened.
    """

    def __init__(self, ground: Ground, grant: Grant, layer: ConnectionLayer) -> None:
        self._ground = ground
        self._grant = grant
        self._layer = layer
        self._ports: dict[Bound, IListeningPort] = {}
        self._over = False
        self._reading = Reading()

    def __len__(self) -> int:
        return len(self._ports)

    def bind(self, remotes: Iterable[ReverseRemote]) -> None:
        """
        Listen on everything that is asked for, or on nothing.

        @raise Refused: a port is not this client's, or can't be had.
        """
        wanted = [(remote, self._allowed(remote)) for remote in remotes]
        self._refuse_as_told(wanted)
        ports: dict[Bound, IListeningPort] = {}
        try:
            for remote, bound in wanted:
                ports[bound] = self._listen(remote, bound)
        except Refused:
            for port in ports.values():
                self._close(port)
            raise
        self._ports = ports
        for bound in ports:
            self._ground.opened(bound)

    def release(self) -> None:
        """Close every port. Connections to them end with their channels."""
        self._over = True
        ports, self._ports = self._ports, {}
        for bound, port in ports.items():
            self._close(port)
            self._ground.closed(bound)

    def _allowed(self, remote: ReverseRemote) -> Bound:
        subject, ports = self._grant.subject, self._grant.ports
        if ports is not None and remote.local_port not in ports:
            raise Refused(f"server: access to 'R:{remote.local_host}:{remote.local_port}' denied")
        forward = str(remote.local_port) if ports is None else ports[remote.local_port]
        return Bound(subject, forward, remote.local_port, remote.target)

    def _refuse_as_told(self, wanted: list[tuple[ReverseRemote, Bound]]) -> None:
        """Refuse what a fault names; it strikes only who asks for one of its forwards."""

        def named(fault: BindRefused, bound: Bound) -> bool:
            return not fault.forwards or bound.forward in fault.forwards or str(bound.port) in fault.forwards

        fault = self._ground.box.take(
            BindRefused, lambda fault: any(named(fault, bound) for _, bound in wanted)
        )
        for remote, bound in wanted:
            if fault is not None and named(fault, bound):
                raise Refused(cannot_listen(remote))

    def _listen(self, remote: ReverseRemote, bound: Bound) -> IListeningPort:
        door = _Door(self._accept, bound)
        ground = self._ground
        try:
            port = ground.reactor.listenTCP(bound.port, door, backlog=BACKLOG, interface=ground.interface)
        except CannotListenError:
            raise Refused(cannot_listen(remote)) from None
        ground.ports.enter(port)
        return port

    def _close(self, port: IListeningPort) -> None:
        closed = port.stopListening() or succeed(None)
        closed.addBoth(lambda _: self._ground.ports.leave(port))

    def _accept(self, bound: Bound) -> Relay | None:
        """A connection has come to a port: ask the client for a channel to its target."""
        relays = self._ground.relays
        if self._over or len(relays) >= MAX_RELAYS:
            return None
        relay = Relay(self._ground.reactor, ChannelTally(), self._reading, relays.leave)
        relays.enter(relay)
        opening = self._layer.open_channel(b"chisel", bound.target.encode(), relay)
        opening.addCallbacks(relay.attach, self._not_opened, errbackArgs=(relay, bound))
        return relay

    def _not_opened(self, failure: Failure, relay: Relay, bound: Bound) -> None:
        failure.trap(OpenRefused, SSHError)
        _log.info(
            "a connection to port {port} leads nowhere: {reason}",
            port=bound.port,
            forward=bound.forward,
            reason=failure.getErrorMessage(),
        )
        relay.abort()


class _Door(ServerFactory):
    """Has each connection to a port accepted as one to its target."""

    noisy = False

    def __init__(self, accept: Callable[[Bound], Relay | None], bound: Bound) -> None:
        self._accept = accept
        self._bound = bound

    def buildProtocol(self, addr: IAddress | None) -> Relay | None:
        return self._accept(self._bound)


def cannot_listen(remote: ReverseRemote) -> str:
    """Chisel's sentence about a port that can't be had."""
    local = str(remote.local_port)
    if remote.local_host != ANY_ADDRESS:
        local = f"{remote.local_host}:{local}"
    return f"server: Server cannot listen on R:{local}=>{remote.target.removeprefix('127.0.0.1:')}"
