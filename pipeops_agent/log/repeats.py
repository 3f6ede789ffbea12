"""
What fails again and again is said once, then counted.

A window opens with the first record of its kind. Until it ends, the same is swallowed; its end says how
often, and opens the next, so that a failure that lasts makes one line per window, and one that is over
makes none. Records of one kind with different texts (three forwards, each refused) are shown each once, up
to a few: a text that a peer can vary at will must not defeat the counting.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pipeops_agent.clock import WallClock
from pipeops_agent.log.record import Record, timestamp

WINDOW: Final = 60.0
"""Seconds for which the same is not said again."""

MAX_VARIANTS: Final = 5
"""Different texts of one kind that are shown within one window."""

MAX_WINDOWS: Final = 256
"""Kinds kept at a time; one more closes the oldest early."""

_DIGITS: Final = re.compile(r"\d+")
_LENGTH: Final = 200


def normalized(text: str) -> str:
    """What is alike of texts that tell the same: their beginning, without its numbers."""
    return _DIGITS.sub("0", text[:_LENGTH])


class _Window:
    """
    One kind of record.

    @ivar shown: the records shown, by variant.
    @ivar swallowed: how many like each were swallowed since; those beyond L{MAX_VARIANTS} count as the last.
    """

    def __init__(self, timer: IDelayedCall, opened: float, shown: dict[str, Record]) -> None:
        self.timer = timer
        self.opened = opened
        self.shown = shown
        self.swallowed: dict[str, int] = {}


class Repeats:
    """
    Decides which of the records offered are written, and makes the lines that count the others.

    @param wall: tells the time of the records that count.
    @param emit: is handed each record that is to be written.
    """

    def __init__(
        self,
        clock: IReactorTime,
        wall: WallClock,
        emit: Callable[[Record], None],
        window: float = WINDOW,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._emit = emit
        self._seconds = window
        self._windows: dict[Hashable, _Window] = {}
        self._closed = False

    def offer(self, kind: Hashable, text: str, make: Callable[[], Record]) -> None:
        """
        Write a record, unless its like was written a short while ago.

        @param kind: what makes two records the same but for their values: component, level, format.
        @param text: the message; numbers in it make no difference.
        @param make: makes the record; not called where it is swallowed.
        """
        if self._closed:
            self._emit(make())
            return
        variant = normalized(text)
        window = self._windows.get(kind)
        if window is None:
            record = make()
            self._make_room()
            self._open(kind, {variant: record})
            self._emit(record)
        elif variant not in window.shown and len(window.shown) < MAX_VARIANTS:
            window.shown[variant] = record = make()
            self._emit(record)
        else:
            alike = variant if variant in window.shown else next(reversed(window.shown))
            window.swallowed[alike] = window.swallowed.get(alike, 0) + 1

    def close(self) -> None:
        """Say what was swallowed and leave no timer; what is offered from now on is written as it comes."""
        self._closed = True
        while self._windows:
            self._end(next(iter(self._windows)), last=True)

    def _make_room(self) -> None:
        if len(self._windows) >= MAX_WINDOWS:
            self._end(next(iter(self._windows)), last=True)

    def _open(self, kind: Hashable, shown: dict[str, Record]) -> None:
        timer = self._clock.callLater(self._seconds, self._end, kind)
        self._windows[kind] = _Window(timer, self._clock.seconds(), shown)

    def _end(self, kind: Hashable, *, last: bool = False) -> None:
        window = self._windows.pop(kind)
        if window.timer.active():
            window.timer.cancel()
        if not window.swallowed:
            return
        if not last:
            self._open(kind, window.shown)
        seconds = self._clock.seconds() - window.opened
        for variant, times in window.swallowed.items():
            self._emit(self._counted(window.shown[variant], times, seconds))

    def _counted(self, record: Record, times: int, seconds: float) -> Record:
        """The record that stands for those that were swallowed: no traceback, that was shown already."""
        often = "once" if times == 1 else f"{times} times"
        return {name: value for name, value in record.items() if name != "traceback"} | {
            "time": timestamp(self._wall()),
            "msg": f"{record['msg']} (repeated {often} in {seconds:.0f} s)",
            "repeated": times,
        }
