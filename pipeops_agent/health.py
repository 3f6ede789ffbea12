"""The registries of health checks and features: what C{/ready}, metrics and the heartbeat report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec
from twisted.logger import Logger

from pipeops_agent.status import AgentStatus

_log = Logger(namespace="web")


class CheckResult(msgspec.Struct, frozen=True):
    """Whether something is well, and a sentence about it."""

    ok: bool
    message: str


class HealthCheck(msgspec.Struct, frozen=True, kw_only=True):
    """
    A pure function of the status.

    @ivar readiness: whether C{/ready} depends on it; all checks count for C{degraded}.
    """

    name: str
    check: Callable[[AgentStatus], CheckResult]
    readiness: bool = True

    def run(self, status: AgentStatus) -> CheckResult:
        """What it finds; a check that fails itself has found something that is not well."""
        try:
            return self.check(status)
        except Exception:
            _log.failure("the health check {check} failed itself", check=self.name)
            return CheckResult(False, "the check itself failed")


class FeatureState(msgspec.Struct, frozen=True, kw_only=True):
    """What is switched on, and whether it works now."""

    enabled: bool
    available: bool
    reason: str


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """Something the agent can do."""

    name: str
    state: Callable[[AgentStatus], FeatureState]


N = TypeVar("N", HealthCheck, Feature)


class Registry(Generic[N]):
    """Things by name, in the order in which they were added."""

    def __init__(self) -> None:
        self._items: dict[str, N] = {}

    def add(self, item: N) -> None:
        """@raise ValueError: the name is taken."""
        if item.name in self._items:
            raise ValueError(f"{item.name!r} is registered already")
        self._items[item.name] = item

    def __iter__(self) -> Iterator[N]:
        return iter(tuple(self._items.values()))


def check_registration(status: AgentStatus) -> CheckResult:
    """Registered with the control plane."""
    return CheckResult(status.registration.registered, status.registration.message)


def check_heartbeat(status: AgentStatus) -> CheckResult:
    """Heartbeats are getting through."""
    return CheckResult(status.heartbeat.state == "ok", status.heartbeat.message)


def check_cluster(status: AgentStatus) -> CheckResult:
    """The Kubernetes API answers, where one is configured."""
    cluster = status.cluster
    return CheckResult(cluster.reachable or not cluster.configured, cluster.message)


def check_tunnel(status: AgentStatus) -> CheckResult:
    """The tunnel is there where it is wanted. Not a matter of readiness: it can't be routed to."""
    tunnel = status.tunnel
    return CheckResult(tunnel.state in ("connected", "idle", "disabled"), tunnel.message)


def standard_checks() -> Registry[HealthCheck]:
    """The checks that every agent has."""
    checks: Registry[HealthCheck] = Registry()
    checks.add(HealthCheck(name="registration", check=check_registration))
    checks.add(HealthCheck(name="heartbeat", check=check_heartbeat))
    checks.add(HealthCheck(name="kubernetes", check=check_cluster))
    checks.add(HealthCheck(name="tunnel", check=check_tunnel, readiness=False))
    return checks
