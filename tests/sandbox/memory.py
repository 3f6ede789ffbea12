"""What the sandbox's tests share: HTTP requests, and a small chisel client, without sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect

from pipeops_agent.sandbox.serving import QuietSite
from pipeops_agent.secrets import Secret
from pipeops_agent.tunnel.carrier import CarrierLost, ClientCarrier, client_factory
from pipeops_agent.tunnel.remotes import Remote, config_payload
from pipeops_agent.tunnel.ssh.auth import PasswordAuthClient
from pipeops_agent.tunnel.ssh.channel import Channel
from pipeops_agent.tunnel.ssh.client import ChiselClientTransport
from pipeops_agent.tunnel.ssh.common import RekeyPolicy, SSHError
from pipeops_agent.tunnel.ssh.connection import ConnectionLayer, OpenRequest
from pipeops_agent.tunnel.ssh.windows import Windows

TOKEN = Secret("a token that only tests know")
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PEER = IPv4Address("TCP", "127.0.0.1", 54321)


def wall() -> datetime:
    return NOW


class Reactor(MemoryReactorClock):
    """A memory reactor on which some ports are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: set[int] = set()

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:  # noqa: N802 - Twisted's name
        if port in self.taken:
            raise CannotListenError(interface, port, OSError("taken"))
        return super().listenTCP(port, factory, backlog, interface)

    def factory_of(self, port: int) -> Any:
        """What listens on C{port}."""
        return next(factory for number, factory, *_ in reversed(self.tcpServers) if number == port)


class Response:
    """An HTTP answer, parsed."""

    def __init__(self, wire: bytes) -> None:
        head, _, self.body = wire.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split(" ")[1])
        self.headers = {line.split(":", 1)[0].lower(): line.split(":", 1)[1].strip() for line in lines}

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Exchange:
    """One connection to a site, and what has come back on it."""

    def __init__(self, site: QuietSite) -> None:
        self._gone = False
        self.transport = StringTransport(peerAddress=PEER)
        self.protocol = site.buildProtocol(PEER)
        self.protocol.makeConnection(self.transport)

    def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Exchange:
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in ({"Host": "127.0.0.1"} | dict(headers or {})).items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.protocol.dataReceived("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return self

    @property
    def answered(self) -> bool:
        return bool(self.transport.value())

    @property
    def response(self) -> Response:
        return Response(self.transport.value())

    @property
    def was_reset(self) -> bool:
        return self.transport.disconnected

    def close(self, reason: Exception | None = None) -> None:
        """The client goes; said again it changes nothing."""
        if not self._gone:
            self._gone = True
            self.protocol.connectionLost(Failure(reason or ConnectionDone()))


def ask(
    site: QuietSite, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Response:
    """The answer to one request."""
    exchange = Exchange(site).send(method, path, headers, body)
    exchange.close()
    return exchange.response


class Echo:
    """A channel's end that sends back whatever comes."""

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.received = b""
        self.ended = self.closed = False

    def data_received(self, data: bytes | memoryview) -> None:
        assert self.channel is not None
        self.received += data
        self.channel.write(data)
        self.channel.consumed(len(data))

    def eof_received(self) -> None:
        assert self.channel is not None
        self.ended = True
        self.channel.write_eof()

    def channel_closed(self, lost: bool) -> None:
        self.closed = True

    def pause_writing(self) -> None:
        """Echoes are small."""

    def resume_writing(self) -> None:
        """Echoes are small."""


class ChiselClient:
    """
    A chisel client that goes as far as it is let, and remembers how far that was.

    @ivar steps: what was passed of C{upgrade}, C{ssh}, C{login}, C{config}.
    @ivar problem: why it went no further.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        remotes: tuple[Remote, ...] = (),
        user: str = "user",
        password: str = "password",
        fingerprint: str | None = None,
        config: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.steps: list[str] = []
        self.problem: str | None = None
        self.lost: str | None = None
        self.refuses_channels = False
        self.answers_pings = True
        self.channels: list[tuple[bytes, bytes, Echo]] = []
        self.pings = 0
        self.pongs: list[bytes] = []
        self._login = PasswordAuthClient(user, Secret(password))
        self._config = config or (b"config", config_payload(remotes, "test"))
        self.connection = ConnectionLayer(self, windows=Windows.fixed(65536), max_channels=10)
        self.transport = ChiselClientTransport(clock, self, RekeyPolicy(1 << 30, 3600.0), fingerprint)
        self.carrier = ClientCarrier(clock, self.transport, self)
        self.factory = client_factory(clock, "ws://127.0.0.1:80/", "PipeOps-Agent/test", lambda: self.carrier)

    def ping(self) -> None:
        self.connection.request(b"ping").addCallbacks(self.pongs.append, lambda _: None)

    def carrier_open(self) -> None:
        self.steps.append("upgrade")

    def carrier_pong(self) -> None:
        self.pongs.append(b"frame")

    def carrier_lost(self, error: CarrierLost) -> None:
        self.lost = str(error)

    def ssh_secure(self) -> None:
        self.steps.append("ssh")
        self.transport.requestService(self._login)
        self._login.done.addCallbacks(self._logged_in, self._failed)

    def ssh_ended(self, error: SSHError) -> None:
        self.problem = self.problem or str(error)

    def _logged_in(self, _: None) -> None:
        self.steps.append("login")
        self.transport.setService(self.connection)
        if self._config[0]:
            self.connection.request(*self._config).addCallbacks(self._configured, self._failed)

    def _configured(self, answer: bytes) -> None:
        self.steps.append("config")

    def _failed(self, failure: Failure) -> None:
        self.problem = failure.getErrorMessage()

    def channel_requested(self, request: OpenRequest) -> None:
        if self.refuses_channels:
            request.refuse(1, "not here")
            return
        echo = Echo()
        echo.channel = request.accept(echo)
        self.channels.append((request.kind, request.extra, echo))

    def global_requested(self, name: bytes, payload: bytes) -> bytes | None:
        self.pings += name == b"ping"
        return b"pong" if name == b"ping" else None


def join(reactor: Reactor, server_factory: Any, client_protocol: Any) -> IOPump:
    """Connect C{client_protocol} to what C{server_factory} builds; pump by hand."""
    server = server_factory.buildProtocol(PEER)
    pump: IOPump = connect(
        server,
        FakeTransport(server, isServer=True),
        client_protocol,
        FakeTransport(client_protocol, isServer=False),
        clock=reactor,
    )
    return pump
