"""
What the cluster uses of its processors and memory: by C{metrics.k8s.io}, else by the kubelets themselves.

The kubelets are asked at their own address, with the agent's token, verified by the cluster's CA, for which
the right C{nodes/stats} is enough. Never through C{nodes/proxy}: with that right even a C{get} can run
commands in any pod of the node.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.clock import WallClock
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.errors import BadAnswer, ClusterError, StatusError
from pipeops_agent.cluster.inventory import Inventory
from pipeops_agent.cluster.kubelets import Kubelets
from pipeops_agent.cluster.objects import Node
from pipeops_agent.cluster.quantities import parse_quantity
from pipeops_agent.cluster.resources import NODE_METRICS, NODES, POD_METRICS, PODS
from pipeops_agent.cluster.scope import OutOfReach, Scope
from pipeops_agent.scheduling import PeriodicService

INTERVAL: Final = 30.0
"""Seconds between two looks: metrics-server itself asks the kubelets every 15 s."""

SOON: Final = 3.0
"""Seconds until the next look, while the list of nodes is not there yet."""

ABSENT_RETRY: Final = 300.0
"""Seconds until a source that is not there, or not allowed, is asked again."""

PAGE: Final = 5000
"""Objects in a page; the metrics API may ignore it and send all in one."""

MOST_PODS: Final = 50_000
"""Pods whose usage is kept; of what is beyond nothing is known."""

Source = Literal["metrics.k8s.io", "kubelet"]


class Amount(msgspec.Struct, frozen=True, gc=False):
    """Processors in cores, memory in bytes (the working set, which counts against limits)."""

    cpu: float = 0.0
    memory: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.cpu + other.cpu, self.memory + other.memory)


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """
    One look at all of it.

    @ivar nodes: by name; C{pods} by C{namespace/name}. Those of which nothing is known are not there.
    @ivar note: what is missing of it, in a sentence; empty: nothing.
    """

    source: Source
    at: datetime
    nodes: dict[str, Amount]
    pods: dict[str, Amount]
    note: str = ""

    @property
    def total(self) -> Amount:
        """All nodes together."""
        return sum(self.nodes.values(), Amount())


class UsageStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether usage is known, from where, and why not."""

    source: Source | None = None
    message: str = "not looked at yet"


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""


class _Used(msgspec.Struct):
    cpu: str = "0"
    memory: str = "0"


class _Container(msgspec.Struct):
    usage: _Used = msgspec.field(default_factory=_Used)


class _NodeMetrics(msgspec.Struct):
    """C{metrics.k8s.io/v1beta1 NodeMetrics}."""

    metadata: _Meta = msgspec.field(default_factory=_Meta)
    usage: _Used = msgspec.field(default_factory=_Used)


class _PodMetrics(msgspec.Struct):
    """C{metrics.k8s.io/v1beta1 PodMetrics}."""

    metadata: _Meta = msgspec.field(default_factory=_Meta)
    containers: list[_Container] = []


class UsageService(Service):
    """
    Looks at the usage again and again.

    @param kubelets: where there is no metrics API.
    @param told: of the status, when it has changed.
    """

    def __init__(
        self,
        clock: IReactorTime,
        api: Api,
        inventory: Inventory,
        kubelets: Kubelets,
        scope: Scope,
        *,
        wall: WallClock,
        told: Callable[[UsageStatus], None],
    ) -> None:
        self._api = api
        self._inventory = inventory
        self._kubelets = kubelets
        self._scope = scope
        self._wall = wall
        self._told = told
        self._clock = clock
        self._usage: Usage | None = None
        self._status = UsageStatus()
        self._metrics_at = 0.0
        self._metrics_problem: StatusError | None = None
        self._wait = INTERVAL
        self._periodic = PeriodicService(
            clock, self._look, lambda: self._wait, what="looking at the cluster's usage", from_start=True
        )

    @property
    def usage(self) -> Usage | None:
        """What was found last; None where that is not known any more, or never was."""
        return self._usage

    def startService(self) -> None:
        super().startService()
        self._periodic.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._usage = None
        return self._periodic.stopService()

    async def _look(self) -> None:
        reasons = []
        self._wait = INTERVAL
        for source, look in (("metrics.k8s.io", self._metrics), ("the kubelets", self._stats)):
            try:
                usage = await look()
            except (ClusterError, OutOfReach) as error:
                reasons.append(f"{source}: {error}")
            else:
                if usage is not None:
                    self._usage = usage
                    self._tell(UsageStatus(source=usage.source, message=usage.note))
                    return
        self._usage = None
        if reasons:
            self._tell(UsageStatus(message="; ".join(reasons)))

    def _tell(self, status: UsageStatus) -> None:
        if status != self._status:
            self._status = status
            self._told(status)

    # -- the metrics API

    async def _metrics(self) -> Usage:
        if self._metrics_problem is not None and self._clock.seconds() < self._metrics_at:
            raise self._metrics_problem.with_traceback(None)
        try:
            nodes = await self._nodes()
        except StatusError as error:
            if error.not_found or error.forbidden:
                self._metrics_at = self._clock.seconds() + ABSENT_RETRY
                self._metrics_problem = error
            raise
        if not nodes:
            raise BadAnswer("it knows of no node yet")
        note = ""
        try:
            pods = await self._pods()
        except (StatusError, OutOfReach) as error:
            pods, note = {}, f"of pods nothing is known: {error}"
        return Usage(source="metrics.k8s.io", at=self._wall(), nodes=nodes, pods=pods, note=note)

    async def _nodes(self) -> dict[str, Amount]:
        self._scope.check("list", NODE_METRICS, None)
        page = await self._api.page(_NodeMetrics, NODE_METRICS, limit=PAGE)
        return {each.metadata.name: _amount(each.usage) for each in page.items}

    async def _pods(self) -> dict[str, Amount]:
        found: dict[str, Amount] = {}
        if self._scope.namespaces:
            places: list[str | None] = [name for name in self._scope.namespaces if self._scope.reaches(name)]
        else:
            places = [None]
        for namespace in places:
            self._scope.check("list", POD_METRICS, namespace)
            page = await self._api.page(_PodMetrics, POD_METRICS, namespace=namespace, limit=PAGE)
            for each in page.items:
                meta = each.metadata
                if self._scope.reaches(meta.namespace) and len(found) < MOST_PODS:
                    used = (_amount(container.usage) for container in each.containers)
                    found[f"{meta.namespace}/{meta.name}"] = sum(used, Amount())
        return found

    # -- the kubelets

    async def _stats(self) -> Usage | None:
        """None: there are no nodes to ask yet."""
        self._scope.check("get", NODES, None)
        nodes: list[Node] = list(self._inventory["nodes"])
        if not nodes:
            self._wait = SOON
            return None
        used: dict[str, Amount] = {}
        pods: dict[str, Amount] = {}
        summaries, missing = await self._kubelets.ask(nodes)
        for name, summary in summaries.items():
            used[name] = Amount(summary.node.cores, summary.node.bytes)
            for pod in summary.pods:
                within = self._scope.covers(PODS) and self._scope.reaches(pod.ref.namespace)
                if within and len(pods) < MOST_PODS:
                    pods[f"{pod.ref.namespace}/{pod.ref.name}"] = Amount(pod.cores, pod.bytes)
        if not used and missing.error is not None:
            self._wait = ABSENT_RETRY if missing.refused else INTERVAL
            raise missing.error
        note = "" if missing.error is None else f"{missing.count} nodes are missing: {missing.error}"
        return Usage(source="kubelet", at=self._wall(), nodes=used, pods=pods, note=note)


def _amount(used: _Used) -> Amount:
    try:
        return Amount(parse_quantity(used.cpu), parse_quantity(used.memory))
    except ValueError:
        return Amount()
