"""Stopping in order, each step bounded: a late one is named and left behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.scheduling import DeadlineExceeded, bounded

_log = Logger(namespace="agent")


class Shutdown:
    """
    A list of steps, carried out one after the other.

    Every step has a limit of its own, so that the sum bounds the whole; one that fails or is late is logged
    by name, cancelled, and the next goes on.

    @param within: seconds for all together, where that is to be less than the sum. What comes too late is
        still called, and cancelled where it does not end at once.
    """

    def __init__(self, clock: IReactorTime, *, within: float | None = None) -> None:
        self._clock = clock
        self._within = within
        self._steps: list[tuple[str, float, Callable[[], Awaitable[object]]]] = []

    def step(self, what: str, seconds: float, stop: Callable[[], Awaitable[object]]) -> None:
        """Add a step: C{stop} is called when it is its turn, and waited for C{seconds} at most."""
        self._steps.append((what, seconds, stop))

    @property
    def bound(self) -> float:
        """The longest that all steps can take together, in seconds."""
        each = sum(seconds for _, seconds, _ in self._steps)
        return each if self._within is None else min(each, self._within)

    async def run(self) -> None:
        """Carry the steps out."""
        began = self._clock.seconds()
        for what, limit, stop in self._steps:
            seconds = limit
            if self._within is not None:
                seconds = min(limit, max(0.0, began + self._within - self._clock.seconds()))
            try:
                await bounded(self._clock, seconds, stop(), what)
            except CancelledError:
                raise
            except DeadlineExceeded as late:
                _log.warn("stopping: {reason}; going on without it", reason=str(late))
            except Exception:
                _log.failure("stopping: {what} failed; going on", what=what)
