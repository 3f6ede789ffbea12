"""The WebSocket side of the fake API server: one connection at a time, in memory, led by the test."""

from __future__ import annotations

import json
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionRequest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Protocol

from pipeops_agent.net import ClientTLS
from pipeops_agent.net.websocket import SilentLog, protocol_options
from tests.tunnel.rig import PLACE, Link


class FakeSocket(WebSocketServerProtocol):
    """
    The server's end of one WebSocket.

    @ivar speaks: its subprotocols, the best first.
    @ivar got: the messages that have come.
    """

    log = SilentLog()

    def __init__(self, speaks: tuple[str, ...]) -> None:
        super().__init__()
        self.speaks = speaks
        self.asked: ConnectionRequest | None = None
        self.got: list[bytes] = []
        self.pings = 0
        self.pongs: list[bytes] = []

    def onConnect(self, request: ConnectionRequest) -> str | None:  # noqa: N802  # Autobahn's name
        self.asked = request
        return next((name for name in self.speaks if name in request.protocols), None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N802, N803  # Autobahn's names
        self.got.append(payload)

    def onPing(self, payload: bytes) -> None:  # noqa: N802  # Autobahn's name
        self.pings += 1
        self.sendPong(payload)

    def onPong(self, payload: bytes) -> None:  # noqa: N802  # Autobahn's name
        self.pongs.append(payload)

    def send(self, channel: int, data: bytes) -> None:
        """Send C{data} on a channel."""
        self.sendMessage(bytes((channel,)) + data, isBinary=True)

    def status(self, **status: Any) -> None:
        """Send a final status on the error channel."""
        self.send(3, json.dumps({"metadata": {}, **status}).encode())

    def exit(self, code: int) -> None:
        """Say that the command has ended."""
        if code == 0:
            self.status(status="Success")
            return
        self.status(
            status="Failure",
            reason="NonZeroExitCode",
            message=f"command terminated with non-zero exit code: {code}",
            details={"causes": [{"reason": "ExitCode", "message": str(code)}]},
        )


class Scripted(Protocol):
    """Answers what comes with bytes of the test's."""

    def __init__(self, answer: bytes) -> None:
        self.request = b""
        self._answer = answer

    def dataReceived(self, data: bytes) -> None:
        self.request += data
        if b"\r\n\r\n" in self.request and self._answer:
            answer, self._answer = self._answer, b""
            assert self.transport is not None
            self.transport.write(answer)


class FakeEndpoints:
    """
    Leads to a fresh L{FakeSocket} each time; or to where a test wants.

    @ivar speaks: the subprotocols of the next one.
    @ivar answers: raw answers instead of an upgrade, one for each of the next connections.
    @ivar problem: why there is no connection.
    @ivar hang: connecting never ends.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self.speaks: tuple[str, ...] = ("v5.channel.k8s.io", "v4.channel.k8s.io")
        self.answers: list[bytes] = []
        self.problem: Exception | None = None
        self.hang = False
        self.links: list[Link] = []
        self.places: list[tuple[str, int, ClientTLS | None]] = []

    def endpoint(self, host: str, port: int, *, tls: ClientTLS | None = None) -> Any:
        self.places.append((host, port, tls))
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        if self.hang:
            return Deferred()
        if self.problem is not None:
            return fail(self.problem)
        client = factory.buildProtocol(PLACE)
        server: Any = Scripted(self.answers.pop(0)) if self.answers else self._server()
        self.links.append(Link(client, server))
        return succeed(client)

    def _server(self) -> Any:
        server = FakeSocket(self.speaks)
        factory: Any = WebSocketServerFactory("ws://192.0.2.9:80", reactor=self._clock)
        factory.setProtocolOptions(**protocol_options(1 << 24))
        factory.log = SilentLog()
        factory.protocol = lambda: server
        return factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
