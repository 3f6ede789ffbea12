"""Who sends next: the channels in which something waits take turns."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

TURN: Final = 32 * 1024
LEAST_TURN: Final = 8 * 1024
"""The most that one sends of what waits in it before it is the next one's turn, and the least of that."""

TOGETHER: Final = 32 * 1024 * 1024
"""Bytes that the turns of all come to, while they are longer than the least."""


def turn_size(members: int) -> int:
    """Bytes of a turn where there are so many to take one: shorter from 1,024 on."""
    return max(LEAST_TURN, min(TURN, TOGETHER // max(1, members)))


class Waiting(Protocol):
    """Has something to send."""

    def flush(self, size: int) -> bool:
        """Send C{size} bytes of it at most; return whether more could go at once."""


class Turns:
    """
    The queue in front of a way out that is full at times.

    Each that waits is served once before any is served again, so one that has much holds nobody up. What
    nobody waits for costs nothing: a thousand idle channels are counted, and not in it.
    """

    def __init__(self) -> None:
        self.congested = False
        self._members = 0
        self._waiting: OrderedDict[Waiting, None] = OrderedDict()

    def hold(self, waiting: Waiting) -> None:
        """Let C{waiting} have its turn when the way out is free: after those that wait already."""
        self._waiting[waiting] = None

    def enter(self) -> None:
        """There is one more that may have to wait."""
        self._members += 1

    def leave(self, waiting: Waiting) -> None:
        """There is one less: serve it no more."""
        self._members -= 1
        self._waiting.pop(waiting, None)

    def clear(self) -> None:
        """Serve nobody any more."""
        self._waiting.clear()

    def serve(self) -> None:
        """Go on until nobody waits, or the way out is full."""
        while self._waiting and not self.congested:
            waiting, _ = self._waiting.popitem(last=False)
            if waiting.flush(turn_size(self._members)):
                self.hold(waiting)
