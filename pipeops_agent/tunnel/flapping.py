"""Flapping: sessions that come up and soon end, again and again. It has a name, a beginning and an end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

WINDOW: Final = 300.0
"""Seconds for which a session that soon ended counts."""
MANY: Final = 4
"""So many of them are flapping."""
MAX_REMEMBERED: Final = 100
"""Of more than so many no more is known than that there were so many."""


class Flapping:
    """
    Counts the sessions that were lost before they were stable.

    It begins with L{MANY} such losses within L{WINDOW} seconds, and ends when a session has lasted
    C{stable_after} seconds, or none was lost for L{WINDOW}.

    @param stable_after: the seconds after which a session is stable, asked each time.
    @param changed: called when it begins (with a sentence) and when it has ended (with None).
    @ivar sentence: what is going on; None while nothing is.
    """

    def __init__(
        self,
        clock: IReactorTime,
        stable_after: Callable[[], float],
        changed: Callable[[str | None], None],
    ) -> None:
        self._clock = clock
        self._stable_after = stable_after
        self._changed = changed
        self._losses: deque[float] = deque(maxlen=MAX_REMEMBERED)
        self._timer: IDelayedCall | None = None
        self.sentence: str | None = None

    def connected(self) -> None:
        """A session is there."""
        if self.sentence is not None:
            self._arm(self._stable_after())

    def lost(self, lasted: float, why: str) -> None:
        """A session that was there for C{lasted} seconds has ended by itself, because of C{why}."""
        if lasted >= self._stable_after():
            return
        now = self._clock.seconds()
        self._losses.append(now)
        while now - self._losses[0] > WINDOW:
            self._losses.popleft()
        if len(self._losses) < MANY:
            return
        minutes = max(1, ceil((now - self._losses[0]) / 60))
        before = self.sentence
        self.sentence = (
            f"flapping: {len(self._losses)} connections in {minutes} minute{'s' if minutes > 1 else ''},"
            f" the last ended because of: {why}"
        )
        self._arm(WINDOW)
        if before is None:
            self._changed(self.sentence)

    def forget(self) -> None:
        """What was does not count any more: another tunnel is wanted, or none."""
        self._losses.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.sentence is not None:
            self.sentence = None
            self._changed(None)

    def _arm(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.callLater(seconds, self._over)

    def _over(self) -> None:
        self._timer = None
        self.forget()
