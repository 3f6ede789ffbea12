"""
How far the rollout of a deployment, stateful set or daemon set is, from its own status alone.

The rules are those of C{kubectl rollout status}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from pipeops_agent.cluster.objects import Condition
from pipeops_agent.cluster.operations.base import BadRequest, counted
from pipeops_agent.cluster.resources import DAEMON_SETS, DEPLOYMENTS, STATEFUL_SETS, Resource


class Owner(msgspec.Struct):
    """C{meta/v1 OwnerReference}."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Meta(msgspec.Struct, rename="camel"):
    """C{meta/v1 ObjectMeta}, as far as rollouts need it."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[Owner] = []


class _Expression(msgspec.Struct):
    key: str
    operator: str
    values: list[str] = []


class Selector(msgspec.Struct, rename="camel"):
    """C{meta/v1 LabelSelector}."""

    match_labels: dict[str, str] = {}
    match_expressions: list[_Expression] = []

    def text(self) -> str:
        """As it stands in a query."""
        parts = [f"{key}={value}" for key, value in self.match_labels.items()]
        for each in self.match_expressions:
            values = ",".join(each.values)
            parts.append(
                {
                    "In": f"{each.key} in ({values})",
                    "NotIn": f"{each.key} notin ({values})",
                    "Exists": each.key,
                    "DoesNotExist": f"!{each.key}",
                }.get(each.operator, each.key)
            )
        return ",".join(parts)


class _Rolling(msgspec.Struct):
    partition: int = 0


class _Strategy(msgspec.Struct, rename="camel"):
    type: str = "RollingUpdate"
    rolling_update: _Rolling | None = None


class _Spec(msgspec.Struct, rename="camel"):
    selector: Selector = msgspec.field(default_factory=Selector)
    replicas: int = 1
    paused: bool = False
    update_strategy: _Strategy | None = None


class _Status(msgspec.Struct, rename="camel"):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    current_revision: str = ""
    update_revision: str = ""
    desired_number_scheduled: int = 0
    updated_number_scheduled: int = 0
    number_available: int = 0
    conditions: list[Condition] = []


class Workload(msgspec.Struct):
    """A deployment, stateful set or daemon set: what a rollout needs of it."""

    metadata: Meta
    spec: _Spec
    status: _Status = msgspec.field(default_factory=_Status)

    def condition(self, kind: str) -> Condition | None:
        """One of its conditions."""
        return next((each for each in self.status.conditions if each.type == kind), None)


class Stand(msgspec.Struct, frozen=True, kw_only=True):
    """
    How far a rollout is.

    @ivar message: what it waits for, or that it is done.
    @ivar ready: pods of the new kind that can serve, of C{wanted}.
    """

    done: bool
    message: str
    ready: int = 0
    wanted: int = 0


def stand(resource: Resource, workload: Workload) -> Stand:
    """
    How far the rollout of C{workload} is.

    @raise BadRequest: nothing rolls out by itself.
    """
    if workload.metadata.generation > workload.status.observed_generation:
        return Stand(done=False, message="waiting until the controller has seen the change")
    return _STANDS[resource.name](workload)


def _deployment(workload: Workload) -> Stand:
    status, wanted = workload.status, workload.spec.replicas
    if workload.spec.paused:
        raise BadRequest("it is paused: nothing rolls out until it is resumed")
    message, done = "", False
    if status.updated_replicas < wanted:
        message = f"{status.updated_replicas} of {counted(wanted, 'new pod')} made"
    elif status.replicas > status.updated_replicas:
        message = f"{counted(status.replicas - status.updated_replicas, 'old pod')} still to end"
    elif status.available_replicas < status.updated_replicas:
        message = f"{status.available_replicas} of {counted(status.updated_replicas, 'new pod')} available"
    else:
        message, done = f"{counted(wanted, 'pod')} available", True
    return Stand(
        done=done,
        message=message,
        ready=min(status.available_replicas, status.updated_replicas),
        wanted=wanted,
    )


def _stateful_set(workload: Workload) -> Stand:
    status, wanted = workload.status, workload.spec.replicas
    strategy = _automatic(workload)
    partition = strategy.rolling_update.partition if strategy.rolling_update else 0
    due = max(0, wanted - partition)
    message, done = "", False
    if status.ready_replicas < wanted:
        message = f"{status.ready_replicas} of {counted(wanted, 'pod')} ready"
    elif status.update_revision != status.current_revision and status.updated_replicas < due:
        message = f"{status.updated_replicas} of {counted(due, 'pod')} renewed"
    else:
        message, done = f"{counted(wanted, 'pod')} ready", True
    return Stand(done=done, message=message, ready=status.ready_replicas, wanted=wanted)


def _daemon_set(workload: Workload) -> Stand:
    status, wanted = workload.status, workload.status.desired_number_scheduled
    _automatic(workload)
    message, done = "", False
    if status.updated_number_scheduled < wanted:
        message = f"{status.updated_number_scheduled} of {counted(wanted, 'pod')} renewed"
    elif status.number_available < wanted:
        message = f"{status.number_available} of {counted(wanted, 'pod')} available"
    else:
        message, done = f"{counted(wanted, 'pod')} available", True
    return Stand(done=done, message=message, ready=status.number_available, wanted=wanted)


def _automatic(workload: Workload) -> _Strategy:
    strategy = workload.spec.update_strategy or _Strategy()
    if strategy.type != "RollingUpdate":
        raise BadRequest(f"its update strategy is {strategy.type}: pods are renewed when they are deleted")
    return strategy


_STANDS: Final[dict[str, Callable[[Workload], Stand]]] = {
    DEPLOYMENTS.name: _deployment,
    STATEFUL_SETS.name: _stateful_set,
    DAEMON_SETS.name: _daemon_set,
}
