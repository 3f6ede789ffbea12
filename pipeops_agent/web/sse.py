"""
Server-sent events: C{/api/realtime/events} and C{/api/realtime/logs}.

A client that comes again says what it had last (C{Last-Event-ID}), and gets what came after that; what is
no longer there is said with a C{gap} event, then the present state, then the rest. A client that does not
read is not waited for: its place in the feed stays behind, and after a minute of that it is cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.caller import Caller
from pipeops_agent.events import CHANNELS
from pipeops_agent.realtime import Encoding, Entry, EventFeed, Feed, LogFeed, Missed, Reader
from pipeops_agent.realtime.agent_logs import LOG, RECORDS
from pipeops_agent.scheduling import PeriodicService
from pipeops_agent.web.access import OPERATE, READ, Credential
from pipeops_agent.web.api.query import Query, bad_parameter, read_query
from pipeops_agent.web.api.streams import EventsQuery, LogsQuery
from pipeops_agent.web.limits import check_room
from pipeops_agent.web.presence import Presence, Presences
from pipeops_agent.web.replies import Refusal
from pipeops_agent.web.request import AgentRequest
from pipeops_agent.web.routes import Parameters, Route
from pipeops_agent.web.streaming import Body, Stream
from pipeops_agent.web.view import CHANNELS as VIEWED

_log = Logger(namespace="web")

RETRY: Final = b"retry: 3000\n\n"
"""Milliseconds after which a client comes again."""

KEEP_ALIVE: Final = 15.0
"""Seconds between two comments: what stands between cuts what is silent, and a dead client shows."""

STUCK: Final = 4
"""Comments that could not be written, one after the other, after which a client is cut."""

CONTENT_TYPE: Final = "text/event-stream"
HEADERS: Final = (("X-Accel-Buffering", "no"),)
"""What keeps nginx, and those who learned from it, from collecting events before they pass them on."""

COMMENT: Final = b":\n\n"
_ID: Final = re.compile(r"([0-9a-f]{1,32})-([0-9]{1,15})")
_MAX_ECHO: Final = 64
"""Characters of an unknown C{Last-Event-ID} that are repeated."""

State = Callable[[], Mapping[str, Any]]


class Subscriber:
    """One client: from its feed to its body."""

    reader: Reader
    presence: Presence
    _body: Body

    def __init__(self, streams: EventStreams, feed: Feed, state: State | None) -> None:
        self._streams = streams
        self._feed = feed
        self._state = state
        self._until: int | None = None
        self._stuck = 0

    def begin(
        self,
        body: Body,
        channels: frozenset[str],
        encoding: Encoding,
        last: str,
        after: int | None,
        *,
        follow: bool,
    ) -> None:
        """
        Say hello, and everything after what the client had last.

        @param last: its C{Last-Event-ID}; empty: it had nothing.
        @param after: where there is none, the number after which entries are wanted; None: new ones only.
        @param follow: whether to go on with what is new.
        """
        self._body = body
        body.open(self)
        body.write(RETRY)
        known = _ID.fullmatch(last)
        if known and known[1] == self._feed.start:
            after = int(known[2])
        elif last:
            after = 0
        self.reader = reader = self._feed.read(self, channels, encoding, after=after)
        if last and not (known and known[1] == self._feed.start):
            self._say_restart(last, reader.take_missed())
        elif not last:
            reader.take_missed()  # who asks for the last lines has lost none before them
            self._say_state(reader.place)
        if not follow:
            self._until = self._feed.journal.last
        if not self._body.full:
            reader.resume()
        self._end_if_done()

    async def view(self, encoding: Encoding, channels: frozenset[str]) -> Encoding:
        """
        C{encoding}, of what the client may see.

        @raise Refusal: that can't be found out now; its place is free again.
        """
        view = self.presence.view if channels & VIEWED else None
        if view is None:
            return encoding
        try:
            await view.look()
        except BaseException:  # a client that has gone, too
            self.leave()
            raise
        return view.narrow(encoding, self.missed)

    def write(self, data: bytes) -> None:
        self._body.write(data)

    def missed(self, missed: Missed) -> None:
        self._say_gap({"count": missed.count, "from": missed.first, "to": missed.last})
        self._say_state(None)

    def body_full(self) -> None:
        self.reader.pause()

    def body_free(self) -> None:
        self.reader.resume()
        self._end_if_done()

    def body_gone(self) -> None:
        self.reader.close()
        self.leave()

    def leave(self) -> None:
        """Give its place back."""
        self.presence.leave()
        self._streams.left(self)

    def dismiss(self, refusal: Refusal) -> None:
        """End: the client may not, or not any more, be here; it hears why when it comes again."""
        self.end()

    def keep_alive(self) -> None:
        """Write a comment; cut who has not read for long."""
        if not self._body.full:
            self._stuck = 0
            self._body.write(COMMENT)
            return
        self._stuck += 1
        if self._stuck >= STUCK:
            _log.debug("a client that does not read its events was cut")
            self._body.abort()

    def end(self) -> None:
        """No more events; the client sees that this is the end."""
        self.reader.close()
        self.leave()
        self._body.finish()

    def _end_if_done(self) -> None:
        if self._until is not None and self.reader.place >= self._until and not self.reader.closed:
            self.end()

    def _say_restart(self, last: str, missed: Missed | None) -> None:
        lost = {"count": missed.count, "from": missed.first, "to": missed.last} if missed else {"count": 0}
        self._say_gap({"after": last[:_MAX_ECHO], **lost})
        self._say_state(None)

    def _say_gap(self, lost: Mapping[str, Any]) -> None:
        self._body.write(_event("gap", {"start": self._feed.start, **lost}))

    def _say_state(self, seq: int | None) -> None:
        """
        Say the present state.

        @param seq: the number after which the client gets everything; None: it gets older events yet, and
            must not ask for what comes after this one.
        """
        if self._state is not None:
            name = b"" if seq is None else b"id: %s-%d\n" % (self._feed.start.encode(), seq)
            self._body.write(name + _event("status", self._state()))


class EventStreams:
    """
    All clients of both paths.

    @param most: how many there may be at one time; asked each time.
    @param state: what is told first, and after a loss.
    @param pod_logs: answers who asks for a pod's log.
    """

    def __init__(
        self,
        clock: IReactorTime,
        events: EventFeed,
        logs: LogFeed,
        presences: Presences,
        state: State,
        *,
        most: Callable[[], int],
        pod_logs: Callable[[AgentRequest, Credential, Caller, LogsQuery], Stream],
    ) -> None:
        self._events = events
        self._logs = logs
        self._presences = presences
        self._state = state
        self._most = most
        self._pod_logs = pod_logs
        self._event_form = sse_encoding(events.start)
        self._log_form = sse_encoding(logs.start)
        self._subscribers: dict[Subscriber, None] = {}
        self._stopping = False
        self._ticking = PeriodicService(clock, self._tick, lambda: KEEP_ALIVE, what="keeping streams alive")

    def routes(self) -> list[Route]:
        """The lines for the table."""
        return [
            Route("GET", "/api/realtime/events", self.events),
            Route("GET", "/api/realtime/logs", self.logs),
        ]

    def start(self) -> None:
        """Keep clients alive from now on."""
        self._ticking.startService()

    def stop(self) -> Deferred[None]:
        """End all streams, and take no more."""
        self._stopping = True
        for subscriber in tuple(self._subscribers):
            subscriber.end()
        return self._ticking.stopService()

    def __len__(self) -> int:
        return len(self._subscribers)

    async def events(self, request: AgentRequest, parameters: Parameters) -> Stream:
        """
        The agent's events.

        @raise Refusal: 400, a channel that does not exist; 401; 403; 429, too many of one client;
            503, too many in all, or a stop.
        """
        credential = self._presences.access.credential(request)
        caller = await self._presences.access.check(credential, READ)
        asked = _query(request, EventsQuery).channels
        channels = _channels(asked, operate=caller.allows(OPERATE))
        subscriber = self._enter(credential, caller, self._events, self._state)
        form = await subscriber.view(self._event_form, channels)
        last = request.getHeader("last-event-id") or ""

        def begin(body: Body) -> None:
            subscriber.begin(body, channels, form, last, None, follow=True)

        return _stream(subscriber, begin)

    async def logs(self, request: AgentRequest, parameters: Parameters) -> Stream:
        """
        The agent's own log records, or a pod's: the last C{tail}, and unless C{follow=false} the new ones.

        @raise Refusal: as L{events}; 400 also for a field that makes no sense.
        """
        access = self._presences.access
        credential = access.credential(request)
        caller = await access.check(credential, READ, partly=True)
        asked = _query(request, LogsQuery)
        if asked.of_pods:
            return self._pod_logs(request, credential, caller, asked)
        caller = access.allow(caller, READ)
        tail = asked.tail or 0
        if tail > RECORDS:
            raise bad_parameter("tail", f"of the agent's own log, expected an integer from 0 to {RECORDS}")
        subscriber = self._enter(credential, caller, self._logs, None)
        last = request.getHeader("last-event-id") or ""
        after = max(0, self._logs.journal.last - tail)

        def begin(body: Body) -> None:
            subscriber.begin(body, frozenset({LOG}), self._log_form, last, after, follow=asked.follow)

        return _stream(subscriber, begin)

    def left(self, subscriber: Subscriber) -> None:
        """It gets no more."""
        self._subscribers.pop(subscriber, None)

    def _enter(self, credential: Credential, caller: Caller, feed: Feed, state: State | None) -> Subscriber:
        """@raise Refusal: 429, 503, there is no room."""
        check_room(len(self), self._most(), stopping=self._stopping)
        subscriber = Subscriber(self, feed, state)
        subscriber.presence = self._presences.enter(credential, caller, subscriber.dismiss)
        self._subscribers[subscriber] = None
        return subscriber

    async def _tick(self) -> None:
        for subscriber in tuple(self._subscribers):
            subscriber.keep_alive()


def sse_encoding(start: str) -> Encoding:
    """
    The form of an entry as a server-sent event.

    @param start: the feed's, for the id.
    """
    prefix = b"id: " + start.encode() + b"-"

    def encode(entry: Entry) -> bytes:
        return b"%b%d\nevent: %b\ndata: %b\n\n" % (prefix, entry.seq, entry.channel.encode(), entry.text)

    return encode


def _stream(subscriber: Subscriber, begin: Callable[[Body], None]) -> Stream:
    return Stream(begin=begin, unused=subscriber.leave, content_type=CONTENT_TYPE, headers=HEADERS)


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    """An event that no feed has."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))


def _query(request: AgentRequest, kind: type[Query]) -> Query:
    """@raise Refusal: 400, a parameter is wrong."""
    return read_query(request.uri.partition(b"?")[2], kind)


def _channels(asked: str, *, operate: bool) -> frozenset[str]:
    """@raise Refusal: a channel that is none, or not for this caller."""
    if not asked:
        return frozenset(CHANNELS) if operate else frozenset(CHANNELS) - {"audit"}
    channels = frozenset(name for name in asked.split(",") if name)
    if not channels or channels - frozenset(CHANNELS):
        raise bad_parameter("channels", f"expected of {', '.join(CHANNELS)}, with commas between them")
    if "audit" in channels and not operate:
        raise Refusal(403, "forbidden", "the channel audit needs the scope operate")
    return channels
