"""
Denied dials: channels to targets that are no configured forward.

Somebody who can open channels asks for what they were not given. Each is refused and counted by what was
asked for; the hub hears of the first at once, and of what follows at most once per L{WINDOW}, with counts:
ten thousand in a second are two events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pipeops_agent.figures import DeniedDials

MAX_NAMES: Final = 64
"""Targets that are counted by name; the names come from outside. What is new after these is C{other}."""

MAX_NAME: Final = 100
"""The longest name, in characters; a longer one is cut."""

MAX_SOURCES: Final = 16
"""Sessions that are told apart within one window."""

OTHER: Final = "other"

WINDOW: Final = 10.0
"""Seconds between two events."""


class Source(msgspec.Struct, frozen=True):
    """
    Who asked.

    @ivar server: the tunnel server's URL.
    @ivar session: the number of the session to it, counted since the agent's start.
    """

    server: str = ""
    session: int = 0


class Denials:
    """
    Counts what was denied, by name.

    @ivar total: all of it, since the agent's start.
    @ivar on_news: called when there is something to L{take} that was not there before.
    """

    def __init__(self) -> None:
        self.total = 0
        self.on_news: Callable[[], None] | None = None
        self._names: dict[str, int] = {}
        self._untold: dict[Source, dict[str, int]] = {}

    @property
    def names(self) -> Mapping[str, int]:
        """How often each was asked for since the agent's start."""
        return dict(self._names)

    def note(self, asked: str, source: Source) -> None:
        """C{source} has asked for C{asked}."""
        name = asked if len(asked) <= MAX_NAME else asked[: MAX_NAME - 1] + "…"
        if name not in self._names and len(self._names) >= MAX_NAMES:
            name = OTHER
        self.total += 1
        self._names[name] = self._names.get(name, 0) + 1
        if self.on_news is None:
            return
        if source not in self._untold and len(self._untold) >= MAX_SOURCES:
            source = next(reversed(self._untold))
        targets = self._untold.setdefault(source, {})
        targets[name] = targets.get(name, 0) + 1
        self.on_news()

    def take(self) -> list[DeniedDials]:
        """What there is to tell since the last time, by session."""
        untold, self._untold = self._untold, {}
        return [
            DeniedDials(
                server=source.server,
                session=source.session,
                targets=targets,
                count=sum(targets.values()),
                total=self.total,
            )
            for source, targets in untold.items()
        ]


class DenialReporter:
    """Tells of C{denials}: the first at once, what follows once per L{WINDOW}."""

    def __init__(self, clock: IReactorTime, denials: Denials, tell: Callable[[DeniedDials], None]) -> None:
        self._clock = clock
        self._denials = denials
        self._tell = tell
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Tell from now on."""
        self._denials.on_news = self._news

    def stop(self) -> None:
        """Tell what there is, and no more; leave no timer."""
        self._denials.on_news = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flush()

    def _news(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(WINDOW, self._window_over)
            self._flush()

    def _window_over(self) -> None:
        self._timer = None
        if self._flush():
            self._timer = self._clock.callLater(WINDOW, self._window_over)

    def _flush(self) -> bool:
        """Tell what there is; return whether there was something."""
        reports = self._denials.take()
        for report in reports:
            self._tell(report)
        return bool(reports)
