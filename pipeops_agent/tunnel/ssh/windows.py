"""
How far our channels' windows are open: as far as what is under way needs, and no further.

What a peer may send before it hears of us again is its channel's window. To fill the way it takes what passes
in one round trip, and some more (L{_ROOM}, L{EASY}). So a window follows what was consumed, once in a round
trip, as Linux sizes a TCP receive buffer: up to twice its size, or down by what is not opened again. A reader
that does not keep up gets no larger window, which it would only fill.

All windows of a connection together are bounded: L{LEAST} for each, and what is above that comes from one
store that the connection has. Nothing runs by itself, and an idle channel costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

LEAST: Final = 32 * 1024
"""
Bytes that each channel may have under way: a packet of the usual size.

So of very many busy ones each has to wait for its turn after every packet.
"""

STORE: Final = 4
"""The store holds so many of the largest windows."""

_FIRST: Final = 128
"""A new channel gets this part of the half of the store that is for new ones."""

EASY: Final = 2 * 1024 * 1024
EASY_SECONDS: Final = 0.05
"""
Where the way is short a window holds what passes in so many seconds, at most so many bytes.

What passes in a round trip would do, but then it would have to be opened again with every few packets.
"""

_EPOCH: Final = 0.01
"""Seconds that a pace is measured over at least."""

_PARTS: Final = 8
_PACKET: Final = 32 * 1024
"""A window is opened again when such a part of it was consumed, not for less than a packet or half of it."""

_ROOM: Final = 3
"""
A window is as large as what passes in so many round trips: one for the way there and back, one more for what
waits behind a lost packet until that has been sent again, and one to find out whether more would pass.
"""

_FASTER: Final = 1.5
"""
By how much the pace may grow in a round trip.

Where it grows by more, something was held up before: behind a lost packet others wait, and come all at once.
"""


class Windows:
    """
    The windows of one connection.

    @param seconds: the time.
    @param most: bytes of the largest window; the smallest, where that is less than L{LEAST}.
    @ivar store: bytes that windows may still grow by, all together.
    @ivar round_trip: seconds, the least that was seen; 0 before there was any. Whatever is above that is a
        queue somewhere, and windows that follow it would make it longer.
    """

    def __init__(self, seconds: Callable[[], float], most: int, *, store: int | None = None) -> None:
        self.seconds = seconds
        self.most = most
        self.least = min(LEAST, most)
        self.store = STORE * most if store is None else store
        self._kept_for_growth = self.store // 2
        self.round_trip = 0.0

    @classmethod
    def fixed(cls, size: int) -> Windows:
        """Windows of C{size} bytes each, that stay so."""
        windows = cls(float, size, store=0)
        windows.least = size
        return windows

    def note_round_trip(self, seconds: float) -> None:
        """Take a round trip into account that was just measured."""
        self.round_trip = min(seconds, self.round_trip or seconds)

    def fitting(self, pace: float) -> int:
        """The size for a channel in which so many bytes pass in a second."""
        return int(max(_ROOM * self.round_trip * pace, min(EASY_SECONDS * pace, EASY)))

    def open(self) -> Window:
        """The window of a new channel."""
        first = max(0, self.store - self._kept_for_growth) // _FIRST
        return Window(self, self.least + self.draw(min(first, self.most - self.least)))

    def draw(self, wanted: int) -> int:
        """Take as much of C{wanted} out of the store as one may: half of what is there."""
        drawn = min(wanted, self.store // 2)
        self.store -= drawn
        return drawn


class Window:
    """
    One channel's window.

    @ivar size: bytes that the peer may have under way, with those that were not consumed yet.
    """

    __slots__ = ("_behind", "_epoch", "_pace", "_passed", "_slow", "_taken", "_unread", "_windows", "size")

    def __init__(self, windows: Windows, size: int) -> None:
        self._windows = windows
        self.size = size
        self._unread = 0
        self._taken = 0
        self._passed = 0
        self._pace = 0.0
        self._behind = self._slow = False
        self._epoch = windows.seconds()

    def received(self, count: int) -> bool:
        """Note what came; return whether it was allowed to."""
        if self._unread * 4 > self.size:
            self._behind = True
        self._unread += count
        return self._unread + self._taken <= self.size

    def consumed(self, count: int) -> int:
        """Note what was delivered; return by how much the window is to be opened now, 0 mostly."""
        self._unread -= count
        self._taken += count
        if self._taken < max(self.size // _PARTS, min(_PACKET, self.size // 2)):
            return 0
        taken, self._taken = self._taken, 0
        self._passed += taken
        before = self.size
        self._fit(taken)
        return taken + self.size - before

    def close(self) -> None:
        """The channel is gone."""
        self._windows.store += self.size - self._windows.least
        self.size = self._windows.least

    def _fit(self, taken: int) -> None:
        """
        Make the window as large as it should be, once in a round trip.

        It shrinks only when it is too large twice in a row: the time before a burst is no part of its pace.

        @param taken: bytes that are about to be opened again, and the most that it may shrink by.
        """
        windows = self._windows
        now = windows.seconds()
        elapsed = now - self._epoch
        if elapsed < max(windows.round_trip, _EPOCH):
            return
        pace_before, self._pace = self._pace, self._passed / elapsed
        self._epoch, self._passed = now, 0
        behind, self._behind = self._behind, False
        twice = 2 * windows.fitting(self._pace)
        was_slow, self._slow = self._slow, twice < self.size
        wanted = windows.fitting(min(self._pace, _FASTER * pace_before))
        if wanted > self.size and not behind:
            self.size += windows.draw(min(wanted, 2 * self.size, windows.most) - self.size)
        elif self._slow and was_slow:
            shrunk = min(taken, self.size - max(twice, windows.least))
            self.size -= shrunk
            windows.store += shrunk
