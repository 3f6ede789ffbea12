"""Logs of pods, for callers: as messages of their own, and as what a command writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Annotated, Final

import msgspec

from pipeops_agent.access.audit import Entry
from pipeops_agent.cluster.log_items import Item, LogLine, LogMarker, LogOptions
from pipeops_agent.cluster.logs import LogRequest, Logs
from pipeops_agent.cluster.operations import BadRequest, Command, parsed
from pipeops_agent.commands.answers import Line, Lines, LogEnd, Mark, Outcome, Output
from pipeops_agent.commands.asking import MAX_PIECE, Asker
from pipeops_agent.commands.log_places import MAX_AFTER, LogPlaces, parse_places
from pipeops_agent.commands.pods import checked_place, is_pod

MAX_TAIL: Final = 1_000_000
"""Lines of the end of a log."""

_LAST: Final = frozenset({"ended", "complete", "gone", "failed"})
"""The markers after which nothing may come of a container."""

_Text = Annotated[str, msgspec.Meta(max_length=4096)]


class LogArguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Which lines.

    @ivar labels: a label selector, in place of a pod's name: the logs of several, merged.
    @ivar tail: so many of the last lines; None: all.
    @ivar follow: go on with what is written from now on.
    @ivar since_seconds: only what is younger; C{since_time}: than this time (RFC 3339).
    @ivar after: the C{place} of the last lines that were read before, in another stream: it goes on there,
        and what is said of the start does not count.
    @ivar previous: the run before the present one.
    @ivar timestamps: in the text of a command, when each line was written.
    """

    labels: _Text = ""
    tail: Annotated[int, msgspec.Meta(ge=0, le=MAX_TAIL)] | None = None
    follow: bool = False
    since_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None
    since_time: _Text = ""
    after: Annotated[str, msgspec.Meta(max_length=MAX_AFTER)] = ""
    previous: bool = False
    timestamps: bool = False


def log_request(namespace: str, pod: str, container: str, arguments: LogArguments) -> LogRequest:
    """
    What is asked of the API server.

    @raise BadRequest: it names no pod, or none that could be.
    """
    if arguments.labels:
        if pod:
            raise BadRequest("logs: a pod, or a label selector: one of them")
        checked_place("logs", namespace)
    else:
        checked_place("logs", namespace, pod)
    since = arguments.since_seconds
    return LogRequest(
        namespace=namespace,
        pod=pod,
        labels=arguments.labels,
        containers=(container,) if container else (),
        options=LogOptions(
            follow=arguments.follow,
            tail=arguments.tail,
            since_seconds=None if since is None else math.ceil(since),
            since_time=arguments.since_time,
            timestamps=True,
            previous=arguments.previous,
        ),
        places=parse_places(arguments.after),
    )


class PodLogs:
    """
    Reads logs for callers.

    @param logs: opens them, by what holds at this moment.
    """

    def __init__(self, logs: Callable[[], Logs]) -> None:
        self._logs = logs

    async def follow(self, asker: Asker, request: LogRequest, entry: Entry) -> LogEnd:
        """
        Send C{log} messages until the end, and return how that came.

        @raise OutOfReach: it is not allowed.
        @raise ClusterError: the log can't be read.
        """
        places = LogPlaces(request.places)

        def say(part: Lines | Mark, *, several: bool) -> None:
            asker.reply("log", part)

        return await self._read(asker, request, entry, say, places)

    async def run(self, asker: Asker, command: Command, entry: Entry) -> Outcome:
        """
        The command C{logs}: its output is the lines.

        @raise BadRequest: it makes no sense.
        @raise OutOfReach: it is not allowed.
        @raise ClusterError: the log can't be read.
        """
        target = command.target
        if not is_pod(target.type):
            raise BadRequest(f"logs is for pods, not for {target.type[:80]!r}; of several by args.labels")
        if command.command:
            raise BadRequest("logs takes no command")
        arguments = parsed(LogArguments, command.args, "logs")
        request = log_request(target.namespace, target.name, target.container, arguments)
        writer = _Writer(asker, timestamps=arguments.timestamps)
        end = await self._read(asker, request, entry, writer.say)
        failed = end.reason == "failed"
        return Outcome(success=not failed, error=end.message if failed else None)

    async def _read(
        self,
        asker: Asker,
        request: LogRequest,
        entry: Entry,
        say: Callable[..., None],
        places: LogPlaces | None = None,
    ) -> LogEnd:
        stream = await self._logs().open(asker.caller, request)
        last: Mark | None = None
        try:
            while items := await stream.read():
                for part in _parts(request.namespace, items, places):
                    await asker.ready()
                    say(part, several=stream.several)
                    if isinstance(part, Lines):
                        entry.bytes_out += sum(len(line.line) for line in part.lines)
                    elif part.marker in _LAST:
                        last = part
        finally:
            stream.close()
        if last is None or stream.several:
            return LogEnd(reason="end")
        return LogEnd(reason=last.marker, message=last.message, exit_code=last.exit_code)


class _Writer:
    """Log lines as the text that a command writes: of several containers, each with the name of its own."""

    def __init__(self, asker: Asker, *, timestamps: bool) -> None:
        self._asker = asker
        self._timestamps = timestamps
        self._inside: set[tuple[str, str]] = set()

    def say(self, part: Lines | Mark, *, several: bool) -> None:
        if isinstance(part, Mark):
            self._asker.reply("command_output", Output(marker=part))
            return
        name = f"[{part.pod}/{part.container}] " if several else ""
        text = "".join(self._text(part, name, line) for line in part.lines)
        self._asker.reply("command_output", Output(output=text))

    def _text(self, part: Lines, name: str, line: Line) -> str:
        begins = (part.pod, part.container) not in self._inside
        (self._inside.add if line.partial else self._inside.discard)((part.pod, part.container))
        stamp = f"{line.time} " if self._timestamps and line.time else ""
        return f"{name}{stamp}" * begins + line.line + "\n" * (not line.partial)


def _parts(namespace: str, items: list[Item], places: LogPlaces | None) -> Iterator[Lines | Mark]:
    """What is sent in one message each: a marker, or lines of one container, up to L{MAX_PIECE} bytes."""
    for _, same in groupby(items, key=lambda item: (item.pod, item.container)):
        lines: list[LogLine] = []
        size = 0
        for item in same:
            if lines and (isinstance(item, LogMarker) or size >= MAX_PIECE):
                yield _lines(namespace, lines, places)
                lines, size = [], 0
            if isinstance(item, LogMarker):
                yield _mark(namespace, item)
            else:
                lines.append(item)
                size += len(item.data)
        if lines:
            yield _lines(namespace, lines, places)


def _lines(namespace: str, lines: list[LogLine], places: LogPlaces | None) -> Lines:
    return Lines(
        namespace=namespace,
        pod=lines[0].pod,
        container=lines[0].container,
        lines=tuple(Line(line=each.text, time=each.time, partial=each.partial) for each in lines),
        place="" if places is None else places.advance(lines),
    )


def _mark(namespace: str, item: LogMarker) -> Mark:
    return Mark(
        namespace=namespace,
        pod=item.pod,
        container=item.container,
        marker=item.what,
        message=item.sentence,
        exit_code=item.exit_code,
        reason=item.reason,
        since=item.since,
        until=item.until,
    )
