"""The site with connections in memory, for the tests of this room."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http.client import HTTPResponse
from typing import Any

import msgspec
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.build import describe
from pipeops_agent.caller import Grant
from pipeops_agent.cluster.api import LiveApi
from pipeops_agent.cluster.errors import Misconfigured
from pipeops_agent.cluster.transport import Transport as KubernetesTransport
from pipeops_agent.entrance import Entrance
from pipeops_agent.events import EventHub
from pipeops_agent.health import HealthCheck, Registry, standard_checks
from pipeops_agent.log import Redactor
from pipeops_agent.metrics import Metrics
from pipeops_agent.secrets import Secret
from pipeops_agent.settings import Settings
from pipeops_agent.settings.model_server import ServerSettings, ServerToken
from pipeops_agent.status import StatusBoard
from pipeops_agent.tokens import SettingsToken, TokenSource
from pipeops_agent.web.access import Access
from pipeops_agent.web.channel import AgentChannel
from pipeops_agent.web.routes import Route
from pipeops_agent.web.site import AgentSite, build_site

TOKEN = "pk_live-9f8E7d6C5b4A3z2Y1x"
START = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)


class Limits(msgspec.Struct):
    """What the settings say about connections."""

    max_connections: int = 5
    request_timeout: float = 30.0
    idle_timeout: float = 60.0


def no_cluster() -> KubernetesTransport:
    raise Misconfigured("no cluster is configured")


def entrance(
    clock: IReactorTime,
    board: StatusBoard,
    tokens: TokenSource,
    server: Callable[[], ServerSettings] = ServerSettings,
) -> Entrance:
    """Where there is no cluster."""
    return Entrance(
        clock,
        lambda: Settings(server=server()),
        board,
        control_plane=tokens,
        api=LiveApi(no_cluster),
        home=lambda: "pipeops-system",
        hub=EventHub(lambda: START),
        redactor=Redactor(),
    )


def one_token(clock: IReactorTime, board: StatusBoard) -> Access:
    """Knows L{TOKEN}, as the control plane's."""
    return entrance(clock, board, SettingsToken(Secret(TOKEN))).access


class Transport(StringTransport):
    """A connection in memory, which loses itself when all was read, or when it is aborted."""

    def __init__(self, peer: IPv4Address, *, reads: bool = True) -> None:
        super().__init__(peerAddress=peer)
        self.reads = reads
        self.lost = False
        self.half_closed = False
        self.protocol: AgentChannel | None = None

    def pauseProducing(self) -> None:
        if not self.lost:
            super().pauseProducing()

    def resumeProducing(self) -> None:
        if not self.lost:
            super().resumeProducing()

    def loseConnection(self) -> None:
        super().loseConnection()
        if self.reads:
            self.end()

    def loseWriteConnection(self) -> None:
        """Nothing more is written; what comes is still read, as TCP does it."""
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborting = True
        self.end()

    def end(self) -> None:
        """The connection is gone."""
        if not self.lost:
            self.lost = True
            assert self.protocol is not None
            self.protocol.connectionLost(Failure(ConnectionDone()))


class Answer:
    """One response, parsed by another implementation of HTTP."""

    def __init__(self, response: HTTPResponse, body: bytes) -> None:
        self.code = response.status
        self.reason = response.reason
        self.headers = response.headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _Received(io.BytesIO):
    """What was received: what C{HTTPResponse} takes for a socket, and for the file that it makes of one."""

    def makefile(self, mode: str) -> io.BytesIO:
        return self

    def close(self) -> None:
        """Each response closes its file; the next one is in it as well."""


class Client:
    """The client's side of one connection."""

    def __init__(self, clock: Clock, transport: Transport, channel: AgentChannel) -> None:
        self._clock = clock
        self.transport = transport
        self.channel = channel

    def send(self, data: bytes, *, turns: bool = True) -> None:
        """
        Send C{data}, unless the connection is gone.

        @param turns: let the reactor turn, until all that can be answered has been.
        """
        if not self.transport.lost:
            self.channel.dataReceived(data)
            if turns:
                self._clock.advance(0)

    def answers(self, *methods: str) -> list[Answer]:
        """All responses since the last call, to requests of these methods (GET where none is named)."""
        received = _Received(self.transport.value())
        self.transport.clear()
        found: list[Answer] = []
        names = list(methods)
        while received.tell() < len(received.getvalue()):
            # All that it wants of a socket is makefile.
            response = HTTPResponse(received, method=names.pop(0) if names else "GET")  # type: ignore[arg-type]
            response.begin()
            found.append(Answer(response, received.read(response.length or 0)))
        return found

    @property
    def lost(self) -> bool:
        return self.transport.lost


class SiteCase(SynchronousTestCase):
    """A site on a clock, without sockets."""

    limits = Limits()

    def setUp(self) -> None:
        self.clock = self.make_clock()
        self.events_hub = EventHub(self.wall)
        self.board = StatusBoard(self.events_hub, self.wall)
        self.checks: Registry[HealthCheck] = standard_checks()
        self.tokens = SettingsToken(Secret(TOKEN))
        self.server = ServerSettings(allow_plaintext_tokens=True)
        self.entrance = entrance(self.clock, self.board, self.tokens, lambda: self.server)
        self.access = self.entrance.access
        self.metrics = Metrics(self.board, self.wall, describe("1.2.3", None))
        self.clients: list[Client] = []
        self.site = self.build()
        self.addCleanup(self.leaves_nothing)

    def make_clock(self) -> Clock:
        return Clock()

    def let_in(self, *scopes: str, token: str = TOKEN) -> None:
        """Let a token, and no other, have these scopes from now on."""
        grants = tuple(map(Grant.parse, scopes))
        tokens = (ServerToken(name="tester", token=Secret(token), scopes=grants),)
        self.server = msgspec.structs.replace(self.server, tokens=tokens)
        self.entrance.reconfigure()

    def wall(self) -> datetime:
        return START + timedelta(seconds=self.clock.seconds())

    def build(self, *more: Route) -> AgentSite:
        self.site = build_site(
            self.clock,
            self.board,
            self.checks,
            self.metrics,
            self.limits,
            self.wall,
            access=self.access,
            build=describe("1.2.3", None),
            more=more,
        )
        self.site.doStart()
        return self.site

    def leaves_nothing(self) -> None:
        """When all connections are gone, no timer is left."""
        for client in self.clients:
            client.transport.end()
        self.site.doStop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.site._channels), 0)

    def try_connect(self, *, reads: bool = True, peer: IPv4Address | None = None) -> Client | None:
        peer = peer or IPv4Address("TCP", "10.0.0.7", 40000 + len(self.clients))
        transport = Transport(peer, reads=reads)
        channel = self.site.buildProtocol(transport.getPeer())
        if channel is None:
            return None
        transport.protocol = channel
        channel.makeConnection(transport)
        client = Client(self.clock, transport, channel)
        self.clients.append(client)
        return client

    def connect(self, *, reads: bool = True, peer: IPv4Address | None = None) -> Client:
        client = self.try_connect(reads=reads, peer=peer)
        assert client is not None
        return client

    def ask(
        self, path: str, method: str = "GET", body: bytes = b"", *, patience: float = 0.0, **headers: str
    ) -> Answer:
        """One request on a connection of its own; its answer may take C{patience} seconds."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request(path, named, method=method, body=body, patience=patience)

    def request(
        self,
        path: str,
        headers: Mapping[str, str],
        *,
        method: str = "GET",
        body: bytes = b"",
        patience: float = 0.0,
        peer: IPv4Address | None = None,
    ) -> Answer:
        """The same, with headers as they are named."""
        client = self.connect(peer=peer)
        lines = [f"{method} {path} HTTP/1.1", "Host: agent"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        client.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        self.clock.advance(patience)
        (answer,) = client.answers(method)
        client.transport.end()
        return answer

    def counted(self) -> dict[tuple[str, str, str], float]:
        """The requests counted, by method, endpoint and code."""
        (family,) = (f for f in self.metrics.registry.collect() if f.name == "pipeops_http_requests")
        return {(s.labels["method"], s.labels["endpoint"], s.labels["code"]): s.value for s in family.samples}
