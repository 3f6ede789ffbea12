"""Wall time as a parameter: every module that writes a time of day is handed one of these."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A point in time, timezone-aware: in JSON text of the form that RFC 3339 names C{date-time}."""

WallClock = Callable[[], datetime]
"""Returns the present time of day, timezone-aware, in UTC."""


SKEW_WORTH_SAYING: Final = 30.0
"""Seconds between our clock and the control plane's from which on it is said."""


def utc_now() -> datetime:
    """The system's time of day, in UTC."""
    return datetime.now(UTC)


def steady_seconds(
    wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
) -> Callable[[], float]:
    """
    Return a clock for a reactor: seconds since the epoch that never jump.

    Twisted's own is the wall clock: set back by an hour it stops every timer for an hour, set forward it
    fires them all. This one starts at the wall clock's time and then only counts.
    """
    began = wall() - monotonic()
    return lambda: began + monotonic()


def rfc3339(moment: datetime) -> str:
    """
    C{moment} as RFC 3339 in UTC to the second: C{2025-10-15T08:00:00Z}.

    @raise ValueError: C{moment} has no time zone, so that nobody can say when it is.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe_skew(skew: float | None) -> str:
    """
    What to say of our clock when the control plane's is C{skew} seconds ahead; empty: nothing.

    @param skew: None: unknown.
    """
    if skew is None or abs(skew) <= SKEW_WORTH_SAYING:
        return ""
    direction = "behind" if skew > 0 else "ahead of"
    return f"this machine's clock is {abs(skew):.0f} s {direction} the control plane's"
