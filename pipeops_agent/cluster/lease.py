"""
One active agent of several replicas, by a Lease (C{coordination.k8s.io/v1}), as client-go elects leaders.

    enter():  standby --(free, expired, or ours)--> holding --(another holder, or strict and late)--> lost
    leave():  holding --> released: the next one need not wait for the lease to end

No clock but this process's own is trusted: a lease is over when its record has not changed for its duration
I{as seen from here}, whatever times stand in it: skewed clocks neither steal a lease nor wait for ever.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.clock import WallClock
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.errors import ClusterError, StatusError
from pipeops_agent.cluster.resources import LEASES
from pipeops_agent.scheduling import DeadlineExceeded, Tasks, bounded, sleep

_log = Logger(namespace="lease")

DURATION: Final = 15
"""Seconds that a lease lasts after its last renewal: client-go's usual timings, these three."""

RENEW_DEADLINE: Final = 10.0
"""Seconds without a renewal after which a strict holder gives up, well before others may begin."""

RETRY_PERIOD: Final = 2.0
"""Seconds between two looks at the lease."""

RELEASE_TIMEOUT: Final = 1.0
"""Seconds that giving the lease back may take, when the agent stops."""


class _Spec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None
    preferred_holder: str | None = None
    strategy: str | None = None


class _Lease(msgspec.Struct, frozen=True, rename="camel"):
    """@ivar metadata: whole: labels and annotations that others have put there are put back as they were."""

    metadata: dict[str, Any]
    spec: _Spec = _Spec()
    api_version: str = "coordination.k8s.io/v1"
    kind: str = "Lease"


class LeaseGate:
    """
    Lets one replica in (L{pipeops_agent.gate.StartGate}).

    @param identity: who this process is among the replicas; another one each time that it starts.
    @param strict: give up at the renew deadline, even if no other holder is seen: never two at one time.
        Else a holder that can't reach the API server goes on until it sees another.
    @param say: told, in a sentence, why this agent waits.
    """

    def __init__(
        self,
        clock: IReactorTime,
        api: Api,
        namespace: str,
        name: str,
        *,
        identity: str,
        strict: bool,
        wall: WallClock,
        say: Callable[[str], None],
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._clock = clock
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._strict = strict
        self._wall = wall
        self._say = say
        self._random = random
        self._tasks = Tasks()
        self._held: _Lease | None = None
        self._seen: _Lease | None = None
        self._changed_at = 0.0
        self._renewed_at = 0.0
        self._said = ""
        self._lost: list[Deferred[str]] = []

    # -- the gate

    async def enter(self) -> None:
        while self._held is None:
            try:
                await self._look()
            except ClusterError as error:
                self._tell(f"waiting for the lease {self._place}: {error.sentence}")
            if self._held is None:
                await sleep(self._clock, RETRY_PERIOD * (1 + 0.2 * self._random()))
        self._said = ""
        _log.info(
            "this agent holds the lease {lease} as {identity}", lease=self._place, identity=self._identity
        )
        self._tasks.spawn(self._keep(), "keeping the lease")

    async def leave(self) -> None:
        await self._tasks.stop()
        held, self._held = self._held, None
        if held is None:
            return
        given_back = msgspec.structs.replace(
            held.spec, holder_identity="", lease_duration_seconds=1, renew_time=micro_time(self._wall())
        )
        try:
            await bounded(
                self._clock, RELEASE_TIMEOUT, self._write(held, given_back), "giving back the lease"
            )
        except (ClusterError, DeadlineExceeded) as error:
            _log.warn(
                "the lease could not be given back, others wait until it ends: {error}", error=str(error)
            )

    def when_lost(self) -> Deferred[str]:
        """Fires with the reason when this agent may be active no more; one Deferred per call."""
        waiter: Deferred[str] = Deferred()
        self._lost.append(waiter)
        return waiter

    # -- looking at the lease

    async def _look(self) -> None:
        """Read the lease, and take it where it is free."""
        try:
            lease = await self._api.get(_Lease, LEASES, self._name, namespace=self._namespace)
        except StatusError as error:
            if not error.not_found:
                raise
            await self._take_new()
            return
        self._notice(lease)
        holder = lease.spec.holder_identity
        if not holder or holder == self._identity or self._is_over(lease):
            await self._take(lease)
        else:
            self._tell(f"{holder} is active and holds the lease {self._place}; this agent waits for it")

    def _notice(self, lease: _Lease) -> None:
        """Note when the record was last seen to change."""
        if self._seen is None or self._seen.spec != lease.spec:
            self._changed_at = self._clock.seconds()
        self._seen = lease

    def _is_over(self, lease: _Lease) -> bool:
        duration = lease.spec.lease_duration_seconds or DURATION
        return self._clock.seconds() - self._changed_at >= duration

    async def _take_new(self) -> None:
        made = _Lease(metadata={"name": self._name}, spec=self._taken(_Spec(), transitions=0))
        try:
            self._hold(await self._api.create(_Lease, LEASES, made, namespace=self._namespace))
        except StatusError as error:
            if not error.conflict:
                raise  # somebody else was first: look again

    async def _take(self, lease: _Lease) -> None:
        again = lease.spec.holder_identity == self._identity
        transitions = (lease.spec.lease_transitions or 0) + (0 if again else 1)
        try:
            self._hold(await self._write(lease, self._taken(lease.spec, transitions)))
        except StatusError as error:
            if not error.conflict:
                raise

    def _taken(self, spec: _Spec, transitions: int) -> _Spec:
        now = micro_time(self._wall())
        return msgspec.structs.replace(
            spec,
            holder_identity=self._identity,
            lease_duration_seconds=DURATION,
            acquire_time=now,
            renew_time=now,
            lease_transitions=transitions,
        )

    async def _write(self, lease: _Lease, spec: _Spec) -> _Lease:
        """Write the lease, provided that nobody has since it was read."""
        changed = msgspec.structs.replace(lease, spec=spec)
        return await self._api.replace(_Lease, LEASES, self._name, changed, namespace=self._namespace)

    def _hold(self, lease: _Lease) -> None:
        self._held = self._seen = lease
        self._renewed_at = self._clock.seconds()

    # -- keeping it

    async def _keep(self) -> None:
        """Renew it again and again, until it is lost."""
        while True:
            await sleep(self._clock, RETRY_PERIOD)
            try:
                left = RENEW_DEADLINE - (self._clock.seconds() - self._renewed_at)
                reason = await bounded(
                    self._clock, max(left, RETRY_PERIOD), self._renew(), "renewing the lease"
                )
            except CancelledError:
                raise
            except (ClusterError, DeadlineExceeded) as error:
                reason = self._late(error)
            if reason is not None:
                self._lose(reason)
                return

    async def _renew(self) -> str | None:
        """Renew it; return why it is lost, where it is."""
        assert self._held is not None
        renewed = msgspec.structs.replace(self._held.spec, renew_time=micro_time(self._wall()))
        try:
            self._hold(await self._write(self._held, renewed))
        except StatusError as error:
            if error.not_found:
                await self._recreate()
            elif error.conflict:
                return await self._contested()
            else:
                raise
        self._said = ""
        return None

    async def _recreate(self) -> None:
        """Somebody has deleted the lease under us: make it anew. Who is faster holds it."""
        made = _Lease(metadata={"name": self._name}, spec=self._taken(_Spec(), transitions=0))
        self._hold(await self._api.create(_Lease, LEASES, made, namespace=self._namespace))

    async def _contested(self) -> str | None:
        """Somebody has written the lease since we have: another holder, or a person who changed a label."""
        lease = await self._api.get(_Lease, LEASES, self._name, namespace=self._namespace)
        holder = lease.spec.holder_identity
        if holder == self._identity:
            self._held = lease  # renewed with the next look
            return None
        return f"{holder or 'nobody'} holds the lease {self._place} now"

    def _late(self, error: Exception) -> str | None:
        late = self._clock.seconds() - self._renewed_at
        if late < RENEW_DEADLINE:
            return None
        if self._strict:
            return f"the lease {self._place} could not be renewed for {late:.0f} s: {error}"
        self._tell(
            f"the lease {self._place} can't be renewed; this agent stays active until it sees another holder"
        )
        _log.debug("renewing the lease failed: {error}", error=str(error))
        return None

    def _lose(self, reason: str) -> None:
        _log.error("this agent is not active any more: {reason}", reason=reason)
        self._held = None
        waiters, self._lost = self._lost, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(reason)

    @property
    def _place(self) -> str:
        return f"{self._namespace}/{self._name}"

    def _tell(self, sentence: str) -> None:
        """Say why this agent waits, once for each reason."""
        if sentence != self._said:
            self._said = sentence
            _log.info("{sentence}", sentence=sentence)
            self._say(sentence)


def micro_time(moment: datetime) -> str:
    """C{meta/v1 MicroTime}: always six digits after the point, or the API server refuses it."""
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"
