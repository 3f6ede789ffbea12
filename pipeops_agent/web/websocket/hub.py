"""All sessions: how many there may be, what they share, and their end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from pipeops_agent.clock import WallClock
from pipeops_agent.realtime import Encoding, Entry, EventFeed
from pipeops_agent.scheduling import PeriodicService
from pipeops_agent.web.access import READ
from pipeops_agent.web.limits import check_room
from pipeops_agent.web.presence import Presences
from pipeops_agent.web.request import AgentRequest
from pipeops_agent.web.routes import Parameters, Route
from pipeops_agent.web.streaming import Upgrade
from pipeops_agent.web.websocket.frames import Deflater, text_frame
from pipeops_agent.web.websocket.registry import Registry
from pipeops_agent.web.websocket.session import Session
from pipeops_agent.web.websocket.upgrade import check_upgrade
from pipeops_agent.web.websocket.wire import wire_factory

_log = Logger(namespace="web")

PING_INTERVAL: Final = 20.0
"""Seconds between two pings; who has not answered two of them is cut."""

STOP_GRACE: Final = 0.3
"""Seconds in which clients may go along with a stop."""


class WebSocketHub:
    """
    Serves C{/ws}.

    @ivar limits: what clients may take.
    @ivar total: how many handlers of each message type run, in all sessions.
    @param state: what a client is told first, and after a loss.
    @param most: how many sessions there may be at one time; asked each time.
    @param origins: pages, besides the agent's own, that may connect; asked each time.
    """

    def __init__(
        self,
        reactor: Any,
        wall: WallClock,
        events: EventFeed,
        registry: Registry,
        presences: Presences,
        *,
        state: Callable[[], Mapping[str, Any]],
        most: Callable[[], int],
        origins: Callable[[], Collection[str]],
    ) -> None:
        self.clock = reactor
        self.wall = wall
        self.events = events
        self.registry = registry
        self.state = state
        self.limits = presences.access.limits
        self.total: Counter[str] = Counter()
        self._presences = presences
        self._most = most
        self._origins = origins
        self._make_wire = wire_factory(reactor)
        self._deflater = Deflater()
        self._forms = {True: _event_form(self._deflater.text_frame), False: _event_form(text_frame)}
        self._sessions: dict[Session, None] = {}
        self._stopping = False
        self._cut: IDelayedCall | None = None
        self._emptied: list[Deferred[None]] = []
        self._ticking = PeriodicService(reactor, self._tick, lambda: PING_INTERVAL, what="pinging clients")

    def routes(self) -> list[Route]:
        """The lines for the table."""
        return [Route("GET", "/ws", self.upgrade)]

    def start(self) -> None:
        """Ping from now on."""
        self._ticking.startService()

    def stop(self) -> Deferred[None]:
        """
        Cancel everything that runs, say goodbye to all, and take no more; fires when all are gone, those who
        do not go along after L{STOP_GRACE}.
        """
        self._stopping = True
        stopping: list[Deferred[None]] = [self._ticking.stopService()]
        if self._sessions:
            gone: Deferred[None] = Deferred()
            self._emptied.append(gone)
            if self._cut is None:
                self._cut = self.clock.callLater(STOP_GRACE, self._cut_all)
            stopping += [gone, *(session.stop() for session in tuple(self._sessions))]
        return DeferredList(stopping, consumeErrors=True).addCallback(lambda _: None)

    def __len__(self) -> int:
        return len(self._sessions)

    async def upgrade(self, request: AgentRequest, parameters: Parameters) -> Upgrade:
        """
        Make a session of a request.

        @raise Refusal: 400, 401, 403, 426; 429, too many of one client; 503, too many in all, or a stop.
        """
        access = self._presences.access
        credential = access.credential(request)
        caller = await access.known(credential)
        if caller is not None or not access.gate.has_session(credential.shown):
            caller = access.allow(caller, READ, partly=True)  # a page shows its session's key in a message
        opening = check_upgrade(request, self._origins())
        check_room(len(self), self._most(), stopping=self._stopping)
        session = Session(self)
        session.presence = self._presences.enter(credential, caller, session.dismiss)
        session.wire = self._make_wire(session)
        return Upgrade(session.wire, opening)

    def framer(self, deflates: bool) -> Callable[[bytes], bytes]:
        """What makes frames for a client that has, or has not, agreed to compressed ones."""
        return self._deflater.text_frame if deflates else text_frame

    def event_form(self, deflates: bool) -> Encoding:
        """The form of an event: the same object for all with the same frames."""
        return self._forms[deflates]

    def opened(self, session: Session) -> None:
        """A session has begun."""
        self._sessions[session] = None
        _log.info("a WebSocket is open", client=session.presence.origin.name)

    def lost(self, session: Session) -> None:
        """A session has ended."""
        if session not in self._sessions:
            return
        del self._sessions[session]
        _log.info("a WebSocket has ended", client=session.presence.origin.name)
        if not self._sessions:
            if self._cut is not None and self._cut.active():
                self._cut.cancel()
            emptied, self._emptied = self._emptied, []
            for waiter in emptied:
                waiter.callback(None)

    def _cut_all(self) -> None:
        for session in tuple(self._sessions):
            session.wire.abort()

    async def _tick(self) -> None:
        for session in tuple(self._sessions):
            session.keep_alive()


def _event_form(frame: Callable[[bytes], bytes]) -> Encoding:
    def encode(entry: Entry) -> bytes:
        return frame(b'{"type":"event","timestamp":%b,"data":%b}' % (entry.time, entry.text))

    return encode
