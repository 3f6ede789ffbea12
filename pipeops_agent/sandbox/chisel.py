"""The chisel server: sessions over WebSockets of a site that answers ordinary HTTP on the same port."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.application.service import MultiService
from twisted.conch.ssh import keys
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IListeningPort
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from pipeops_agent.sandbox import faults
from pipeops_agent.sandbox.bindings import Bound, Grant
from pipeops_agent.sandbox.chisel_session import ChiselSession
from pipeops_agent.sandbox.serving import (
    HTML_PAGE,
    Answer,
    Fixed,
    IServerReactor,
    Listener,
    Never,
    QuietSite,
    Roll,
    Root,
)
from pipeops_agent.scheduling import Tasks
from pipeops_agent.secrets import Secret
from pipeops_agent.tunnel.carrier import PROTOCOL_OPTIONS, SUBPROTOCOL, ServerCarrier
from pipeops_agent.tunnel.relay import Relay
from pipeops_agent.tunnel.ssh.common import fingerprint

CONFIG_TIMEOUT: Final = 10.0
"""Seconds from the login to the configuration."""

PING_INTERVAL: Final = 25.0
"""Seconds between pings of the server's, and until one must be answered."""

VERSION: Final = "0.0.0-pipeops-sandbox"
"""What C{/version} says, in the form of chisel's own."""

Authenticate = Callable[[str, Secret], Grant | None]


def new_host_key() -> keys.Key:
    """A host key of chisel's kind: ECDSA P-256."""
    return keys.Key(ec.generate_private_key(ec.SECP256R1()))


class ChiselServer(MultiService):
    """
    Takes chisel clients, and binds their reverse forwards on one interface.

    It has no port of its own: its site (L{sites}) is put behind one, or L{serve} gives it one. Stopping ends
    every session, closes every port and resets every forwarded connection.

    @param authenticate: what a user and password allow; None: nothing.
    @param on_listening: told of each port once it is listened on.
    @param on_closed: told when it is so no more.
    """

    def __init__(
        self,
        reactor: IServerReactor,
        host_key: keys.Key,
        authenticate: Authenticate,
        box: faults.FaultBox,
        on_listening: Callable[[Bound], None],
        on_closed: Callable[[Bound], None],
        *,
        interface: str = "127.0.0.1",
        config_timeout: float = CONFIG_TIMEOUT,
        ping_interval: float = PING_INTERVAL,
    ) -> None:
        super().__init__()
        self.reactor = reactor
        self.box = box
        self.authenticate = authenticate
        self.opened = on_listening
        self.closed = on_closed
        self.interface = interface
        self.config_timeout = config_timeout
        self.ping_interval = ping_interval
        self.relays: Roll[Relay] = Roll()
        self.ports: Roll[IListeningPort] = Roll()
        self._sessions: Roll[ChiselSession] = Roll()
        self._key = host_key
        self._tasks = Tasks()
        self._upgrade = _UpgradeResource(_websocket_factory(reactor, self._new_carrier))
        box.watch(self._strike)

    @property
    def fingerprint(self) -> str:
        """The host key's, as chisel writes it."""
        return fingerprint(self._key.public().blob())

    @property
    def sessions(self) -> int:
        """How many clients are connected."""
        return len(self._sessions)

    def host_key(self, *, wrong: bool) -> keys.Key:
        """The server's key, or one made just now."""
        return new_host_key() if wrong else self._key

    # -- serving

    def plain_paths(self) -> Mapping[bytes, Resource]:
        """What chisel answers to ordinary HTTP."""
        plain = "text/plain; charset=utf-8"
        return {
            b"health": Fixed(Answer(body="OK\n", content_type=plain), self._tasks),
            b"version": Fixed(Answer(body=VERSION, content_type=plain), self._tasks),
        }

    def site(self, root: Resource) -> ChiselSite:
        """A site that takes chisel's clients, and has C{root} for everybody else."""
        return ChiselSite(self.reactor, root, self._resource_for_upgrade)

    def serve(self, port: int = 0) -> Listener:
        """Give the server a port of its own, on its interface; started and stopped with the server."""
        missing = Fixed(Answer(status=404, body="Not found", content_type="text/plain"), self._tasks)
        site = self.site(Root(self.plain_paths(), missing))
        listener = Listener(self.reactor, site, interface=self.interface, port=port)
        listener.setServiceParent(self)
        return listener

    def _resource_for_upgrade(self) -> IResource:
        refused = self.box.take(faults.RefuseUpgrade)
        if refused is not None:
            body, kind = "refused, as the sandbox was told\n", "text/plain"
            if refused.html:
                body, kind = HTML_PAGE, "text/html"
            return Fixed(Answer(status=refused.status, body=body, content_type=kind), self._tasks)
        if self.box.take(faults.Silent, lambda fault: fault.stage == "upgrade") is not None:
            return Never(self._tasks)
        return self._upgrade

    def _new_carrier(self) -> ServerCarrier:
        session = ChiselSession(self)
        self._sessions.enter(session)
        return session.carrier

    # -- sessions

    def ended(self, session: ChiselSession) -> None:
        """C{session}'s connection is gone."""
        self._sessions.leave(session)

    def drop_sessions(self, why: str) -> None:
        """Reset every session."""
        for session in self._sessions:
            session.abort(why)

    def _strike(self) -> None:
        """Strike the sessions that are up with what has just been switched on."""
        for session in self._sessions:
            if session.is_up and self.box.take(faults.Swallow) is not None:
                session.swallow()

    def stopService(self) -> Deferred[None]:
        """End everything; fires when nothing is left."""
        stopping = [super().stopService(), self._tasks.stop()]
        self.drop_sessions("the server is stopping")
        for relay in self.relays:
            relay.abort()
        stopping += [self._sessions.emptied(), self.relays.emptied(), self.ports.emptied()]
        return gatherResults(stopping, consumeErrors=True).addCallback(lambda _: None)


class ChiselSite(QuietSite):
    """
    Switches between chisel and ordinary HTTP by the request alone, whatever its path, as chisel does.

    @param resource_for_upgrade: who answers the next client's upgrade.
    """

    def __init__(
        self, reactor: IServerReactor, root: Resource, resource_for_upgrade: Callable[[], IResource]
    ) -> None:
        super().__init__(reactor, root)
        self._resource_for_upgrade = resource_for_upgrade

    def getResourceFor(self, request: Request) -> IResource:
        if asks_for_chisel(request):
            return self._resource_for_upgrade()
        resource: IResource = super().getResourceFor(request)
        return resource


def asks_for_chisel(request: Request) -> bool:
    """Whether C{request} wants a WebSocket of subprotocol C{chisel-v3}, and no other."""
    headers = request.requestHeaders
    upgrade = [value.lower() for value in headers.getRawHeaders("Upgrade", [])]
    protocols = headers.getRawHeaders("Sec-WebSocket-Protocol", [])
    return request.method == b"GET" and upgrade == ["websocket"] and protocols == [SUBPROTOCOL]


class _UpgradeResource(WebSocketResource):
    """Hands the TCP connection to the carrier."""

    def render(self, request: Any) -> Any:
        # The HTTP channel paces the connection as its producer. From here on the carrier does.
        request.channel.transport.unregisterProducer()
        return super().render(request)


def _websocket_factory(reactor: Any, make: Callable[[], ServerCarrier]) -> Any:
    """
    @param reactor: Autobahn wants it whole, and uses its time only.
    """
    factory: Any = WebSocketServerFactory(protocols=[SUBPROTOCOL], server="pipeops-sandbox", reactor=reactor)
    factory.noisy = False
    factory.setProtocolOptions(**PROTOCOL_OPTIONS)
    factory.protocol = make
    return factory
