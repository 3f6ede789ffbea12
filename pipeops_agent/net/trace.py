"""The steps of one attempt to connect: what was done, how long each took, what failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.clock import WallClock
from pipeops_agent.net.explain import explain
from pipeops_agent.status import Attempt, Step


class Trace:
    """
    Keeps the steps of one attempt, in order.

    @param clock: measures the steps.
    @param wall: says when the attempt began.
    """

    def __init__(self, clock: IReactorTime, wall: WallClock) -> None:
        self._clock = clock
        self._began = wall()
        self._steps: list[Step] = []

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps that have ended, in the order in which they did."""
        return tuple(self._steps)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is done inside; an exception is noted as a sentence and goes on."""
        began = self._clock.seconds()
        try:
            yield
        except BaseException as error:
            self._note(name, began, _sentence(error))
            raise
        self._note(name, began, None)

    def _note(self, name: str, began: float, error: str | None) -> None:
        self._steps.append(Step(name=name, seconds=self._clock.seconds() - began, error=error))

    def attempt(self, error: str | None = None) -> Attempt:
        """The attempt as it stands; C{error} defaults to that of the first step that failed."""
        if error is None:
            error = next((step.error for step in self._steps if step.error is not None), None)
        return Attempt(began=self._began, steps=self.steps, error=error)


def _sentence(error: BaseException) -> str:
    if isinstance(error, CancelledError | GeneratorExit):
        return "cancelled"
    return explain(error).sentence
