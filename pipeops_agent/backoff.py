"""How long to wait before something is tried again, and how often something may happen."""

from __future__ import annotations

import random as _random
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime

FAST_PACE: Final = 2.0
"""In a fast phase the most seconds from the beginning of one attempt to that of the next."""
FAST_FIRST: Final = 0.5
"""The most seconds before the first attempt of a fast phase."""


class Backoff:
    """
    How long to wait after the n-th failure in a row: full jitter over a growing, capped bound.

    After n failures the bound is C{min(cap, interval + step * (2**n - 1))}: after none it is the
    interval itself. A success counts for nothing until it has lasted C{stable_after} seconds: a link
    that dies a second after it came up must not be tried at full speed for ever.

    The end of a success that did last begins a fast phase of C{fast_for} seconds: what has worked for long
    most likely works again soon. Then the attempts begin 1 to 2 s apart, the first within half a second, and
    count as one failure together; when the phase is over, the waits grow as ever.

    @param fast_for: 0: there are no fast phases.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        interval: float,
        step: float,
        cap: float = 30.0,
        stable_after: float = 30.0,
        fast_for: float = 0.0,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._clock = clock
        self._interval = interval
        self._step = step
        self._cap = cap
        self._stable_after = stable_after
        self._fast_for = fast_for
        self._random = random
        self._well_since: float | None = None
        self._fast_since: float | None = None
        self._failures = 0

    @property
    def failures(self) -> int:
        """How many failures there were since things were last well for C{stable_after} seconds."""
        return 0 if self._well_for(self._stable_after) else self._failures

    @property
    def fast(self) -> bool:
        """Whether this is a fast phase."""
        # Not "until": a clock that is set back must not prolong it.
        return self._fast_since is not None and 0 <= self._clock.seconds() - self._fast_since < self._fast_for

    def _well_for(self, seconds: float) -> bool:
        return self._well_since is not None and self._clock.seconds() - self._well_since >= seconds

    def bound(self) -> float:
        """The longest that the next wait can be, in seconds, were there no further failure."""
        # 2**32 steps are past any cap; a larger power would end as an overflow after a long outage.
        growth = self._step * (2.0 ** min(self.failures, 32) - 1)
        return min(self._cap, self._interval + growth)

    def failed(self, *, took: float = 0.0, soon: bool = True) -> float:
        """
        Count a failure; return the seconds to wait before the next attempt.

        @param took: how many seconds the attempt took that has failed; 0 where a success has ended.
        @param soon: False: another attempt soon is of no use, whatever phase this is.
        """
        failures = self.failures
        # The second bound matters where stable_after is 0: then every success has lasted long enough.
        began = self._well_for(max(self._stable_after, FAST_PACE))
        self._well_since = None
        if began:
            self._fast_since = self._clock.seconds()
        if soon and self.fast:
            self._failures = max(1, failures)
            if began:
                return self._random() * min(FAST_FIRST, self.bound())
            return max(0.0, min(FAST_PACE, self.bound()) * (1 + self._random()) / 2 - took)
        self._failures = failures + 1
        return self._random() * self.bound()

    def succeeded(self) -> None:
        """Note that things are well from now on; they must stay so to count."""
        if self._well_since is None:
            self._well_since = self._clock.seconds()


class Spacing:
    """Lets something happen at most once in so many seconds."""

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._last: float | None = None

    def allows(self) -> bool:
        """Whether it may happen now; if so, it does. A clock that was set back keeps nothing from it."""
        now = self._clock.seconds()
        if self._last is not None and 0 <= now - self._last < self._seconds:
            return False
        self._last = now
        return True
