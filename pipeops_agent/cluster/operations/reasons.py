"""Why a rollout does not get on: read from conditions, replica sets, pods and events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.errors import ClusterError, printable
from pipeops_agent.cluster.objects import Condition
from pipeops_agent.cluster.operations.workloads import Meta, Workload
from pipeops_agent.cluster.resources import DEPLOYMENTS, EVENTS, PODS, REPLICA_SETS, Resource

T = TypeVar("T")

MAX_PODS: Final = 100
"""Pods that are looked at: what keeps one of a workload's pods keeps the others too."""

MAX_PROBLEMS: Final = 10
"""Problems that are told of."""

_REVISION: Final = "deployment.kubernetes.io/revision"
_TEMPLATE_HASH: Final = "pod-template-hash"
_REVISION_HASH: Final = "controller-revision-hash"

_LASTING: Final = {
    "ImagePullBackOff": "ImagePull",
    "ErrImagePull": "ImagePull",
    "ErrImageNeverPull": "ImagePull",
    "InvalidImageName": "ImagePull",
    "CrashLoopBackOff": "CrashLoop",
    "CreateContainerConfigError": "Configuration",
    "CreateContainerError": "Configuration",
    "RunContainerError": "Configuration",
}
"""What a container may wait for that hardly ever comes by itself."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """
    One thing that keeps a rollout.

    @ivar reason: C{ImagePull}, C{CrashLoop}, C{Configuration}, C{Quota}, C{Creation},
        C{Unschedulable}, C{Event}.
    @ivar object: where it was seen: C{pods shop/web-1}.
    @ivar message: the cluster's own words.
    @ivar lasting: whether it hardly ever passes by itself: an image that is not there; not a full cluster,
        which may grow.
    """

    reason: str
    object: str
    message: str
    lasting: bool = False

    @property
    def sentence(self) -> str:
        """For people."""
        return f"{self.object}: {self.message} ({self.reason})"


class _Reason(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Ended(msgspec.Struct, rename="camel"):
    reason: str = ""
    exit_code: int = 0


class _State(msgspec.Struct):
    waiting: _Reason | None = None
    terminated: _Ended | None = None


class _Container(msgspec.Struct, rename="camel"):
    name: str = ""
    ready: bool = False
    restart_count: int = 0
    state: _State = msgspec.field(default_factory=_State)
    last_state: _State = msgspec.field(default_factory=_State)


class _PodStatus(msgspec.Struct, rename="camel"):
    phase: str = ""
    conditions: list[Condition] = []
    container_statuses: list[_Container] = []
    init_container_statuses: list[_Container] = []


class _Pod(msgspec.Struct):
    metadata: Meta
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)

    @property
    def words(self) -> str:
        return f"pods {self.metadata.namespace}/{self.metadata.name}"

    @property
    def ready(self) -> bool:
        return any(each.type == "Ready" and each.status == "True" for each in self.status.conditions)


class _Event(msgspec.Struct):
    type: str = ""
    reason: str = ""
    message: str = ""


async def problems(api: Api, resource: Resource, workload: Workload) -> list[Problem]:
    """
    What keeps the rollout of C{workload}, the most telling first; empty: nothing that can be seen.

    What the caller may not read is left out.
    """
    found = [*_conditions(resource, workload)]
    labels: dict[str, str] = {}
    if resource.name == DEPLOYMENTS.name:
        newest = await _newest(api, workload)
        if newest is not None:
            found += _conditions(REPLICA_SETS, newest)
            labels = {_TEMPLATE_HASH: newest.metadata.labels.get(_TEMPLATE_HASH, "")}
    elif workload.status.update_revision:
        labels = {_REVISION_HASH: workload.status.update_revision}
    pods = [
        pod
        for pod in await _list(api, _Pod, PODS, workload)
        if not pod.ready and all(pod.metadata.labels.get(key) == value for key, value in labels.items())
    ]
    for pod in pods:
        found += _pod(pod)
    if not found and pods:
        found += await _events(api, pods[0].words, pods[0].metadata)
    elif not found:
        found += await _events(api, f"{resource.name} {workload.metadata.name}", workload.metadata)
    found.sort(key=lambda problem: not problem.lasting)
    unlike = {(problem.reason, problem.object): problem for problem in reversed(found)}
    return [*reversed(unlike.values())][:MAX_PROBLEMS]


def _conditions(resource: Resource, workload: Workload) -> Iterable[Problem]:
    """What a deployment or a replica set says of itself."""
    words = f"{resource.name} {workload.metadata.namespace}/{workload.metadata.name}"
    failure = workload.condition("ReplicaFailure")
    if failure is not None and failure.status == "True":
        # The words of the quota's admission plugin: there is no reason of its own.
        quota = "exceeded quota" in failure.message
        yield Problem(
            reason="Quota" if quota else "Creation",
            object=words,
            message=printable(failure.message) or failure.reason,
        )


def _pod(pod: _Pod) -> Iterable[Problem]:
    status = pod.status
    for each in status.conditions:
        if each.type == "PodScheduled" and each.status == "False":
            said = printable(each.message) or each.reason
            yield Problem(reason="Unschedulable", object=pod.words, message=said)
    for container in (*status.init_container_statuses, *status.container_statuses):
        waiting = container.state.waiting
        if waiting is None or waiting.reason not in _LASTING:
            continue
        said = f"container {container.name}: {waiting.reason}: {printable(waiting.message, 300)}"
        ended = container.last_state.terminated
        if ended is not None:
            said += f" (exit code {ended.exit_code}, {container.restart_count} restarts)"
        yield Problem(reason=_LASTING[waiting.reason], object=pod.words, message=said, lasting=True)


async def _newest(api: Api, workload: Workload) -> Workload | None:
    """The replica set of a deployment's newest revision."""
    revision = workload.metadata.annotations.get(_REVISION)
    for each in await _list(api, Workload, REPLICA_SETS, workload):
        owned = any(owner.uid == workload.metadata.uid for owner in each.metadata.owner_references)
        if owned and each.metadata.annotations.get(_REVISION) == revision:
            return each
    return None


async def _events(api: Api, words: str, meta: Meta) -> list[Problem]:
    """The warnings about one object, the latest of each reason."""
    try:
        page = await api.page(
            _Event,
            EVENTS,
            namespace=meta.namespace,
            limit=MAX_PODS,
            fields=f"involvedObject.uid={meta.uid},type=Warning",
        )
    except ClusterError:
        return []
    latest = {event.reason: event for event in page.items}
    return [
        Problem(reason="Event", object=words, message=f"{event.reason}: {printable(event.message, 300)}")
        for event in latest.values()
    ]


async def _list(api: Api, kind: type[T], resource: Resource, workload: Workload) -> list[T]:
    """The objects that a workload selects; none where they can't be read."""
    try:
        page = await api.page(
            kind,
            resource,
            namespace=workload.metadata.namespace,
            labels=workload.spec.selector.text(),
            limit=MAX_PODS,
        )
    except ClusterError:
        return []
    return page.items
