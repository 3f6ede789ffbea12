"""Calls to the control plane of which others learn something: the log a secret, the metrics a duration."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from pipeops_agent.controlplane import (
    ControlPlaneClient,
    Heartbeat,
    HeartbeatAnswer,
    Registered,
    Registration,
)
from pipeops_agent.metrics import Metrics
from pipeops_agent.secrets import Secret


class Registrar:
    """Registers; the token that comes back can't be logged any more by the time that somebody has it."""

    def __init__(self, client: ControlPlaneClient, learn: Callable[[Secret], None]) -> None:
        self._client = client
        self._learn = learn

    async def register(self, registration: Registration) -> Registered:
        answer = await self._client.register(registration)
        if answer.cluster_token:
            self._learn(answer.cluster_token)
        return answer


class TimedHeartbeats:
    """Sends heartbeats, and lets the metrics know how long each took that got through."""

    def __init__(self, clock: IReactorTime, client: ControlPlaneClient, metrics: Metrics) -> None:
        self._clock = clock
        self._client = client
        self._metrics = metrics

    async def heartbeat(self, heartbeat: Heartbeat) -> HeartbeatAnswer:
        began = self._clock.seconds()
        answer = await self._client.heartbeat(heartbeat)
        self._metrics.observe_heartbeat(self._clock.seconds() - began)
        return answer
