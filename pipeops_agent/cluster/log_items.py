"""What a log stream hands out, and how it is asked for."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

IDLE: Final = 15.0
"""Seconds without a line after which a marker says so."""


class LogLine(msgspec.Struct, frozen=True, gc=False):
    """
    A line without its end, or a part of one.

    @ivar data: its bytes, whatever they are.
    @ivar time: when it was written, in RFC 3339 with nanoseconds; empty where that was not asked for, or is
        not known.
    @ivar partial: the line goes on in the next line of this container.
    """

    pod: str
    container: str
    data: bytes
    time: str = ""
    partial: bool = False

    @property
    def text(self) -> str:
        """The bytes as text; what is not UTF-8 is replaced."""
        return self.data.decode("utf-8", "replace")


What: TypeAlias = Literal["idle", "cut", "resumed", "gap", "ended", "restarted", "complete", "gone", "failed"]


class LogMarker(msgspec.Struct, frozen=True, kw_only=True):
    """
    Something about a container's log that is no line of it.

    C{idle}: nothing came for a while. C{cut}: the stream was lost, and is asked for again; then C{resumed},
    where nothing was lost, or C{gap}, where lines between C{since} and C{until} may be. C{ended}: the
    container has, with C{exit_code} and C{reason}. C{restarted}: its next run begins. After C{complete}
    (all that there was), C{gone} (the pod was deleted) and C{failed} nothing more comes of this container;
    after C{ended} only where it is started again.

    @ivar sentence: says it for people.
    """

    pod: str
    container: str
    what: What
    sentence: str
    exit_code: int | None = None
    reason: str = ""
    since: str = ""
    until: str = ""


Item: TypeAlias = LogLine | LogMarker


class LogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a log is read.

    @ivar tail: only so many of the last lines.
    @ivar since_seconds: only what is younger than this; C{since_time}: than this time (RFC 3339).
    @ivar timestamps: tell each line's time.
    @ivar previous: the run before the present one.
    @ivar idle: seconds after which a silence is told.
    """

    follow: bool = False
    tail: int | None = None
    since_seconds: int | None = None
    since_time: str = ""
    timestamps: bool = False
    previous: bool = False
    idle: float = IDLE
