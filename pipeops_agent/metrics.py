"""
The Prometheus metrics: a registry of the agent's own, filled when it is asked.

Almost everything is read from the L{StatusBoard} at the moment of the scrape, so that metrics, health and
heartbeat can't disagree. Only what happens and is over (a request, a heartbeat's duration) is counted
here as it happens. No thread, no timer but the one of L{ReactorLag}.

What is not known is left out, never invented: a family without a series still has its help text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Literal

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.build import BuildInfo
from pipeops_agent.clock import WallClock
from pipeops_agent.metric_families import counter, gauge, one_of
from pipeops_agent.scheduling import PeriodicService
from pipeops_agent.status import PHASES, AgentStatus, StatusBoard
from pipeops_agent.tunnel_metrics import tunnel_metrics

# The time since when a counter counts doubles the number of series and is of no use to anybody here.
disable_created_metrics()

TEXT_FORMAT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_FORMAT: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_CALL_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

MOST_RESOURCES: Final = 200
"""Kinds of resources that calls are counted by; who asks for more, by whatever names, is counted as other."""

_HEARTBEAT_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

LAG_INTERVAL: Final = 1.0
"""Seconds between two measurements of the reactor's lag."""
LAG_SAMPLES: Final = 60
"""Measurements of which the worst is shown: a scrape a minute misses none."""


class ClusterCounts(msgspec.Struct, frozen=True):
    """How much the cluster holds; None: that is not known."""

    nodes: int | None
    pods: int | None


class ReactorLag(PeriodicService):
    """
    Measures how late the reactor calls what it was asked to call: how long it was busy, or not run at all.
    """

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__(clock, self._measure, lambda: LAG_INTERVAL, what="measuring the reactor's lag")
        self._due: float | None = None
        self._samples: deque[float] = deque(maxlen=LAG_SAMPLES)

    def startService(self) -> None:
        self._due = None
        self._samples.clear()
        super().startService()

    @property
    def worst(self) -> float:
        """Seconds: the worst of the last minute."""
        return max(self._samples, default=0.0)

    async def _measure(self) -> None:
        now = self._clock.seconds()
        if self._due is not None:
            self._samples.append(max(0.0, now - self._due))
        self._due = now + LAG_INTERVAL


class Metrics:
    """
    The registry, and what is counted as it happens.

    @ivar registry: never the library's global one, which any import may add to.
    """

    def __init__(self, board: StatusBoard, wall: WallClock, build: BuildInfo) -> None:
        self.registry = CollectorRegistry()
        self._sources = _Sources()
        self.registry.register(_BoardCollector(board, wall, build, self._sources))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._requests = Counter(
            "pipeops_http_requests",
            "Requests answered, by method, route and status.",
            ("method", "endpoint", "code"),
            registry=self.registry,
        )
        self._kubernetes_calls = Counter(
            "pipeops_kubernetes_api_calls",
            "Calls to the Kubernetes API, by verb, resource and status.",
            ("verb", "resource", "code"),
            registry=self.registry,
        )
        self._kubernetes_seconds = Histogram(
            "pipeops_kubernetes_api_call_duration_seconds",
            "How long calls to the Kubernetes API took; of streams, until they began.",
            ("verb",),
            buckets=_CALL_BUCKETS,
            registry=self.registry,
        )
        self._resources: set[str] = set()
        self._heartbeats = Histogram(
            "pipeops_heartbeat_duration_seconds",
            "How long the heartbeats took that got through.",
            buckets=_HEARTBEAT_BUCKETS,
            registry=self.registry,
        )

    def count_request(self, method: str, endpoint: str, code: int) -> None:
        """
        A request was answered.

        @param endpoint: the route's template, never the raw path: a peer must not be able to make series.
        """
        self._requests.labels(method, endpoint, str(code)).inc()

    def observe_kubernetes_call(self, verb: str, resource: str, code: int | None, seconds: float) -> None:
        """
        An attempt of a call to the Kubernetes API has ended.

        @param code: the answer's status; None: there was none, which is counted as C{error}.
        """
        if resource not in self._resources:
            if len(self._resources) >= MOST_RESOURCES:
                resource = "other"
            self._resources.add(resource)
        self._kubernetes_calls.labels(verb, resource, "error" if code is None else str(code)).inc()
        self._kubernetes_seconds.labels(verb).observe(seconds)

    def add(self, collector: Collector) -> None:
        """Ask C{collector} as well, at each scrape."""
        self.registry.register(collector)

    def observe_heartbeat(self, seconds: float) -> None:
        """A heartbeat got through, after so long."""
        self._heartbeats.observe(seconds)

    def read_connections_from(self, kind: Literal["websocket", "sse"], source: Callable[[], int]) -> None:
        """Ask C{source} how many connections of this kind are open."""
        self._sources.connections[kind] = source

    def connections(self, kind: Literal["websocket", "sse"]) -> int:
        """How many connections of this kind are open."""
        return self._sources.connections[kind]()

    def read_cluster_from(self, source: Callable[[], ClusterCounts | None]) -> None:
        """Ask C{source} how much the cluster holds; None: not known at the moment."""
        self._sources.cluster = source

    def read_lag_from(self, source: Callable[[], float]) -> None:
        """Ask C{source} for the reactor's lag, in seconds."""
        self._sources.lag = source

    def expose(self, accept: str) -> tuple[bytes, str]:
        """
        All metrics as text.

        @param accept: the request's C{Accept}: OpenMetrics for those who ask for it, else Prometheus text.
        @return: the text and its content type.
        """
        wanted = {part.split(";")[0].strip().lower() for part in accept.split(",")}
        if "application/openmetrics-text" in wanted:
            return openmetrics.generate_latest(self.registry), OPENMETRICS_FORMAT
        return generate_latest(self.registry), TEXT_FORMAT


class _Sources:
    """Whom to ask for what is not on the board."""

    def __init__(self) -> None:
        self.connections: dict[str, Callable[[], int]] = {"websocket": lambda: 0, "sse": lambda: 0}
        self.cluster: Callable[[], ClusterCounts | None] = lambda: None
        self.lag: Callable[[], float] | None = None


class _BoardCollector(Collector):
    """Reads the status board, and the other sources, at each scrape."""

    def __init__(self, board: StatusBoard, wall: WallClock, build: BuildInfo, sources: _Sources) -> None:
        self._board = board
        self._wall = wall
        self._build = build
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        status, traffic = self._board.now, self._board.traffic()
        yield from self._agent(status)
        yield from self._from_sources()
        yield from _control_plane(status)
        yield from tunnel_metrics(status, traffic, self._board.channels())

    def _agent(self, status: AgentStatus) -> Iterator[Metric]:
        yield one_of(
            "pipeops_agent_status", "What the agent is doing: 1 for its phase.", PHASES, status.phase
        )
        yield gauge(
            "pipeops_agent_uptime_seconds",
            "Seconds since the agent started.",
            max(0.0, (self._wall() - status.started).total_seconds()),
        )
        labels = ("version", "git_commit", "python_version", "twisted_version")
        build = GaugeMetricFamily(
            "pipeops_build_info", "What this agent was made from; always 1.", labels=labels
        )
        build.add_metric([getattr(self._build, label) for label in labels], 1)
        yield build

    def _from_sources(self) -> Iterator[Metric]:
        connections = self._sources.connections
        yield gauge(
            "pipeops_websocket_connections",
            "WebSocket connections that are open.",
            connections["websocket"](),
        )
        yield gauge("pipeops_sse_connections", "Event streams that are open.", connections["sse"]())
        cluster = self._sources.cluster()
        # Gauges all the same, under the names that the specification fixes.
        yield gauge(
            "pipeops_cluster_nodes_total", "Nodes in the cluster.", None if cluster is None else cluster.nodes
        )
        yield gauge(
            "pipeops_cluster_pods_total", "Pods in the cluster.", None if cluster is None else cluster.pods
        )
        yield gauge(
            "pipeops_reactor_lag_seconds",
            "How late the event loop called its timers, at worst, within the last minute.",
            None if self._sources.lag is None else self._sources.lag(),
        )


def _control_plane(status: AgentStatus) -> Iterator[Metric]:
    heartbeat = status.heartbeat
    yield counter(
        "pipeops_registration_attempts",
        "Attempts to register with the control plane.",
        status.registration.attempts,
    )
    yield gauge(
        "pipeops_heartbeat_last_success_timestamp_seconds",
        "When the last heartbeat got through, in Unix time.",
        None if heartbeat.last_success is None else heartbeat.last_success.timestamp(),
    )
    yield gauge(
        "pipeops_heartbeat_consecutive_failures", "Heartbeats that failed in a row.", heartbeat.failures
    )
    yield gauge(
        "pipeops_clock_skew_seconds",
        "Seconds by which the control plane's clock is ahead of this one.",
        status.clock_skew,
    )
