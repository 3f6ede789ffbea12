"""One watch: lines in, typed events out, and a silence that is noticed."""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

import msgspec
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.cluster.errors import NOT_JSON, ApiStatus, BadAnswer, StatusError
from pipeops_agent.cluster.objects import Kind
from pipeops_agent.cluster.stream import BodyStream, Cut, LineReader
from pipeops_agent.scheduling import DeadlineExceeded, bounded

W = TypeVar("W")

MAX_EVENT: Final = 8 * 1024 * 1024
"""The longest event accepted, in bytes: an object has 1.5 MiB in etcd, and may be longer as JSON."""

BOOKMARK_SILENCE: Final = 150.0
"""Seconds without a byte after which a watch is dead whose server sends bookmarks, about one a minute."""

GRACE: Final = 15.0
"""Seconds that the server may be late in ending a watch by its own C{timeoutSeconds}."""


class WatchEvent(msgspec.Struct, Generic[W]):
    """One line of a watch. C{type}: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: W


class _Failure(msgspec.Struct):
    """The line that says why the watch ends."""

    object: ApiStatus


class Silent(Exception):
    """Nothing came for too long: the connection is dead, whatever it looks like."""


class Watch:
    """
    Reads one watch to its end.

    @param seconds: the C{timeoutSeconds} that was asked for.
    """

    def __init__(self, clock: IReactorTime, kind: Kind[Any], stream: BodyStream, *, seconds: float) -> None:
        self._clock = clock
        self._what = f"watch {kind.resource.name}"
        self._stream = stream
        self._lines = LineReader(stream, limit=MAX_EVENT, what=self._what)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(WatchEvent[kind.wire])  # type: ignore[name-defined]  # a type made at run time
        self._ends = clock.seconds() + seconds + GRACE
        self._bookmarks = False

    async def read(self) -> list[WatchEvent[Any]]:
        """
        The events that have come, at least one, in order; none: the server has ended the watch.

        @raise StatusError: the server said why it ends it; C{expired} where its history is too short.
        @raise Silent: nothing came for too long.
        @raise Cut: the connection was lost.
        @raise BadAnswer: a line is no event.
        """
        patience = max(0.0, self._ends - self._clock.seconds())
        if self._bookmarks:
            patience = min(patience, BOOKMARK_SILENCE)
        try:
            lines = await bounded(self._clock, patience, self._lines.read(), self._what)
        except DeadlineExceeded:
            self.close()
            raise Silent(f"{self._what}: nothing came for {patience:.0f} s") from None
        events = [self._event(line) for line in lines if line.strip()]
        self._bookmarks = self._bookmarks or any(event.type == "BOOKMARK" for event in events)
        return events

    def close(self) -> None:
        """Read no more."""
        self._stream.abort()

    def _event(self, line: bytes) -> WatchEvent[Any]:
        try:
            event: WatchEvent[Any] = self._decoder.decode(line)
            if event.type == "ERROR":
                said = msgspec.json.decode(line, type=_Failure).object
        except NOT_JSON as error:
            self.close()
            raise BadAnswer(f"{self._what}: a line is no event: {error}") from error
        if event.type != "ERROR":
            return event
        self.close()
        raise StatusError(self._what, said.code, reason=said.reason, message=said.message)


__all__ = ["Cut", "Silent", "Watch", "WatchEvent"]
