"""
One connection of a WebSocket (RFC 6455), the server's side.

Autobahn answers the upgrade, reads, and closes; what is sent goes to the socket past it, in frames made
before. Its timers are off, since they run on the global reactor.

There are two ways out. L{Wire.write} is for what may be lost: it is called only while the connection takes
more (its owner is told), so at most one piece waits behind the 64 KiB at which Twisted pauses. What
L{Wire.send} is given is never lost: it waits, up to a limit, and what would go beyond that closes the
connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress_deflate import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.types import ConnectionRequest
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pipeops_agent.net.websocket import SilentLog, protocol_options
from pipeops_agent.tunnel.prompt import Write, prompt_writer
from pipeops_agent.web.channel import SERVER

_log = Logger(namespace="web")

MAX_MESSAGE: Final = 1024 * 1024
"""The longest message that is accepted, in bytes, in however many frames, and after decompression."""

MAX_WAITING: Final = 1024 * 1024
"""Bytes of answers that may wait for a client that does not read them."""

PIECE: Final = 4096
"""Bytes that are looked at at once, so that who sends a thousand frames in them is soon read more slowly."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds that the client has to answer a close frame, and to read what was sent before it."""

GOING_AWAY: Final = 1001
UNSUPPORTED_DATA: Final = 1003
POLICY_VIOLATION: Final = 1008
INTERNAL_ERROR: Final = 1011
TRY_AGAIN_LATER: Final = 1013


class WireOwner(Protocol):
    """Who is told of a connection's life."""

    def wire_open(self) -> None:
        """The upgrade has succeeded."""

    def wire_frame(self) -> None:
        """A frame begins: of a message, a ping, whatever. It may L{Wire.hold} the connection."""

    def wire_message(self, payload: bytes, *, binary: bool) -> None:
        """A message has come; text is valid UTF-8."""

    def wire_full(self) -> None:
        """The connection takes no more for now."""

    def wire_free(self) -> None:
        """It does again."""

    def wire_lost(self) -> None:
        """It is gone; said once."""


@implementer(IPushProducer)
class Wire(WebSocketServerProtocol):
    """
    A connection.

    @ivar full: it takes no more for now.
    @ivar deflates: the client has agreed to compressed messages.
    @ivar unanswered: pings sent since the last answer.
    """

    log = SilentLog()
    transport: Any
    _perMessageCompress: Any
    message_data: list[Any]

    def __init__(self, clock: IReactorTime, owner: WireOwner) -> None:
        super().__init__()
        self._clock = clock
        self._owner = owner
        self._cut: IDelayedCall | None = None
        self._write: Write
        self._waiting: deque[bytes] = deque()
        self._unsaid_pong: bytes | None = None
        self._unread = b""
        self._holds = 0
        self._reading = False
        self._stopped = False
        self._lost = False
        self.waiting_bytes = 0
        self.full = False
        self.unanswered = 0

    # -- what is done with it

    @property
    def usable(self) -> bool:
        """Whether messages may still be sent."""
        return bool(self.state == self.STATE_OPEN) and not self._lost

    @property
    def deflates(self) -> bool:
        return self._perMessageCompress is not None

    def write(self, data: bytes) -> None:
        """Send frames that may be lost. To be called only while not L{full}."""
        if self.usable:
            self._write(data)

    def send(self, frame: bytes) -> None:
        """Send a frame that must not be lost; where too much waits, the connection is closed instead."""
        if not self.usable:
            return
        if not (self.full or self._waiting):
            self._write(frame)
        elif self.waiting_bytes + len(frame) > MAX_WAITING:
            _log.debug("a client that does not read its answers is closed", client=self.peer)
            self._forget_waiting()
            self.close(TRY_AGAIN_LATER, "answers are not read")
        else:
            self._waiting.append(frame)
            self.waiting_bytes += len(frame)

    def ping(self) -> None:
        """Send a ping."""
        if self.usable:
            self.unanswered += 1
            self.sendPing()

    def close(self, code: int, reason: str) -> None:
        """Close, after what waits; cut where the client does not go along in time."""
        if not self.usable:
            return
        for frame in self._waiting:
            self._write(frame)
        self._forget_waiting()
        self.sendCloseFrame(code=code, reasonUtf8=reason.encode())
        self._cut_soon()

    def abort(self) -> None:
        """Cut at once."""
        if not self._lost:
            self.transport.abortConnection()

    def hold(self) -> None:
        """Read no more, until L{release} has been called as often."""
        self._holds += 1
        if not (self._stopped or self._lost):
            self._stopped = True
            self.transport.pauseProducing()

    def release(self) -> None:
        """Take back one L{hold}."""
        self._holds -= 1
        self._read()

    @property
    def held(self) -> bool:
        """Whether nothing is read: an answer to a ping could not have come."""
        return self._holds > 0

    def wind_up(self) -> None:
        """What the site asks for at a stop; mostly it is closed already."""
        self.close(GOING_AWAY, "the agent stops")

    # -- what Twisted calls

    def dataReceived(self, data: bytes) -> None:
        self._unread += data
        self._read()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # no default here
        self._lost = True
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None
        self._forget_waiting()
        try:
            super().connectionLost(reason)
        finally:
            self._owner.wire_lost()

    def pauseProducing(self) -> None:
        self.full = True
        self._owner.wire_full()

    def resumeProducing(self) -> None:
        self.full = False
        pong, self._unsaid_pong = self._unsaid_pong, None
        if pong is not None:
            self.sendPong(pong)
        while self._waiting and not self.full:
            frame = self._waiting.popleft()
            self.waiting_bytes -= len(frame)
            self._write(frame)
        if not self.full:
            self._owner.wire_free()

    def stopProducing(self) -> None:
        """The connection is gone; L{connectionLost} says so too."""

    # -- what Autobahn calls

    def onConnect(self, request: ConnectionRequest) -> None:
        """No subprotocol: there is one."""

    def onOpen(self) -> None:
        self._write = prompt_writer(self.transport)
        self.transport.registerProducer(self, True)
        self._owner.wire_open()

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)
        # One buffer for all pieces, in the place of a list: each of a million would weigh fifty bytes.
        self.message_data = [bytearray()]

    def onMessageFrameData(self, payload: bytes) -> None:
        if not self.failedByMe:
            self.message_data[0] += payload

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.deflates:
            self._perMessageCompress._decompressor = None  # 40 KB for which there is no use between messages
        if not self.usable:
            return
        try:
            self._owner.wire_message(bytes(payload), binary=isBinary)
        except Exception:
            _log.failure("a message could not be handled")
            self.close(INTERNAL_ERROR, "the agent failed; its log says why")

    def onPing(self, payload: bytes) -> None:
        # Of several that could not be answered the last one counts (section 5.5.3): who sends pings and reads
        # nothing must not fill the memory with answers.
        if self.full:
            self._unsaid_pong = payload
        elif self.state == self.STATE_OPEN:
            self.sendPong(payload)

    def onPong(self, payload: bytes) -> None:
        self.unanswered = 0

    def onFrameBegin(self) -> None:
        self._owner.wire_frame()
        super().onFrameBegin()

    def _read(self) -> None:
        """Look at what has come, piece by piece, unless something holds it up; then read on."""
        if self._reading:
            return  # called from the middle of a piece
        self._reading = True
        try:
            while self._unread and not (self.held or self._lost):
                piece, self._unread = self._unread[:PIECE], self._unread[PIECE:]
                super().dataReceived(piece)
        finally:
            self._reading = False
        if self._stopped and not (self.held or self._lost):
            self._stopped = False
            self.transport.resumeProducing()
        if self.state != self.STATE_OPEN:
            self._cut_soon()

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self.waiting_bytes = 0

    def _cut_soon(self) -> None:
        if self._cut is None and not self._lost:
            self._cut = self._clock.callLater(CLOSE_TIMEOUT, self._cut_off)

    def _cut_off(self) -> None:
        self._cut = None
        self.abort()


def wire_factory(reactor: Any, *, max_message: int = MAX_MESSAGE) -> Callable[[WireOwner], Wire]:
    """
    Return what makes connections.

    @param reactor: Autobahn wants it whole; no timer of its own is on.
    @param max_message: bytes.
    """
    factory: Any = WebSocketServerFactory(server=SERVER, reactor=reactor)
    factory.log = SilentLog()
    factory.noisy = False
    options = protocol_options(max_message) | {"failByDrop": False}
    factory.setProtocolOptions(**options, echoCloseCodeReason=True, perMessageCompressionAccept=_accept)

    def make(owner: WireOwner) -> Wire:
        wire = Wire(reactor, owner)
        wire.factory = factory
        return wire

    return make


def _accept(offers: list[PerMessageDeflateOffer]) -> PerMessageDeflateOfferAccept:
    """Compress without context, both ways (RFC 7692, 7.1.1): L{check_upgrade} has seen to what is offered."""
    return PerMessageDeflateOfferAccept(offers[0], request_no_context_takeover=True, no_context_takeover=True)
