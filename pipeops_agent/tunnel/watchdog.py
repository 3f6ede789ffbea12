"""The watchdog above all retries: it asks only how long ago there was proof that the tunnel lives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

TICK: Final = 5.0
"""Seconds between two looks, at most."""
SPREAD: Final = 0.1
"""By what part of the limit a bark may be later: a fleet that has lost its server must not act as one."""


class Watchdog:
    """
    Barks when L{fed} has not been called for as long as L{watch} says, and again after as long.

    It counts the time in which it runs itself, tick by tick. A clock that is set, or a machine that has
    slept, adds two ticks at most: what the clock says then is no silence of the tunnel.

    @param bark: told for how many seconds there has been nothing.
    """

    def __init__(
        self, clock: IReactorTime, bark: Callable[[float], None], random: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._bark = bark
        self._random = random
        self._limit = 0.0
        self._patience = 0.0
        self._quiet = 0.0
        self._looked = 0.0
        self._call: IDelayedCall | None = None

    def watch(self, limit: float) -> None:
        """Watch from now on, or further, for C{limit} seconds without food; 0: don't."""
        if limit == self._limit:
            return
        self._limit = limit
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if limit > 0:
            self.fed()
            self._wait()

    def fed(self) -> None:
        """There is proof of life."""
        self._quiet = 0.0
        self._patience = self._limit * (1 + SPREAD * self._random())

    @property
    def _tick(self) -> float:
        return min(TICK, self._limit / 4)

    def _wait(self) -> None:
        self._looked = self._clock.seconds()
        self._call = self._clock.callLater(self._tick, self._look)

    def _look(self) -> None:
        # The next look first: whatever comes of a bark, there is another.
        passed = self._clock.seconds() - self._looked
        self._wait()
        self._quiet += min(max(0.0, passed), 2 * self._tick)
        if self._quiet >= self._patience:
            quiet = self._quiet
            self.fed()
            self._bark(quiet)
