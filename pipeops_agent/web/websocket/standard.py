"""The messages that are always there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred

from pipeops_agent.events import CHANNELS
from pipeops_agent.realtime import Encoding, Entry, LogFeed, Missed, Reader
from pipeops_agent.realtime.agent_logs import LOG, RECORDS
from pipeops_agent.web.access import OPERATE, READ
from pipeops_agent.web.websocket.messages import (
    Channels,
    Input,
    LogQuery,
    MessageError,
    Nothing,
    Resize,
    SessionKey,
    Which,
)
from pipeops_agent.web.websocket.registry import MessageType
from pipeops_agent.web.websocket.running import Call
from pipeops_agent.web.websocket.signing_in import NAME as SESSION

MAX_LOG_STREAMS: Final = 50
"""Streams of logs, the agent's own and pods', at one time, for all WebSockets together."""

Snapshot = Callable[[], Any]


def standard_messages(
    *,
    status: Snapshot,
    metrics: Snapshot,
    logs: LogFeed,
    pod_logs: Callable[[Call, LogQuery], Awaitable[None]] | None = None,
) -> list[MessageType]:
    """
    The types of the contract that need nothing but the agent itself.

    @param status: what C{get_status} is answered with; C{metrics}: and C{get_metrics}.
    @param pod_logs: what C{logs} of pods are answered by; None: there are none.
    """

    def get_status(call: Call, data: Nothing) -> None:
        _need_read(call)
        call.reply("status_response", status())

    def get_metrics(call: Call, data: Nothing) -> None:
        _need_read(call)
        call.reply("metrics_response", metrics())

    async def any_logs(call: Call, data: LogQuery) -> None:
        if data.of_pods and pod_logs is not None:
            await pod_logs(call, data)
        else:
            await _follow_own_logs(logs, call, data)

    return [
        MessageType(name=SESSION, data=SessionKey, handler=_signed_in),
        MessageType(name="ping", data=Nothing, handler=_ping),
        MessageType(name="get_status", data=Nothing, handler=get_status),
        MessageType(name="get_metrics", data=Nothing, handler=get_metrics),
        MessageType(name="subscribe", data=Channels, handler=_subscribe),
        MessageType(name="unsubscribe", data=Channels, handler=_unsubscribe),
        MessageType(name="cancel", data=Which, handler=_cancel),
        MessageType(name="input", data=Input, handler=_pass_on),
        MessageType(name="resize", data=Resize, handler=_pass_on),
        MessageType(name="logs", data=LogQuery, handler=any_logs, runs=True, most=MAX_LOG_STREAMS),
    ]


def _need_read(call: Call) -> None:
    """@raise MessageError: the caller may not see everything."""
    if not call.caller.allows(READ):
        raise MessageError("forbidden", "this needs the scope read, and the one shown is narrowed")


def _ping(call: Call, data: Nothing) -> None:
    call.reply("pong", {})


def _subscribe(call: Call, data: Channels) -> None:
    wanted = _known(data)
    _need_read(call)
    if "audit" in wanted and not call.caller.allows(OPERATE):
        raise MessageError("forbidden", "the channel audit needs the scope operate")
    _choose(call, call.session.channels | wanted)


def _unsubscribe(call: Call, data: Channels) -> None:
    _choose(call, call.session.channels - _known(data))


def _choose(call: Call, channels: frozenset[str]) -> None:
    # The answer first: what follows it is of these channels.
    call.reply("subscribed", {"channels": [name for name in CHANNELS if name in channels]})
    call.session.subscribe(channels)


def _known(data: Channels) -> frozenset[str]:
    wanted = frozenset(data.channels)
    if wanted - frozenset(CHANNELS):
        raise MessageError("unknown_channel", f"channels are {', '.join(CHANNELS)}")
    return wanted


def _signed_in(call: Call, data: SessionKey) -> None:
    raise MessageError("not_possible", "whose this connection is is known already")


def _cancel(call: Call, data: Which) -> None:
    call.session.running.find(data.id).cancel()


def _pass_on(call: Call, data: Input | Resize) -> None:
    running = call.session.running.find(call.id or "")
    if running.receiver is None:
        raise MessageError("not_possible", f"{running.kind.name} takes no {call.kind.name}")
    running.receiver(data)


async def _follow_own_logs(feed: LogFeed, call: Call, query: LogQuery) -> None:
    """Send the agent's own log records: the last ones, and new ones for as long as they are wanted."""
    if query.of_pods:
        raise MessageError("not_available", "no logs of pods are served here")
    _need_read(call)
    tail = query.tail or 0
    if not 0 <= tail <= RECORDS:
        raise MessageError("bad_data", f"tail is a number from 0 to {RECORDS}")
    stream = _LogStream(feed, call, None if query.follow else feed.journal.last)
    await stream.run(max(0, feed.journal.last - tail))
    call.reply("log_end", {"reason": "end"})


class _LogStream:
    """The records for one call. They are droppable: what is lost is said, and not waited for."""

    reader: Reader

    def __init__(self, feed: LogFeed, call: Call, until: int | None) -> None:
        self._feed = feed
        self._call = call
        self._until = until
        self._done: Deferred[None] = Deferred()

    async def run(self, after: int) -> None:
        """
        Send what comes after number C{after}, until the end or the cancellation.
        """
        session = self._call.session
        form = _log_form(session.framer(), self._call.id)
        self.reader = reader = session.read(self._feed, self, frozenset({LOG}), form, after=after)
        reader.take_missed()  # who asks for the last lines has lost none before them
        try:
            session.begin(reader)
            self._check_end()
            await self._done
        finally:
            session.leave(reader)

    def write(self, data: bytes) -> None:
        self._call.session.wire.write(data)
        self._check_end()

    def missed(self, missed: Missed) -> None:
        self._call.session.send_missed(self._feed, missed, self._call.id)

    def _check_end(self) -> None:
        if self._until is not None and self.reader.place >= self._until and not self._done.called:
            self._done.callback(None)


def _log_form(frame: Callable[[bytes], bytes], request: str | None) -> Encoding:
    """A record as a C{log} message of one call."""
    ending = b"}" if request is None else b',"id":' + msgspec.json.encode(request) + b"}"

    def encode(entry: Entry) -> bytes:
        return frame(b'{"type":"log","timestamp":%b,"data":%b%b' % (entry.time, entry.text, ending))

    return encode
