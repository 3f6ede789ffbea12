"""A chisel server in memory, and a client's way to it: bytes move only when the test pumps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from pipeops_agent.net.connector import Connector
from pipeops_agent.net.resolver import Address
from pipeops_agent.net.tls import ClientTLS
from pipeops_agent.net.trace import Trace
from pipeops_agent.orders import ServerAddress, TunnelServer
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_tunnel import TunnelSettings
from pipeops_agent.tunnel.carrier import PROTOCOL_OPTIONS, SUBPROTOCOL, CarrierLost, ServerCarrier
from pipeops_agent.tunnel.dialing import Dialer
from pipeops_agent.tunnel.opener import SessionOpener
from pipeops_agent.tunnel.remotes import Remote
from pipeops_agent.tunnel.session import ChiselSession
from pipeops_agent.tunnel.ssh.auth import USERAUTH, PasswordAuthServer
from pipeops_agent.tunnel.ssh.common import RekeyPolicy, Service, SSHError, fingerprint
from pipeops_agent.tunnel.ssh.connection import ConnectionLayer, OpenRequest, _string
from pipeops_agent.tunnel.ssh.messages import (
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_SUCCESS,
)
from pipeops_agent.tunnel.ssh.server import ChiselServerTransport, HostKey
from pipeops_agent.tunnel.ssh.windows import Windows
from pipeops_agent.tunnel.traffic import TrafficCounters
from tests.tunnel.ssh.pair import HOST_KEY

RIGHT = fingerprint(HOST_KEY.public().blob())
PLACE = IPv4Address("TCP", "192.0.2.9", 80)
REMOTES = (Remote("api", 8000, "10.0.0.1", 6443), Remote("web", 8001, "10.0.0.1", 80))

HASTY = 2.0
"""The C{connect_timeout} of attempts that are hurried."""
STEPS = ("upgrade", "ssh", "login", "configuration", "ping")
"""What a server can be silent at, once there is a TCP connection."""


class Pipe:
    """One end's TCP connection: keeps what is written, and what is asked of it."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.producer: Any = None
        self.reading = True
        self.closing = self.aborted = self.over = False

    def write(self, data: bytes) -> None:
        if not (self.closing or self.aborted or self.over):
            self.written += data

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802  # ITransport's names, here and below
        if self.producer is not None:
            raise RuntimeError("there is a producer already")
        self.producer = producer

    def unregisterProducer(self) -> None:  # noqa: N802  # ITransport's
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def loseConnection(self) -> None:
        self.closing = True

    def abortConnection(self) -> None:
        self.aborted = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """There is no delay."""

    def getPeer(self) -> IPv4Address:  # noqa: N802  # ITransport's
        return PLACE

    def getHost(self) -> IPv4Address:  # noqa: N802  # ITransport's
        return PLACE


class Link:
    """Two protocols joined by pipes."""

    def __init__(self, client: Any, server: Any) -> None:
        self.client, self.server = client, server
        self.client_pipe, self.server_pipe = Pipe(), Pipe()
        self.holds_answers = False
        self._lost = False
        server.makeConnection(self.server_pipe)
        client.makeConnection(self.client_pipe)

    def pump(self, size: int = 1 << 30) -> None:
        """Move bytes, in pieces of C{size}, until nothing moves; then end what is to end."""
        for _ in range(50_000):
            moved = self._move(self.client_pipe, self.server, size)
            if not self.holds_answers:
                moved = self._move(self.server_pipe, self.client, size) or moved
            if self.client_pipe.aborted or self.server_pipe.aborted:
                self.lose(ConnectionAborted())
            if not moved:
                break
        else:
            raise AssertionError("the two ends never stop talking")
        if self.client_pipe.closing or self.server_pipe.closing:
            self.lose(ConnectionDone())

    def _move(self, pipe: Pipe, receiver: Any, size: int) -> bool:
        data = bytes(pipe.written[:size])
        del pipe.written[:size]
        if data and not self._lost:
            receiver.dataReceived(data)
        return bool(data)

    def lose(self, why: Exception) -> None:
        """The TCP connection ends."""
        if not self._lost:
            self._lost = True
            self.client_pipe.over = self.server_pipe.over = True
            self.client.connectionLost(Failure(why))
            self.server.connectionLost(Failure(why))


class _SilentService(Service):
    """Takes a login, and says nothing."""

    name = USERAUTH

    def packetReceived(self, messageNum: int, packet: bytes) -> None:  # noqa: N802, N803 - Conch's names
        """Nothing."""


class _Transport(ChiselServerTransport):
    silent = False

    def connectionMade(self) -> None:
        if not self.silent:
            super().connectionMade()

    def dataReceived(self, data: bytes | memoryview) -> None:
        if not self.silent:
            super().dataReceived(data)


class _Connection(ConnectionLayer):
    """Answers global requests as its server wants."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server, windows=Windows.fixed(64 * 1024), max_channels=1000)
        self._server = server

    def packetReceived(self, messageNum: int, packet: bytes) -> None:  # noqa: N802, N803 - Conch's names
        if messageNum != MSG_GLOBAL_REQUEST:
            super().packetReceived(messageNum, packet)
            return
        name, rest = _string(packet)
        answer = self._server.answer(name.decode(), rest[1:])
        if answer is not None:
            self.transport.sendPacket(*answer)


class MemoryServer:
    """
    One chisel server's end, made for one client.

    @ivar silent_at: the step at which it says nothing any more.
    @ivar config_answer: message and payload in answer to the configuration.
    """

    def __init__(self, clock: Any) -> None:
        self.silent_at = ""
        self.config_answer = (MSG_REQUEST_SUCCESS, b"")
        self.ping_answer = (MSG_REQUEST_SUCCESS, b"pong")
        self.requests: list[tuple[str, bytes]] = []
        self.logins: list[tuple[str, str]] = []
        self.lost: list[str] = []
        self.pongs = 0
        self.transport = _Transport(clock, self, RekeyPolicy(1 << 40, 1e9), HostKey(HOST_KEY, self._service))
        self.connection = _Connection(self)
        self.carrier = ServerCarrier(clock, self.transport, self)
        factory: Any = WebSocketServerFactory("ws://192.0.2.9:80", protocols=[SUBPROTOCOL], reactor=clock)
        factory.setProtocolOptions(**PROTOCOL_OPTIONS)
        factory.protocol = lambda: self.carrier
        factory.log = ServerCarrier.log
        self.protocol = factory.buildProtocol(PLACE)

    def go_silent_at(self, step: str) -> None:
        self.silent_at = step
        self.transport.silent = step == "ssh"

    def answer(self, name: str, payload: bytes) -> tuple[int, bytes] | None:
        self.requests.append((name, payload))
        if name == "config":
            return None if self.silent_at == "configuration" else self.config_answer
        return None if self.silent_at == "ping" else self.ping_answer

    def _service(self, transport: object, name: bytes) -> Callable[[], Service] | None:
        if self.silent_at == "login":
            return _SilentService
        return lambda: PasswordAuthServer(self._check, lambda user: self.connection)

    def _check(self, user: str, password: Secret) -> bool:
        self.logins.append((user, password.reveal()))
        return password.reveal() == "right"

    def carrier_open(self) -> None:
        """Go on."""

    def carrier_pong(self) -> None:
        self.pongs += 1

    def carrier_lost(self, error: CarrierLost) -> None:
        self.lost.append(str(error))

    def ssh_secure(self) -> None:
        """Go on."""

    def ssh_ended(self, error: SSHError) -> None:
        """Told by the carrier too."""

    def channel_requested(self, request: OpenRequest) -> None:
        request.refuse(1, "only reverse forwards")

    def global_requested(self, name: bytes, payload: bytes) -> bytes | None:
        raise AssertionError("answered in the layer")


class Names:
    """A resolver that answers when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[list[Address]]] = []
        self.prompt = True

    def resolve(self, host: str, port: int) -> Deferred[list[Address]]:
        if self.prompt:
            return succeed([IPv4Address("TCP", "192.0.2.9", port)])
        waiting: Deferred[list[Address]] = Deferred()
        self.waiting.append(waiting)
        return waiting


class Rig:
    """A reactor, a session opener, and a server that it leads to."""

    def __init__(self, **changes: Any) -> None:
        self.reactor = MemoryReactorClock()
        self.settings = msgspec.structs.replace(TunnelSettings(), **changes)
        self.traffic = TrafficCounters()
        self.names = Names()
        self.pings = 0
        self.server = MemoryServer(self.reactor)
        self.trace = Trace(self.reactor, lambda: None)  # type: ignore[arg-type, return-value]  # not shown
        self.link: Link | None = None
        connector = Connector(
            self.reactor,  # type: ignore[arg-type]  # no threads are needed
            connect_timeout=self.settings.connect_timeout,
            resolver=self.names,
        )
        self._connector = connector
        hasty = Connector(
            self.reactor,  # type: ignore[arg-type]  # as above
            connect_timeout=HASTY,
            resolver=self.names,
        )
        self.opener = SessionOpener(
            self.reactor,
            connector,
            Dialer(self.reactor, self.names, self.reactor.connectTCP),
            self.traffic,
            settings=lambda: self.settings,
            tls=ClientTLS(),
            version="1.2.3",
            report=lambda name, why: None,
            on_ping=self._on_ping,
            hasty=hasty,
        )

    def _on_ping(self) -> None:
        self.pings += 1

    def order(self, *, expected: str | None = RIGHT, password: str = "right") -> TunnelServer:
        address = ServerAddress(host="chisel.example", port=80, path="/", tls=False)
        return TunnelServer(address=address, fingerprint=expected, credentials=("me", Secret(password)))

    def begin(self, order: TunnelServer | None = None, *, hurried: bool = False) -> Deferred[ChiselSession]:
        """Begin to open a session, as far as TCP."""
        opening = self.opener(order or self.order(), REMOTES, self.trace, hurried=hurried)
        return Deferred.fromCoroutine(opening)

    def accept(self) -> Link:
        """Let the TCP connection that was asked for come about; no byte moves yet."""
        factory: Any = self.reactor.tcpClients[-1][2]
        self.link = Link(factory.buildProtocol(PLACE), self.server.protocol)
        return self.link

    def go(self) -> None:
        """Move all bytes."""
        assert self.link is not None
        self.link.pump()

    def advance(self, seconds: float, step: float = 0.5) -> None:
        """Let time pass, moving bytes meanwhile."""
        for _ in range(round(seconds / step)):
            self.reactor.advance(step)
            self.go()

    def left_behind(self) -> list[str]:
        """What is there that should not be, once all is over."""
        left = [str(call) for call in self.reactor.getDelayedCalls()]
        if self.link is not None and not self.link._lost:
            left.append("the TCP connection")
        return left
