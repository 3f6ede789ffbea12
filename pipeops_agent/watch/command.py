"""One command over the WebSocket: what it writes, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast
from urllib.parse import urlsplit

import msgspec
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.python.failure import Failure

from pipeops_agent.net import ConnectProblem
from pipeops_agent.scheduling import DeadlineExceeded, bounded
from pipeops_agent.watch.client import PATIENCE, AgentClient, Lost, Refused, WatchError

MAX_MESSAGE: Final = 4 * 1024 * 1024
"""Bytes of one message from the agent."""

REQUEST: Final = "1"
"""The id of the one message that is sent."""

_OPTIONS: Final[Mapping[str, Any]] = {
    "maxFramePayloadSize": MAX_MESSAGE,
    "maxMessagePayloadSize": MAX_MESSAGE,
    # Autobahn's timers would run on the global reactor.
    "openHandshakeTimeout": 0,
    "closeHandshakeTimeout": 0,
    "serverConnectionDropTimeout": 0,
    "autoPingInterval": 0,
    "autoPingTimeout": 0,
}


class Message(msgspec.Struct, frozen=True):
    """A message from the agent."""

    type: str
    data: dict[str, Any] = {}
    id: str | None = None


async def send_command(
    client: AgentClient, command: Mapping[str, Any], show: Callable[[Message], None]
) -> bool:
    """
    Send a command, let C{show} have what comes of it, and wait for its end.

    @return: whether it has succeeded.
    @raise WatchError: it could not be sent, or how it ended is not known.
    """
    parts = urlsplit(client.target.url)
    secure = parts.scheme == "https"
    factory: Any = WebSocketClientFactory(
        f"{'wss' if secure else 'ws'}://{parts.netloc}/ws",
        headers=client.target.headers(),
        useragent="pipeops-agent-watch",
        reactor=client.reactor,
    )
    factory.setProtocolOptions(**_OPTIONS)
    factory.noisy = False
    socket = _Socket(show)
    factory.protocol = lambda: socket
    port = parts.port or (443 if secure else 80)
    endpoint = client.connector.endpoint(
        parts.hostname or "", port, tls=client.target.tls if secure else None
    )
    try:
        await endpoint.connect(cast(IProtocolFactory, factory))
        await bounded(client.reactor, PATIENCE, socket.opened, "the answer to the upgrade")
    except CancelledError:
        raise
    except ConnectProblem as problem:
        raise Lost(problem.sentence) from None
    except DeadlineExceeded as late:
        raise Lost(f"{client.target.url}: {late}") from None
    socket.send({"type": "command", "id": REQUEST, "data": command})
    try:
        return await socket.done
    finally:
        socket.hang_up()


class _Socket(WebSocketClientProtocol):
    """The connection, for one command."""

    def __init__(self, show: Callable[[Message], None]) -> None:
        super().__init__()
        self._show = show
        self.opened: Deferred[None] = Deferred()
        self.done: Deferred[bool] = Deferred()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message."""
        self.sendMessage(msgspec.json.encode(message))

    def hang_up(self) -> None:
        """Close: whatever still runs for this connection is cancelled by that."""
        if self.transport is not None:
            self.transport.loseConnection()

    def onOpen(self) -> None:
        self.opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N802, N803 (Autobahn's names)
        try:
            message = msgspec.json.decode(payload, type=Message)
        except msgspec.DecodeError:
            self._fail(WatchError("what answers at /ws is no agent"))
            return
        if message.id != REQUEST or self.done.called:
            return
        self._show(message)
        if message.type == "command_response":
            self.done.callback(bool(message.data.get("success")))
        elif message.type == "error":
            self._fail(WatchError(f"{message.data.get('code')}: {message.data.get('message')}"))
        elif message.type == "cancelled":
            self._fail(WatchError("the command was cancelled"))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: N802, N803 (the same)
        status = getattr(self, "http_status_line", "")  # Autobahn's, where an answer has come
        if status and " 101 " not in status:
            self._fail(Refused(0, f"/ws is not open to you: {status}"))
        else:
            self._fail(Lost(f"the connection ended: {reason or code}; how the command ended is not known"))

    def _fail(self, error: WatchError) -> None:
        waiting = self.opened if not self.opened.called else self.done
        if not waiting.called:
            waiting.errback(Failure(error))
