"""
One WebSocket to the API server (RFC 6455): whole messages, pulled and pushed back.

Autobahn speaks it; its own timers are off. What nobody reads pauses the connection, so the server waits;
what the connection does not take makes L{ApiSocket.send} wait.
"""

from __future__ import annotations

from typing import Any, Final

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.types import ConnectionResponse
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from pipeops_agent.cluster.errors import ClusterError, Unreachable, printable, status_error
from pipeops_agent.net.websocket import SilentLog, protocol_options

MAX_MESSAGE: Final = 1024 * 1024
"""The longest message accepted, in bytes; the API server sends up to 32 KiB."""

MAX_HANDSHAKE: Final = 64 * 1024
"""The most bytes that the answer to the upgrade may have."""

HIGH_WATER: Final = 256 * 1024
"""Bytes of messages that may wait to be read before the connection is paused."""

PING: Final = 30.0
"""Seconds between two pings; a connection on which nothing came for two of them is dead."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that the server has to answer a close frame before the connection is cut."""


class SocketClosed(Exception):
    """
    No message comes any more; the text says why.

    @ivar clean: the server has closed it by a close frame.
    """

    def __init__(self, sentence: str, *, clean: bool) -> None:
        super().__init__(sentence)
        self.clean = clean


@implementer(IPushProducer)
class ApiSocket(WebSocketClientProtocol):
    """
    A client's end.

    @param what: names the call in errors: "exec in shop/web-1".
    @ivar opened: fires when the upgrade has succeeded; with a L{ClusterError} where it was refused.
    """

    log = SilentLog()

    transport: Any  # whichever connection it is, it can be paused, aborted and told of a producer

    def __init__(self, clock: IReactorTime, what: str) -> None:
        super().__init__()
        self._clock = clock
        self._what = what
        self._timer: IDelayedCall | None = None
        self._messages: list[bytes] = []
        self._size = 0
        self._waiting: Deferred[list[bytes]] | None = None
        self._end: SocketClosed | None = None
        self._refusing = self._paused = self._full = self._closing = False
        self._room: list[Deferred[None]] = []
        self._unanswered: bytes | None = None
        self._problem = ""
        self._last = 0.0
        self.subprotocol = ""
        self.opened: Deferred[None] = Deferred(lambda _: self.abort("given up"))

    # -- what Twisted and Autobahn call

    def dataReceived(self, data: bytes) -> None:
        self._last = self._clock.seconds()
        if self._refusing:
            self.data += data
            self._refuse()
            return
        try:
            super().dataReceived(data)
        except Exception:  # Autobahn's parser of the handshake raises on what is no HTTP, among others
            self.abort("what the server sends is no WebSocket")
            return
        if not self.opened.called and len(self.data) > MAX_HANDSHAKE:
            self.abort("the answer to the upgrade does not end")

    def onConnect(self, response: ConnectionResponse) -> None:
        self.subprotocol = response.protocol or ""

    def onOpen(self) -> None:
        self.transport.registerProducer(self, True)
        self._timer = self._clock.callLater(PING, self._tick)
        self.opened.callback(None)

    def failHandshake(self, reason: str) -> None:
        """The answer to the upgrade is not one that was hoped for; its body says more."""
        self.wasNotCleanReason = reason
        self._refusing = True
        self._refuse()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if not isBinary:
            self.abort("the server sent text, where only binary messages are allowed")
        elif self._end is None and not self._closing:
            self._messages.append(payload)
            self._size += len(payload)
            if self._waiting is not None:
                waiting, self._waiting = self._waiting, None
                waiting.callback(self._take())
            elif self._size >= HIGH_WATER and not self._paused:
                self._paused = True
                self.transport.pauseProducing()

    def onPing(self, payload: bytes) -> None:
        if self._full:
            self._unanswered = payload  # the last one only (RFC 6455, section 5.5.3)
        else:
            self.sendPong(payload)

    def onCloseFrame(self, code: Any, reasonRaw: Any) -> Any:
        """The server ends it (section 5.5.1), and then the connection, soon (7.1.1)."""
        self._cut_soon()
        return super().onCloseFrame(code, reasonRaw)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timer()
        super().connectionLost(reason)
        if self._refusing:
            self._refuse(complete=True)
        clean = self.remoteCloseCode is not None and not self._problem and not self._closing
        ours = "it was closed by this side" if self._closing else ""
        sentence = self._problem or ours or self._farewell() or "the connection was lost"
        self._end = SocketClosed(sentence, clean=clean)
        if not self.opened.called:
            self.opened.errback(Unreachable(f"{self._what}: {sentence}", sent=True))
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(self._end)
        self._make_room()

    # -- what the connection calls: it takes no more, or more again

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        payload, self._unanswered = self._unanswered, None
        if payload is not None:
            self.sendPong(payload)
        self._make_room()

    def stopProducing(self) -> None:
        """The connection is gone; C{connectionLost} says so too."""

    # -- what the session calls

    def receive(self) -> Deferred[list[bytes]]:
        """
        The messages that have come since the last time, at least one.

        One at a time. Cancelling loses nothing.

        @raise SocketClosed: through the result, after the last message.
        """
        assert self._waiting is None or self._waiting.called, "one at a time"
        if self._messages:
            return succeed(self._take())
        if self._end is not None:
            return fail(self._end)
        self._resume()
        self._waiting = Deferred(self._forget)
        return self._waiting

    async def send(self, message: bytes) -> None:
        """
        Send one message, and wait until the connection takes more.

        @raise SocketClosed: it is gone.
        """
        self._check()
        if self.state != self.STATE_OPEN:
            raise SocketClosed("the server closes it", clean=False)
        self.sendMessage(message, isBinary=True)
        if self._full:
            room: Deferred[None] = Deferred(self._room.remove)
            self._room.append(room)
            await room
        self._check()

    def close(self) -> None:
        """Say goodbye; the connection is cut where that is not answered in time. What comes is dropped."""
        if self._end is not None or self._closing:
            return
        self._closing = True
        self._messages.clear()
        self._size = 0
        if self.transport is None:
            return
        if not self.opened.called:
            self.abort("given up")
            return
        self._cut_soon()
        self._resume()
        self.sendClose(1000)

    def abort(self, why: str) -> None:
        """Cut the connection at once."""
        self._problem = self._problem or why
        if self.transport is not None and self._end is None:
            self.transport.abortConnection()

    # -- within

    def _take(self) -> list[bytes]:
        messages, self._messages, self._size = self._messages, [], 0
        self._resume()
        return messages

    def _resume(self) -> None:
        if self._paused and self._end is None:
            self._paused = False
            self.transport.resumeProducing()

    def _forget(self, _: Deferred[list[bytes]]) -> None:
        self._waiting = None

    def _make_room(self) -> None:
        rooms, self._room = self._room, []
        for room in rooms:
            room.callback(None)

    def _check(self) -> None:
        if self._end is not None:
            raise self._end
        if self._closing:
            raise SocketClosed("it was closed by this side", clean=False)

    def _tick(self) -> None:
        """Ask whether the server is still there. While nobody reads, its answers are not read either."""
        self._timer = None
        if not self._paused and self._clock.seconds() - self._last >= 2 * PING:
            self.abort(f"the server has not answered for {2 * PING:.0f} s")
            return
        if not self._full:
            self.sendPing(b"")
        self._timer = self._clock.callLater(PING, self._tick)

    def _cut_soon(self) -> None:
        self._stop_timer()
        self._timer = self._clock.callLater(CLOSE_TIMEOUT, self._cut)

    def _cut(self) -> None:
        self._timer = None
        self.transport.abortConnection()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _farewell(self) -> str:
        """What the server's close frame says."""
        if self.remoteCloseCode is None:
            return str(self.wasNotCleanReason or "")
        said = printable(self.remoteCloseReason or "", 200)
        return f"the server closed it with code {self.remoteCloseCode}" + (f" ({said})" if said else "")

    def _refuse(self, *, complete: bool = False) -> None:
        """The upgrade was refused: wait for the body that says why, where its length is told."""
        head, _, body = self.data.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        code = status.split(" ")[1] if status.count(" ") else ""
        lengths = [line[15:].strip() for line in lines if line.lower().startswith("content-length:")]
        wanted = int(lengths[0][:9]) if lengths and lengths[0].isdigit() else 0
        if self.opened.called or (len(body) < wanted and len(self.data) < MAX_HANDSHAKE and not complete):
            return
        error: ClusterError
        if code.isdigit() and 300 <= int(code) < 600:
            error = status_error(self._what, int(code), body)
        else:
            said = printable(str(self.wasNotCleanReason), 200)
            error = Unreachable(f"{self._what}: the upgrade to a WebSocket failed: {said}", retryable=False)
        self.opened.errback(error)
        self.abort("the upgrade was refused")


def socket_factory(
    clock: Any, authority: str, target: str, protocols: list[str], headers: dict[str, str], make: Any
) -> Any:
    """
    A factory for one L{ApiSocket}.

    @param clock: the reactor; Autobahn wants it whole, uses its time only.
    @param authority: the host as URLs have it, and the port.
    @param target: path and query, quoted.
    """
    factory: Any = WebSocketClientFactory(
        f"wss://{authority}/", protocols=protocols, useragent=None, headers=headers, reactor=clock
    )
    factory.host = authority.rpartition(":")[0]  # Autobahn takes the brackets off an IPv6 address
    factory.resource = target
    factory.log = SilentLog()
    factory.noisy = False
    factory.setProtocolOptions(serverConnectionDropTimeout=0, **protocol_options(MAX_MESSAGE))
    factory.protocol = make
    return factory
