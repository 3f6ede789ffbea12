"""Who sends next: the channels in which something waits take turns."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol


class Waiting(Protocol):
    """Has something to send."""

    def flush(self) -> bool:
        """Send a bounded part of it; return whether more could go at once."""


class Turns:
    """
    The queue in front of a way out that is full at times.

    Each that waits is served once before any is served again, so one that has much holds nobody up. What
    nobody waits for costs nothing: a thousand idle channels are not in it.
    """

    def __init__(self) -> None:
        self.congested = False
        self._waiting: OrderedDict[Waiting, None] = OrderedDict()

    def hold(self, waiting: Waiting) -> None:
        """Let C{waiting} have its turn when the way out is free: after those that wait already."""
        self._waiting[waiting] = None

    def forget(self, waiting: Waiting) -> None:
        """Serve it no more."""
        self._waiting.pop(waiting, None)

    def clear(self) -> None:
        """Serve nobody any more."""
        self._waiting.clear()

    def serve(self) -> None:
        """Go on until nobody waits, or the way out is full."""
        while self._waiting and not self.congested:
            waiting, _ = self._waiting.popitem(last=False)
            if waiting.flush():
                self.hold(waiting)
