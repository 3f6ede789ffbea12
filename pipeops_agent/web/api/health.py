"""Everything about the agent's health, in one answer; and what of its features works now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.clock import Moment, WallClock
from pipeops_agent.figures import ForwardTraffic
from pipeops_agent.health import Feature, FeatureState, HealthCheck, Registry
from pipeops_agent.status import (
    AgentStatus,
    ClusterStatus,
    ForwardState,
    ForwardStatus,
    HeartbeatStatus,
    Phase,
    RegistrationStatus,
    StatusBoard,
)
from pipeops_agent.web.api.runtime import RuntimeFigures, uptime

Verdict = Literal["healthy", "degraded", "unhealthy", "standby"]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one check has found.

    @ivar readiness: whether C{/ready} depends on it.
    @ivar duration_ms: how long it took, in milliseconds.
    """

    ok: bool
    message: str
    readiness: bool
    duration_ms: float
    checked_at: Moment


class AgentHealth(msgspec.Struct, frozen=True, kw_only=True):
    """
    The agent itself.

    @ivar agent_id: not known before the state was read.
    @ivar since: when this phase began.
    @ivar uptime: since the start, as C{"3600s"}.
    @ivar clock_skew: seconds by which the control plane's clock is ahead of this one.
    """

    agent_id: str | None
    version: str
    phase: Phase
    since: Moment
    started: Moment
    uptime: str
    clock_skew: float | None


class ForwardHealth(msgspec.Struct, frozen=True, kw_only=True):
    """
    One forward. C{in} is from the control plane to the local target.

    @ivar remote_port: the port that was allocated for it.
    @ivar last_error: why its local target was last not reached, or a connection not let in.
    """

    name: str
    local_addr: str
    state: ForwardState
    since: Moment | None
    message: str
    remote_port: int | None
    open_connections: int
    total_connections: int
    bytes_in: int
    bytes_out: int
    last_error: str | None
    last_error_at: Moment | None


class TunnelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """
    The tunnel.

    @ivar rtt: seconds that the server took to answer the last ping.
    @ivar contact: when the server last proved that it is there.
    @ivar flapping: what goes on where sessions end again and again soon after they came up.
    @ivar rebuilds: how often everything was made anew for want of any proof of life.
    """

    state: str
    since: Moment | None
    message: str
    server: str | None
    rtt: float | None
    contact: Moment | None
    flapping: str | None
    rebuilds: int
    forwards: tuple[ForwardHealth, ...]


class DetailedHealth(msgspec.Struct, frozen=True, kw_only=True):
    """
    Everything about the agent's health.

    @ivar status: C{unhealthy}: a check fails on which readiness depends; C{degraded}: another one.
    @ivar checks: by name.
    """

    status: Verdict
    timestamp: Moment
    checks: dict[str, Check]
    agent: AgentHealth
    registration: RegistrationStatus
    heartbeat: HeartbeatStatus
    tunnel: TunnelHealth
    cluster: ClusterStatus
    runtime: RuntimeFigures


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What is switched on, and whether it works now."""

    features: dict[str, FeatureState]


class HealthView:
    """
    Reads the status board.

    @param runtime: the process's figures, now.
    @param version: the agent's own.
    """

    def __init__(
        self,
        clock: IReactorTime,
        wall: WallClock,
        board: StatusBoard,
        checks: Registry[HealthCheck],
        features: Registry[Feature],
        *,
        runtime: Callable[[], RuntimeFigures],
        version: str,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._board = board
        self._checks = checks
        self._features = features
        self._runtime = runtime
        self._version = version

    def detailed(self) -> DetailedHealth:
        """Everything, at this moment."""
        status, now = self._board.now, self._wall()
        checks = {item.name: self._run(item, status) for item in self._checks}
        return DetailedHealth(
            status=_verdict(status.phase, checks),
            timestamp=now,
            checks=checks,
            agent=AgentHealth(
                agent_id=status.agent_id,
                version=self._version,
                phase=status.phase,
                since=status.since,
                started=status.started,
                uptime=uptime(status.started, now),
                clock_skew=status.clock_skew,
            ),
            registration=status.registration,
            heartbeat=status.heartbeat,
            tunnel=self._tunnel(status),
            cluster=status.cluster,
            runtime=self._runtime(),
        )

    def features(self) -> Features:
        """What can be done now."""
        status = self._board.now
        return Features(features={feature.name: feature.state(status) for feature in self._features})

    def _run(self, item: HealthCheck, status: AgentStatus) -> Check:
        began = self._clock.seconds()
        result = item.run(status)
        return Check(
            ok=result.ok,
            message=result.message,
            readiness=item.readiness,
            duration_ms=round(1000 * (self._clock.seconds() - began), 3),
            checked_at=self._wall(),
        )

    def _tunnel(self, status: AgentStatus) -> TunnelHealth:
        tunnel, traffic = status.tunnel, self._board.traffic().forwards
        return TunnelHealth(
            state=tunnel.state,
            since=tunnel.since,
            message=tunnel.message,
            server=tunnel.server,
            rtt=tunnel.rtt,
            contact=tunnel.contact,
            flapping=tunnel.flapping,
            rebuilds=tunnel.rebuilds,
            forwards=tuple(
                _forward(each, traffic.get(each.name, ForwardTraffic())) for each in tunnel.forwards
            ),
        )


def _verdict(phase: Phase, checks: dict[str, Check]) -> Verdict:
    if phase == "standby":
        return "standby"
    failing = [check for check in checks.values() if not check.ok]
    if phase == "stopping" or any(check.readiness for check in failing):
        return "unhealthy"
    return "degraded" if failing else "healthy"


def _forward(forward: ForwardStatus, traffic: ForwardTraffic) -> ForwardHealth:
    return ForwardHealth(
        name=forward.name,
        local_addr=forward.local_addr,
        state=forward.state,
        since=forward.since,
        message=forward.message,
        remote_port=forward.remote_port,
        open_connections=traffic.open_channels,
        total_connections=traffic.total_channels,
        bytes_in=traffic.bytes_in,
        bytes_out=traffic.bytes_out,
        last_error=traffic.last_problem,
        last_error_at=traffic.last_problem_at,
    )
