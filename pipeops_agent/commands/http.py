"""Commands and pods' logs where there is no WebSocket: C{POST /api/commands}, C{GET /api/realtime/logs}."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pipeops_agent.access.denied import Denied
from pipeops_agent.access.limits import Kind, Place, TooMany
from pipeops_agent.access.origins import Origin
from pipeops_agent.caller import Caller
from pipeops_agent.clock import WallClock
from pipeops_agent.cluster.operations import Command
from pipeops_agent.commands.answers import Lines
from pipeops_agent.commands.desk import Desk, Work
from pipeops_agent.commands.messages import log_request_of
from pipeops_agent.scheduling import PeriodicService, as_deferred
from pipeops_agent.web.access import Credential, refusal, too_many
from pipeops_agent.web.api.streams import LogsQuery
from pipeops_agent.web.presence import Presence, Presences
from pipeops_agent.web.replies import Refusal
from pipeops_agent.web.request import AgentRequest
from pipeops_agent.web.routes import Parameters, Route
from pipeops_agent.web.sse import COMMENT, CONTENT_TYPE, HEADERS, KEEP_ALIVE, RETRY, STUCK
from pipeops_agent.web.streaming import Body, Stream
from pipeops_agent.web.websocket.messages import LogQuery, MessageError, Outgoing

_log = Logger(namespace="web")

MAX_WAITING: Final = 1024 * 1024
"""Bytes that may wait for a client that does not read them; beyond that it is cut."""

_STATUSES: Final = {"forbidden": 403}
"""What a request is refused with; all else is 400."""

Form = Callable[[str, Any], bytes]
"""Makes an event of a message's type and data."""


class StreamedAsker:
    """
    One request whose answer is a stream of events (L{Asker<pipeops_agent.commands.asking.Asker>}).

    @ivar presence: of one who stays: it is asked about again and again.
    @param origin: where it comes from.
    """

    receiver: Callable[[Any], None] | None = None
    talks: Final = False

    def __init__(self, streams: CommandStreams, caller: Caller, origin: Origin, form: Form) -> None:
        self.caller = caller
        self.presence: Presence | None = None
        self._streams = streams
        self._origin = origin
        self._form = form
        self._body: Body
        self._work: Deferred[None] | None = None
        self._waiters: list[Deferred[None]] = []
        self._places: list[Place] = []
        self._waiting = self._stuck = 0
        self._over = False

    def hold(self, kind: Kind) -> Place:
        """See L{Asker.hold<pipeops_agent.commands.asking.Asker.hold>}."""
        place = self._streams.hold(kind, self._origin)
        self._places.append(place)
        return place

    def leave(self) -> None:
        """Give back what it has: it has ended, or never begun."""
        for place in self._places:
            place.release()
        if self.presence is not None:
            self.presence.leave()
        self._streams.left(self)

    def dismiss(self, refusal: Refusal) -> None:
        """End: the client may not, or not any more, be here; it hears why when it comes again."""
        self.cancel()

    def begin(self, body: Body, work: Work, *, hello: bytes = b"") -> None:
        """Do C{work}, and write what it says."""
        self._body = body
        body.open(self)
        body.write(hello)
        self._work = as_deferred(work())
        self._work.addBoth(self._ended)

    def reply(self, name: str, data: Any) -> None:
        if self._over:
            return
        event = self._form(name, data)
        if self._body.full:
            self._waiting += len(event)
            if self._waiting > MAX_WAITING:
                _log.debug("a client that does not read its answers was cut")
                self._body.abort()
                return
        self._body.write(event)

    def ready(self) -> Deferred[None]:
        if not self._body.full:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        return waiter

    def cancel(self) -> None:
        """End it; what has been cancelled says so."""
        if self._work is not None:
            self._work.cancel()

    def keep_alive(self) -> None:
        """Write a comment; cut who has not read for long."""
        if not self._body.full:
            self._stuck = 0
            self._body.write(COMMENT)
            return
        self._stuck += 1
        if self._stuck >= STUCK:
            self._body.abort()

    # -- what the body calls

    def body_full(self) -> None:
        """Nothing more is read of what is sent: see L{ready}."""

    def body_free(self) -> None:
        self._waiting = 0
        while self._waiters and not self._body.full:
            waiter = self._waiters.pop(0)
            if not waiter.called:
                waiter.callback(None)

    def body_gone(self) -> None:
        self._over = True
        self.cancel()

    def _ended(self, result: object) -> None:
        self._work = None
        if isinstance(result, Failure):
            self._tell(result)
        self._over = True
        self.leave()
        self._body.finish()

    def _tell(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, CancelledError):
            self.reply("cancelled", {})
        elif isinstance(error, MessageError):
            self.reply("error", {"code": error.code, "message": str(error)})
        else:
            _log.failure("a command could not be handled", failure=failure)
            self.reply("error", {"code": "internal", "message": "the agent failed; its log says why"})


class CommandStreams:
    """What is asked for by HTTP."""

    def __init__(self, clock: IReactorTime, wall: WallClock, desk: Desk, presences: Presences) -> None:
        self._wall = wall
        self._desk = desk
        self._presences = presences
        self._askers: dict[StreamedAsker, None] = {}
        self._stopping = False
        self._ticking = PeriodicService(clock, self._tick, lambda: KEEP_ALIVE, what="keeping streams alive")

    def routes(self) -> list[Route]:
        """The line for the table; L{pod_logs} has its path with the agent's own log."""
        return [Route("POST", "/api/commands", self.command)]

    def start(self) -> None:
        """Keep clients alive from now on."""
        self._ticking.startService()

    def stop(self) -> Deferred[None]:
        """Cancel what runs, and take no more."""
        self._stopping = True
        for asker in tuple(self._askers):
            asker.cancel()
        return self._ticking.stopService()

    def __len__(self) -> int:
        return len(self._askers)

    def hold(self, kind: Kind, origin: Origin) -> Place:
        """A place for something; see L{Limits.hold<pipeops_agent.access.limits.Limits.hold>}."""
        return self._presences.access.limits.hold(kind, origin)

    async def command(self, request: AgentRequest, parameters: Parameters) -> Stream:
        """
        Do what the command in the body says; its messages are the answer.

        @raise Refusal: 400, it is none; 401; 403; 429; 503.
        """
        credential = self._presences.access.credential(request)
        caller = await self._presences.access.known(credential)
        if caller is None:
            raise refusal(Denied("unauthorized", "this needs a token", shown=False))
        try:
            assert request.content is not None
            command = msgspec.json.decode(request.content.read(), type=Command)
        except (msgspec.DecodeError, RecursionError) as problem:
            why = "it is nested too deeply" if isinstance(problem, RecursionError) else str(problem)
            raise Refusal(400, "bad_request", f"expected a command as JSON: {why}") from None
        asker = self._asker(caller, credential.origin, self._as_message)
        return self._stream(asker, lambda: self._desk.command(asker, command), b"")

    def pod_logs(
        self, request: AgentRequest, credential: Credential, caller: Caller, query: LogsQuery
    ) -> Stream:
        """
        A pod's log; a client that comes again gets what it has not had.

        @raise Refusal: 400, there is no such log; 403; 429; 503.
        """
        asked = LogQuery(**msgspec.structs.asdict(query), after=request.getHeader("last-event-id") or "")
        asker = self._asker(caller, credential.origin, _as_event)

        def begin() -> Work:
            asker.presence = self._presences.enter(credential, caller, asker.dismiss)
            return self._desk.logs(asker, log_request_of(asked))

        return self._stream(asker, begin, RETRY)

    def _asker(self, caller: Caller, origin: Origin, form: Form) -> StreamedAsker:
        if self._stopping:
            raise Refusal(503, "stopping", "the agent is stopping", ("Retry-After", "5"))
        return StreamedAsker(self, caller, origin, form)

    def _stream(self, asker: StreamedAsker, begin: Callable[[], Work], hello: bytes) -> Stream:
        """@raise Refusal: it can't be begun."""
        try:
            work = begin()
        except TooMany as error:
            asker.leave()
            raise too_many(error) from None
        except MessageError as error:
            asker.leave()
            raise Refusal(_STATUSES.get(error.code, 400), error.code, str(error)) from None

        def write(body: Body) -> None:
            self._askers[asker] = None
            asker.begin(body, work, hello=hello)

        return Stream(begin=write, unused=asker.leave, content_type=CONTENT_TYPE, headers=HEADERS)

    def left(self, asker: StreamedAsker) -> None:
        """It has ended."""
        self._askers.pop(asker, None)

    def _as_message(self, name: str, data: Any) -> bytes:
        """As the WebSocket has it: the whole message."""
        return _event(name, Outgoing(name, self._wall(), data))

    async def _tick(self) -> None:
        for asker in tuple(self._askers):
            asker.keep_alive()


def _as_event(name: str, data: Any) -> bytes:
    """With the place of lines as the id, which a client that comes again sends as C{Last-Event-ID}."""
    event = _event(name, data)
    return b"id: %b\n%b" % (data.place.encode(), event) if isinstance(data, Lines) else event


def _event(name: str, data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))
