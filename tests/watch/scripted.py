"""An agent's side of a connection, by a script: what it says, byte by byte, whatever it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor as _reactor  # noqa: TID251 (real sockets need the real reactor)
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from pipeops_agent.secrets import Secret
from pipeops_agent.watch.client import AgentClient, Target

REACTOR: Any = _reactor
TOKEN = Secret("a-token-of-the-watch")


def answer(body: bytes, code: int = 200, kind: str = "application/json", **headers: str) -> bytes:
    """A whole answer, which ends with its connection."""
    lines = [f"HTTP/1.1 {code} Said", f"Content-Type: {kind}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def events(*texts: str) -> bytes:
    """The beginning of a stream of events."""
    return answer("".join(texts).encode(), kind="text/event-stream")


class _Player(Protocol):
    """Answers one request by the script's next entry."""

    factory: Script

    def __init__(self) -> None:
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        if b"\r\n\r\n" in self._received:
            self.factory.asked.append(self._received.decode())
            said, stays = self.factory.entries.pop(0)
            assert self.transport is not None
            self.transport.write(said)
            if not stays:
                self.transport.loseConnection()


class Script(Factory):
    """
    What is said to one request after the other, each on a connection of its own.

    @ivar asked: the requests.
    """

    noisy = False

    def __init__(self) -> None:
        self.entries: list[tuple[bytes, bool]] = []
        self.asked: list[str] = []

    def then(self, said: bytes, *, stays: bool = False) -> Script:
        """Say this to the next request; C{stays}: and leave the connection open."""
        self.entries.append((said, stays))
        return self

    # It makes no other protocols.
    def buildProtocol(self, addr: object) -> _Player:  # type: ignore[override]
        player = _Player()
        player.factory = self
        return player


class Socket(WebSocketServerProtocol):
    """Answers each message by what a function makes of it."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N802, N803 (Autobahn's names)
        message = msgspec.json.decode(payload)
        self.factory.asked.append(message)
        for reply in self.factory.reply(message):
            if reply is None:
                self.dropConnection(abort=False)
            else:
                self.sendMessage(reply if isinstance(reply, bytes) else msgspec.json.encode(reply))

    def onConnect(self, request: Any) -> None:  # noqa: N802 (Autobahn's name)
        self.factory.seen_headers = request.headers


def socket_factory(reply: Callable[[Any], list[Any]]) -> Any:
    """A server of WebSockets; C{asked} has the messages, C{seen_headers} the last request's."""
    factory: Any = WebSocketServerFactory(reactor=REACTOR)
    factory.protocol = Socket
    factory.reply = reply
    factory.asked = []
    factory.noisy = False
    return factory


class WatchCase(TestCase):
    """A watch and a scripted agent, on loopback."""

    timeout = 30

    def serve(self, factory: Any) -> str:
        """Listen; return the URL."""
        port = REACTOR.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"http://127.0.0.1:{port.getHost().port}"

    def client(self, url: str, token: Secret | None = TOKEN) -> AgentClient:
        client = AgentClient(REACTOR, Target(url=url, token=token))
        self.addCleanup(lambda: Deferred.fromCoroutine(client.connector.close()))
        return client
