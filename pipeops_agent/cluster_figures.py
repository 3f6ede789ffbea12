"""The cluster in figures, read from the inventory when they are asked for: in metrics and heartbeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeops_agent.build import build_info
from pipeops_agent.clock import WallClock
from pipeops_agent.cluster.quantities import parse_quantity
from pipeops_agent.cluster.reflector import ListState
from pipeops_agent.cluster.service import ClusterService
from pipeops_agent.events import EventHub
from pipeops_agent.metric_families import Labelled, gauge
from pipeops_agent.metrics import ClusterCounts, Metrics
from pipeops_agent.secrets import Secret
from pipeops_agent.settings import Settings
from pipeops_agent.sources import Host
from pipeops_agent.status import ClusterStatus, StatusBoard

_STATES: Final[tuple[str, ...]] = get_args(ListState)


class ClusterCollector(Collector):
    """
    The cluster's own figures.

    @param status: asked for the cluster's part of the board.
    """

    def __init__(self, cluster: ClusterService, status: Callable[[], ClusterStatus], wall: WallClock) -> None:
        self._cluster = cluster
        self._status = status
        self._wall = wall

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield gauge(
            "pipeops_cluster_reachable",
            "Whether the Kubernetes API answers; nothing where no cluster is configured.",
            float(status.reachable) if status.configured else None,
        )
        yield self._pods()
        yield self._nodes()
        yield from self._lists(status)
        yield from self._usage()

    def _pods(self) -> Metric:
        family = Labelled(GaugeMetricFamily, "pipeops_cluster_pods", "Pods within reach, by phase.", "phase")
        pods = self._cluster.whole("pods")
        if pods is not None:
            for phase, count in Counter(pod.phase for pod in pods).items():
                family.add(count, phase or "Unknown")
        return family.family

    def _nodes(self) -> Metric:
        family = Labelled(
            GaugeMetricFamily,
            "pipeops_cluster_node_condition",
            "Nodes, by condition and its status.",
            "condition",
            "status",
        )
        nodes = self._cluster.whole("nodes")
        if nodes is not None:
            found = Counter((each.type, each.status) for node in nodes for each in node.conditions)
            for (condition, value), count in found.items():
                family.add(count, condition, value.lower())
        return family.family

    def _lists(self, status: ClusterStatus) -> Iterator[Metric]:
        states = Labelled(
            GaugeMetricFamily,
            "pipeops_cluster_list_state",
            "What the agent's list of a kind is worth: 1 for its state.",
            "kind",
            "state",
        )
        ages = Labelled(
            GaugeMetricFamily,
            "pipeops_cluster_list_age_seconds",
            "Seconds since the list of a kind was last known to be the server's; 0 while it is watched.",
            "kind",
        )
        for each in status.lists:
            for state in _STATES:
                states.add(float(state == each.state), each.kind, state)
            if each.state == "live":
                ages.add(0.0, each.kind)
            elif each.synced is not None:
                ages.add(max(0.0, (self._wall() - each.synced).total_seconds()), each.kind)
        yield states.family
        yield ages.family
        watches = Labelled(
            CounterMetricFamily, "pipeops_cluster_watches", "Watches that were begun, by kind.", "kind"
        )
        keeper = self._cluster.keeper
        for kind, count in () if keeper is None else keeper.watches():
            watches.add(count, kind)
        yield watches.family

    def _usage(self) -> Iterator[Metric]:
        usage = self._cluster.usage
        total = None if usage is None else usage.total
        yield gauge(
            "pipeops_cluster_cpu_usage_cores",
            "Processors that all nodes use, in cores.",
            None if total is None else total.cpu,
        )
        yield gauge(
            "pipeops_cluster_memory_usage_bytes",
            "Memory that all nodes use (working set), in bytes.",
            None if total is None else total.memory,
        )


def cluster_counts(cluster: ClusterService) -> ClusterCounts | None:
    """How many nodes and pods there are; None: neither is known."""
    nodes, pods = cluster.whole("nodes"), cluster.whole("pods")
    if nodes is None and pods is None:
        return None
    return ClusterCounts(
        nodes=None if nodes is None else len(nodes), pods=None if pods is None else len(pods)
    )


def make_cluster(
    reactor: Any,
    settings: Settings,
    host: Host,
    board: StatusBoard,
    hub: EventHub,
    metrics: Metrics,
    *,
    keep: Callable[[str, Secret], None],
) -> ClusterService:
    """The cluster's service, whose calls and figures are in C{metrics}."""
    cluster = ClusterService(
        reactor,
        settings,
        host.cluster_surroundings,
        board,
        hub,
        version=build_info().version,
        counted=metrics.observe_kubernetes_call,
        keep=keep,
    )
    metrics.read_cluster_from(lambda: cluster_counts(cluster))
    metrics.add(ClusterCollector(cluster, lambda: board.now.cluster, host.wall))
    return cluster


def heartbeat_figures(cluster: ClusterService, status: ClusterStatus) -> dict[str, str | int]:
    """What a heartbeat carries of the cluster; what is not known is left out."""
    figures: dict[str, str | int] = {}
    if status.version is not None:
        figures["k8s_version"] = status.version
    counts = cluster_counts(cluster)
    if counts is not None:
        known = {"k8s_nodes": counts.nodes, "k8s_pods": counts.pods}
        figures.update({name: count for name, count in known.items() if count is not None})
    usage, nodes = cluster.usage, cluster.whole("nodes")
    if usage is None or nodes is None:
        return figures
    # Of the nodes whose usage is known: others would count as idle.
    measured = [node for node in nodes if node.name in usage.nodes]
    for name, used, capacity in (
        ("cpu_usage", usage.total.cpu, _sum(node.cpu for node in measured)),
        ("memory_usage", usage.total.memory, _sum(node.memory for node in measured)),
    ):
        if capacity > 0:
            figures[name] = f"{100 * used / capacity:.1f}%"
    return figures


def _sum(quantities: Iterable[str]) -> float:
    total = 0.0
    for quantity in quantities:
        try:
            total += parse_quantity(quantity)
        except ValueError:
            return 0.0
    return total
