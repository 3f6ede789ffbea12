"""Whether the API server answers: from what calls see, and a question of its own where there are none."""

from __future__ import annotations

import random as _random
from collections.abc import Callable
from typing import Final

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.backoff import Backoff, Spacing
from pipeops_agent.cluster.access import ClusterAccess
from pipeops_agent.cluster.errors import ClusterError
from pipeops_agent.scheduling import DeadlineExceeded, PeriodicService, bounded

QUIET: Final = 30.0
"""Seconds without a call that got through after which the API server is asked."""

LOOK: Final = 5.0
"""Seconds between two looks at the kubeconfig's file."""

PATIENCE: Final = 10.0
"""Seconds that the answer to that question may take."""

SLOWEST: Final = 30.0
"""The longest wait, in seconds, before a server that is away is asked again."""

DOUBTS: Final = 2.0
"""Seconds between two questions, however many calls fail."""


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is known of the API server.

    @ivar version: its C{gitVersion}; None: never heard.
    @ivar sentence: why it is not reached; empty where it is.
    """

    reached: bool
    version: str | None = None
    sentence: str = ""


class Reachability(Service):
    """
    Asks for C{/version} where calls leave it open whether the API server is there.

    A call that got through is proof enough. One that did not only raises the question: it may have been its
    own fault. So whether the server is there is decided by one kind of call, with the agent's own credential.

    @param told: of what was found, each time that it may be news.
    @param changed: called, before anything is told, when another cluster is configured than before.
    """

    def __init__(
        self,
        clock: IReactorTime,
        access: ClusterAccess,
        *,
        told: Callable[[Reached], None],
        changed: Callable[[], None],
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._clock = clock
        self._access = access
        self._told = told
        self._changed = changed
        self._backoff = Backoff(clock, interval=1.0, step=1.0, cap=SLOWEST, random=lambda: 0.5 + random() / 2)
        self._doubts = Spacing(clock, DOUBTS)
        self._now = Reached(reached=False)
        self._proof: float | None = None
        self._ask_at = 0.0
        self._periodic = PeriodicService(clock, self._look, self._interval, what="looking for the cluster")

    @property
    def now(self) -> Reached:
        """What was found last."""
        return self._now

    def startService(self) -> None:
        super().startService()
        if self._access.configured:
            self._periodic.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._periodic.stopService()

    def observed(self, code: int | None) -> None:
        """An attempt of a call has ended, with this status; None: without an answer."""
        well = code is not None and code < 500 and code != 401
        if well:
            self._proof = self._clock.seconds()
        if well != self._now.reached and self._doubts.allows():
            self._ask_at = self._clock.seconds()
            self._proof = None
            self._periodic.wake()

    def _interval(self) -> float:
        """Until the question is due, but no longer than until the next look at the files."""
        return min(LOOK, max(0.0, self._due() - self._clock.seconds()))

    def _due(self) -> float:
        if self._now.reached and self._proof is not None:
            return max(self._ask_at, self._proof + QUIET)
        return self._ask_at

    async def _look(self) -> None:
        if self._access.look():
            self._another()
        if self._clock.seconds() < self._due():
            return
        try:
            asked = self._access.api.version()
            version = await bounded(self._clock, PATIENCE, asked, "asking for its version")
        except (ClusterError, DeadlineExceeded) as error:
            self._failed(error)
        else:
            self._proof = self._clock.seconds()
            self._ask_at = self._proof + QUIET
            self._backoff.succeeded()
            self._tell(Reached(reached=True, version=version.git_version))

    def _another(self) -> None:
        """Another cluster: nothing that was known holds."""
        self._proof, self._ask_at = None, self._clock.seconds()
        self._changed()

    def _failed(self, error: Exception) -> None:
        self._ask_at = self._clock.seconds() + self._backoff.failed()
        sentence = error.sentence if isinstance(error, ClusterError) else f"no answer: {error}"
        # A file that the kubeconfig names may have been replaced, or have come.
        if self._access.look(again=True):
            self._another()
        self._tell(Reached(reached=False, version=self._now.version, sentence=sentence))

    def _tell(self, reached: Reached) -> None:
        self._now = reached
        self._told(reached)
