"""One client: what it may, what it has subscribed to, and what runs for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pipeops_agent.access.limits import Kind, Place
from pipeops_agent.caller import READ, Caller
from pipeops_agent.realtime import Encoding, Feed, Missed, Reader, Sink
from pipeops_agent.scheduling import Tasks
from pipeops_agent.web.presence import Presence
from pipeops_agent.web.replies import Refusal
from pipeops_agent.web.view import View
from pipeops_agent.web.websocket.messages import MessageError, decode, decode_data, encode
from pipeops_agent.web.websocket.running import Call, Running
from pipeops_agent.web.websocket.signing_in import SigningIn
from pipeops_agent.web.websocket.wire import (
    GOING_AWAY,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    UNSUPPORTED_DATA,
    Wire,
)

if TYPE_CHECKING:
    from pipeops_agent.web.websocket.hub import WebSocketHub

_log = Logger(namespace="web")

RATE: Final = 100.0
"""Frames of one client in a second, in the long run: beyond that it is read more slowly."""
BURST: Final = 200.0
"""Frames that may come at once after a silence."""
MAX_REASON: Final = 120
"""Characters of the reason of a close; they are ASCII, and 123 bytes is what fits (RFC 6455, 5.5)."""
MAX_HOLD: Final = 2.0
"""Seconds for which nothing is read from who sends too much."""


class Session:
    """
    A client's side of the hub; it owns its connection, and is where its events go.

    @ivar presence: its place, and who it is.
    @ivar channels: what it has subscribed to.
    """

    wire: Wire
    presence: Presence

    def __init__(self, hub: WebSocketHub) -> None:
        self._hub = hub
        self.channels: frozenset[str] = frozenset()
        self.running = Running(hub.total)
        self._events: Reader | None = None
        self._unseen: Reader | None = None
        self._tasks = Tasks()
        self._readers: dict[Reader, None] = {}
        self._waiters: deque[Deferred[None]] = deque()
        self._allowance = BURST
        self._counted = hub.clock.seconds()
        self._hold: IDelayedCall | None = None
        self._signing_in: SigningIn | None = None

    @property
    def caller(self) -> Caller:
        """Who it is; there is one as soon as messages are answered."""
        assert self.presence.caller is not None
        return self.presence.caller

    def hold(self, kind: Kind) -> Place:
        """
        A place for something that it asks for.

        @raise TooMany: there is none.
        """
        return self._hub.limits.hold(kind, self.presence.origin)

    # -- to the client

    def send(self, name: str, data: Any, request: str | None = None) -> None:
        """Send a message that is not lost."""
        if self.wire.usable:
            self.wire.send(self.framer()(encode(name, self._hub.wall(), data, request)))

    def framer(self) -> Callable[[bytes], bytes]:
        """What makes a message a frame for this client."""
        return self._hub.framer(self.wire.deflates)

    def send_state(self) -> None:
        """Say the present state; what can be done is for those who may see everything."""
        state = self._hub.state()
        if not self.caller.allows(READ):
            state = {**state, "features": {}}
        self.send("status", state)

    def ready(self) -> Deferred[None]:
        """
        Fire when the connection takes more: then one message goes out at once, however long it is. Cancelled
        when nobody waits for it.
        """
        if not self.wire.full:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        return waiter

    def tell_failure(self, failure: Failure, request: str | None) -> None:
        """Say that a message was not done as asked, and why."""
        if failure.check(MessageError):
            error = failure.value
            assert isinstance(error, MessageError)
            self.send("error", {"code": error.code, "message": str(error)}, request)
        else:
            _log.failure("a message could not be handled", failure=failure)
            message = "the agent failed; its log says why"
            self.send("error", {"code": "internal", "message": message}, request)

    def subscribe(self, channels: frozenset[str]) -> None:
        """Get the events of these channels, and of no others, from now on."""
        self.channels = channels
        if self._events is not None:
            self._events.channels = channels
        elif channels:
            form = self._hub.event_form(self.wire.deflates)
            view = self.presence.view
            if view is not None:
                form = view.narrow(form, self.missed)
            self._events = self.read(self._hub.events, self, channels, form)
            if view is None:
                self.begin(self._events)
            else:
                self._unseen = self._events
                self._tasks.spawn(self._look(view, self._events), "finding out what a caller sees")

    async def _look(self, view: View, reader: Reader) -> None:
        """Find out what is seen; until then nothing is told, and nothing is lost."""
        try:
            await view.look()
        except Refusal as refusal:
            self.dismiss(refusal)
            return
        self._unseen = None
        self.begin(reader)

    def read(
        self,
        feed: Feed,
        sink: Sink,
        channels: frozenset[str],
        encoding: Encoding,
        *,
        after: int | None = None,
    ) -> Reader:
        """Let C{sink} have a feed, from L{begin} on, until L{leave} or the end of the connection."""
        reader = feed.read(sink, channels, encoding, after=after)
        self._readers[reader] = None
        return reader

    def begin(self, reader: Reader) -> None:
        """Write to the sink of a L{read} whenever the connection takes more."""
        if not self.wire.full:
            reader.resume()

    def leave(self, reader: Reader) -> None:
        """End a L{read}."""
        self._readers.pop(reader, None)
        reader.close()

    # -- the sink of its events

    def write(self, data: bytes) -> None:
        self.wire.write(data)

    def missed(self, missed: Missed) -> None:
        self.send_missed(self._hub.events, missed)
        self.send_state()

    def send_missed(self, feed: Feed, missed: Missed, request: str | None = None) -> None:
        """Say what was dropped."""
        lost = {"start": feed.start, "count": missed.count, "from": missed.first, "to": missed.last}
        self.send("dropped", lost, request)

    # -- what the connection calls

    def wire_open(self) -> None:
        self._hub.opened(self)
        if self.presence.caller is not None:
            self._enter()
        else:
            self._signing_in = SigningIn(self._hub.clock, self.presence, self._enter, self.dismiss)

    def _enter(self) -> None:
        _log.info("a WebSocket is in use", subject=self.caller.subject, client=self.caller.origin)
        self.send_state()
        signing_in, self._signing_in = self._signing_in, None
        if signing_in is not None:
            for payload in signing_in.early:
                self._handle(payload)

    def wire_frame(self) -> None:
        """Count a frame; read no more for a while where there are too many."""
        self._earn()
        self._allowance = max(self._allowance - 1, -MAX_HOLD * RATE)
        if self._allowance < 0 and self._hold is None:
            self.wire.hold()
            self._hold = self._hub.clock.callLater(-self._allowance / RATE, self._go_on)

    def wire_message(self, payload: bytes, *, binary: bool) -> None:
        if binary:
            self.wire.close(UNSUPPORTED_DATA, "only text is understood here")
            return
        if self._signing_in is not None:
            self._signing_in.message(payload)
        else:
            self._handle(payload)

    def _handle(self, payload: bytes) -> None:
        request: str | None = None
        try:
            message = decode(payload)
            request = message.id
            kind = self._hub.registry.find(message.type)
            if kind is None:
                raise MessageError("unknown_type", "there is no message of this type")
            call = Call(self, kind, request)
            self.running.start(call, decode_data(message.data, kind.data))
        except Exception:
            self.tell_failure(Failure(), request)

    def wire_full(self) -> None:
        for reader in self._readers:
            reader.pause()

    def wire_free(self) -> None:
        # One after the other: each may fill the connection again.
        while self._waiters and not self.wire.full:
            waiter = self._waiters.popleft()
            if not waiter.called:
                waiter.callback(None)
        for reader in tuple(self._readers):
            if not self.wire.full and reader is not self._unseen:
                reader.resume()

    def wire_lost(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        if self._signing_in is not None:
            self._signing_in.stop()
        self.presence.leave()
        self._tasks.stop()
        for reader in self._readers:
            reader.close()
        self._readers.clear()
        self.running.cancel_all()
        self._hub.lost(self)

    # -- what the hub calls

    def dismiss(self, refusal: Refusal) -> None:
        """Close: who this is may not, or not any more, be here; or it can't be said now whether they may."""
        code = TRY_AGAIN_LATER if refusal.code in (429, 503) else POLICY_VIOLATION
        self.wire.close(code, refusal.message[:MAX_REASON])

    def stop(self) -> Deferred[None]:
        """Cancel what runs, and say goodbye; fires when nothing runs any more."""
        ending = self.running.cancel_all()
        ending.addCallback(lambda _: self.wire.close(GOING_AWAY, "the agent stops"))
        return ending

    def keep_alive(self) -> None:
        """Ping; cut who has not answered the last two."""
        if self.wire.held:
            return  # its answer may be there, and not read yet
        if self.wire.unanswered >= 2:
            _log.debug("a client that does not answer pings was cut", client=self.presence.origin.name)
            self.wire.abort()
        else:
            self.wire.ping()

    def _go_on(self) -> None:
        self._earn()
        if self._allowance < -0.5:  # more had come in the same piece
            self._hold = self._hub.clock.callLater(-self._allowance / RATE, self._go_on)
        else:
            self._hold = None
            self.wire.release()

    def _earn(self) -> None:
        now = self._hub.clock.seconds()
        self._allowance = min(BURST, self._allowance + (now - self._counted) * RATE)
        self._counted = now
