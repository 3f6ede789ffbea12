"""
C{/api/status/connectivity}: is what the agent needs within reach? Asked of the network itself, now.

One run at a time: who asks while one is under way gets its answer, and so does who asks right after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.clock import Moment, WallClock
from pipeops_agent.scheduling import Tasks, as_deferred, bounded
from pipeops_agent.web.replies import Refusal

FRESH: Final = 2.0
"""Seconds for which an answer is given again, so that nobody makes the agent knock without end."""

PATIENCE: Final = 5.0
"""Seconds that one probe may take."""

LIMIT: Final = 10.0
"""Seconds that all may take together."""

AT_ONCE: Final = 16
"""Probes at one time: there may be a thousand forwards."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """
    One attempt to reach something.

    @ivar target: what was to be reached.
    @ivar latency_ms: how long it took, in milliseconds; null: it was not reached.
    @ivar error: why not.
    """

    ok: bool
    target: str
    latency_ms: float | None = None
    error: str | None = None


class Connectivity(msgspec.Struct, frozen=True, kw_only=True):
    """
    What of all that the agent needs is within reach.

    @ivar overall_status: C{unhealthy}: the control plane is not; C{degraded}: something else is not.
    @ivar checked_at: when the probes began.
    @ivar control_plane: an HTTP request, with everything that it takes: name, proxy, TLS, token.
    @ivar dns: the control plane's name, or its proxy's; null: it is an address.
    @ivar chisel_server: a connection, with TLS where the server has it; null: no tunnel is wanted.
    @ivar kubernetes_api: its version, asked with the agent's own credential; null: no cluster is configured.
    @ivar forwards: a connection to each forward's local address, by its name.
    """

    overall_status: Literal["healthy", "degraded", "unhealthy"]
    checked_at: Moment
    duration_ms: float
    control_plane: Probe
    dns: Probe | None
    chisel_server: Probe | None
    kubernetes_api: Probe | None
    forwards: dict[str, Probe]


class Trial(msgspec.Struct, frozen=True):
    """
    Something to be reached.

    @ivar target: its name, for people.
    @ivar attempt: begins the attempt, which fails where it is not reached.
    """

    target: str
    attempt: Callable[[], Awaitable[object]]


class Trials(msgspec.Struct, frozen=True, kw_only=True):
    """All that is to be reached; None: it is not needed."""

    control_plane: Trial
    dns: Trial | None = None
    chisel_server: Trial | None = None
    kubernetes_api: Trial | None = None
    forwards: Mapping[str, Trial] = {}


class ConnectivityService(Service):
    """
    Probes when it is asked to.

    @param trials: what is to be reached now.
    @param explain: of a target, the failure to reach it as a sentence, free of secrets.
    """

    def __init__(
        self,
        clock: IReactorTime,
        wall: WallClock,
        trials: Callable[[], Trials],
        explain: Callable[[str, Exception], str],
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._trials = trials
        self._explain = explain
        self._tasks = Tasks()
        self._waiters: list[Deferred[Connectivity]] = []
        self._last: tuple[float, Connectivity] | None = None

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._tasks.stop()

    def now(self) -> Deferred[Connectivity]:
        """
        What can be reached now. Who waits no more may cancel: the others go on waiting.

        @raise Refusal: through the result; the agent is stopping.
        """
        waiter: Deferred[Connectivity] = Deferred(self._forget)
        if self._last is not None and self._clock.seconds() - self._last[0] < FRESH:
            waiter.callback(self._last[1])
            return waiter
        self._waiters.append(waiter)
        if not self._tasks:
            self._tasks.spawn(self._run(), "probing what can be reached")
        return waiter

    def _forget(self, waiter: Deferred[Connectivity]) -> None:
        self._waiters.remove(waiter)

    async def _run(self) -> None:
        try:
            answer = await self._probe_all()
        except CancelledError:
            for waiter in self._take_waiters():
                waiter.errback(Refusal(503, "stopping", "the agent is stopping"))
            raise
        except Exception as error:
            for waiter in self._take_waiters():
                waiter.errback(error)
            raise
        self._last = (self._clock.seconds(), answer)
        for waiter in self._take_waiters():
            waiter.callback(answer)

    def _take_waiters(self) -> list[Deferred[Connectivity]]:
        waiters, self._waiters = self._waiters, []
        return waiters

    async def _probe_all(self) -> Connectivity:
        trials = self._trials()
        run = _Run(self._clock, self._explain)
        checked_at, began = self._wall(), self._clock.seconds()
        optional = (trials.dns, trials.chisel_server, trials.kubernetes_api)
        wanted = [trials.control_plane, *(each for each in optional if each), *trials.forwards.values()]
        found = iter(await _all([as_deferred(run.probe(each)) for each in wanted]))
        control_plane = next(found)
        dns, chisel_server, kubernetes_api = (next(found) if each else None for each in optional)
        forwards = dict(zip(trials.forwards, found, strict=True))
        others = (dns, chisel_server, kubernetes_api, *forwards.values())
        well = all(each is None or each.ok for each in others)
        return Connectivity(
            overall_status="unhealthy" if not control_plane.ok else "healthy" if well else "degraded",
            checked_at=checked_at,
            duration_ms=_milliseconds(self._clock.seconds() - began),
            control_plane=control_plane,
            dns=dns,
            chisel_server=chisel_server,
            kubernetes_api=kubernetes_api,
            forwards=forwards,
        )


class _Run:
    """The probes of one run: so many at once, and all of them within one deadline."""

    def __init__(self, clock: IReactorTime, explain: Callable[[str, Exception], str]) -> None:
        self._clock = clock
        self._explain = explain
        self._deadline = clock.seconds() + LIMIT
        self._turns = DeferredSemaphore(AT_ONCE)

    async def probe(self, trial: Trial) -> Probe:
        """Never fails: that something is not reached is what was asked for."""
        return await self._turns.run(lambda: as_deferred(self._attempt(trial)))

    async def _attempt(self, trial: Trial) -> Probe:
        began = self._clock.seconds()
        seconds = min(PATIENCE, self._deadline - began)
        if seconds <= 0:
            return Probe(ok=False, target=trial.target, error=f"not tried: {LIMIT:g} s were over before")
        try:
            await bounded(self._clock, seconds, trial.attempt(), "an answer")
        except CancelledError:
            raise
        except Exception as error:
            return Probe(ok=False, target=trial.target, error=self._explain(trial.target, error))
        return Probe(ok=True, target=trial.target, latency_ms=_milliseconds(self._clock.seconds() - began))


async def _all(probes: Sequence[Deferred[Probe]]) -> list[Probe]:
    """What all have found. If this is cancelled, they are."""
    try:
        return [await each for each in probes]
    finally:
        for each in probes:
            each.addErrback(lambda _: None)
            each.cancel()


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
