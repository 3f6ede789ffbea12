"""Tests for L{pipeops_agent.metrics}."""

from __future__ import annotations

import gc
import re
import shutil
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from unittest import SkipTest

from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.build import describe
from pipeops_agent.events import EventHub
from pipeops_agent.figures import CanaryResult, DialTimes, Flow, FlowStatus, ForwardTraffic, TunnelTraffic
from pipeops_agent.metrics import MOST_RESOURCES, ClusterCounts, Metrics, ReactorLag
from pipeops_agent.status import Attempt, ForwardStatus, StatusBoard, Step

START = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)

SPECIFIED = {
    "pipeops_agent_status",
    "pipeops_websocket_connections",
    "pipeops_sse_connections",
    "pipeops_http_requests_total",
    "pipeops_cluster_nodes_total",
    "pipeops_cluster_pods_total",
    "pipeops_agent_uptime_seconds",
    "pipeops_kubernetes_api_calls_total",
}


class MetricsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = START
        self.board = StatusBoard(EventHub(lambda: self.now), lambda: self.now)
        self.metrics = Metrics(self.board, lambda: self.now, describe("1.2.3", b'{"git_commit": "abc"}'))

    def text(self) -> str:
        return self.metrics.expose("")[0].decode()

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """The series of C{name}: the values by their labels' values, in the order of the labels' names."""
        return {
            tuple(value for _, value in sorted(sample.labels.items())): sample.value
            for family in parse_text(self.text())
            for sample in family.samples
            if sample.name == name
        }


class MetricsTests(MetricsCase):
    """What a scrape shows."""

    def test_specified_names(self) -> None:
        """The eight metrics of the specification are there from the first scrape on, with help and type."""
        self.assertLessEqual(SPECIFIED, set(re.findall(r"^# HELP (\S+) \S", self.text(), re.MULTILINE)))
        types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", self.text(), re.MULTILINE))
        self.assertEqual(types["pipeops_cluster_nodes_total"], "gauge")
        self.assertEqual(types["pipeops_http_requests_total"], "counter")

    def test_phase(self) -> None:
        """One series per phase, 1 for the present one and 0 for the others."""
        self.board.enter("registering")
        phases = self.series("pipeops_agent_status")
        self.assertEqual(phases.pop(("registering",)), 1)
        self.assertEqual(set(phases), {("starting",), ("standby",), ("running",), ("stopping",)})
        self.assertEqual(set(phases.values()), {0})

    def test_uptime(self) -> None:
        """Uptime is counted from the start, and never less than nothing where the clock is set back."""
        self.now += timedelta(seconds=90)
        self.assertEqual(self.series("pipeops_agent_uptime_seconds"), {(): 90})
        self.now = START - timedelta(days=1)
        self.assertEqual(self.series("pipeops_agent_uptime_seconds"), {(): 0})

    def test_unknown_is_left_out(self) -> None:
        """What is not known has no series, rather than a zero."""
        for name in (
            "pipeops_cluster_nodes_total",
            "pipeops_cluster_pods_total",
            "pipeops_clock_skew_seconds",
            "pipeops_heartbeat_last_success_timestamp_seconds",
            "pipeops_tunnel_round_trip_seconds",
            "pipeops_reactor_lag_seconds",
        ):
            self.assertEqual(self.series(name), {}, name)

    def test_cluster(self) -> None:
        """Nodes and pods are asked for at each scrape; an empty cluster has none, which is known."""
        counts: list[ClusterCounts | None] = [ClusterCounts(3, 40), ClusterCounts(0, 0), None]
        self.metrics.read_cluster_from(lambda: counts[0])
        self.assertEqual(self.series("pipeops_cluster_nodes_total"), {(): 3})
        self.assertEqual(self.series("pipeops_cluster_pods_total"), {(): 40})
        del counts[0]
        self.assertEqual(self.series("pipeops_cluster_pods_total"), {(): 0})
        del counts[0]
        self.assertEqual(self.series("pipeops_cluster_pods_total"), {})

    def test_connections(self) -> None:
        """WebSocket and event stream connections are 0 until somebody counts them."""
        self.assertEqual(self.series("pipeops_websocket_connections"), {(): 0})
        self.assertEqual(self.series("pipeops_sse_connections"), {(): 0})
        self.metrics.read_connections_from("sse", lambda: 4)
        self.assertEqual(self.series("pipeops_sse_connections"), {(): 4})

    def test_requests(self) -> None:
        """Requests are counted by method, route and status."""
        for code in (200, 200, 503):
            self.metrics.count_request("GET", "/ready", code)
        self.assertEqual(
            self.series("pipeops_http_requests_total"),
            {("200", "/ready", "GET"): 2, ("503", "/ready", "GET"): 1},
        )

    def test_kubernetes_calls(self) -> None:
        """Calls to the Kubernetes API are counted by verb, resource and status."""
        self.metrics.observe_kubernetes_call("list", "pods", 200, 0.2)
        self.metrics.observe_kubernetes_call("list", "pods", None, 10.0)
        self.assertEqual(
            self.series("pipeops_kubernetes_api_calls_total"),
            {("200", "pods", "list"): 1, ("error", "pods", "list"): 1},
        )
        self.assertEqual(self.series("pipeops_kubernetes_api_call_duration_seconds_sum"), {("list",): 10.2})

    def test_many_resources(self) -> None:
        """Whoever asks for resources of ever new names makes no ever new series."""
        for number in range(MOST_RESOURCES + 50):
            self.metrics.observe_kubernetes_call("get", f"things{number}", 404, 0.1)
        calls = self.series("pipeops_kubernetes_api_calls_total")
        self.assertEqual((len(calls), calls["404", "other", "get"]), (MOST_RESOURCES + 1, 50))

    def test_heartbeat(self) -> None:
        """Last success, failures in a row, and the durations."""
        self.board.set_heartbeat(last_success=START, failures=2)
        self.metrics.observe_heartbeat(0.2)
        self.assertEqual(
            self.series("pipeops_heartbeat_last_success_timestamp_seconds"), {(): START.timestamp()}
        )
        self.assertEqual(self.series("pipeops_heartbeat_consecutive_failures"), {(): 2})
        buckets = self.series("pipeops_heartbeat_duration_seconds_bucket")
        self.assertEqual((buckets[("0.1",)], buckets[("0.25",)], buckets[("+Inf",)]), (0, 1, 1))

    def test_control_plane(self) -> None:
        """Attempts to register, and the clock's skew, also where it is zero."""
        self.board.set_registration(attempts=3)
        self.board.set_clock_skew(0.0)
        self.assertEqual(self.series("pipeops_registration_attempts_total"), {(): 3})
        self.assertEqual(self.series("pipeops_clock_skew_seconds"), {(): 0})

    def test_tunnel(self) -> None:
        """The tunnel's state by name, its round trip, and its counters."""
        self.board.set_tunnel(state="connected", rtt=0.042)
        self.assertEqual(self.series("pipeops_tunnel_last_contact_timestamp_seconds"), {})
        self.assertEqual(self.series("pipeops_tunnel_flapping"), {(): 0})
        self.board.set_tunnel(contact=self.now, rebuilds=3, flapping="flapping: 4 connections in 1 minute")
        self.assertEqual(
            self.series("pipeops_tunnel_last_contact_timestamp_seconds"), {(): self.now.timestamp()}
        )
        self.assertEqual(self.series("pipeops_tunnel_flapping"), {(): 1})
        self.assertEqual(self.series("pipeops_tunnel_watchdog_rebuilds_total"), {(): 3})
        self.board.read_traffic_from(
            lambda: TunnelTraffic(connects=2, refused_channels=5, carrier_bytes_in=10, carrier_bytes_out=20)
        )
        states = self.series("pipeops_tunnel_state")
        self.assertEqual(sum(states.values()), 1)
        self.assertEqual(states[("connected",)], 1)
        self.assertEqual(self.series("pipeops_tunnel_round_trip_seconds"), {(): 0.042})
        self.assertEqual(self.series("pipeops_tunnel_connects_total"), {(): 2})
        self.assertEqual(self.series("pipeops_tunnel_refused_channels_total"), {(): 5})
        self.assertEqual(self.series("pipeops_tunnel_carrier_bytes_total"), {("in",): 10, ("out",): 20})

    def test_state_that_is_not_listed(self) -> None:
        """A state by another name is shown too, so that exactly one is always 1."""
        self.board.set_tunnel(state="dreaming")
        states = self.series("pipeops_tunnel_state")
        self.assertEqual((states[("dreaming",)], sum(states.values())), (1, 1))

    def test_forwards(self) -> None:
        """Each forward has its state, channels, bytes and failed dials."""
        self.board.set_tunnel(
            forwards=(
                ForwardStatus(name="api", local_addr="localhost:6443", state="proven"),
                ForwardStatus(name='odd "name"\n', local_addr="localhost:1"),
            )
        )
        self.board.read_traffic_from(
            lambda: TunnelTraffic(
                forwards={
                    "api": ForwardTraffic(
                        open_channels=1,
                        total_channels=7,
                        bytes_in=100,
                        bytes_out=200,
                        refused_channels=4,
                        problems={"refused": 2, "timeout": 1, "limit": 4},
                    )
                }
            )
        )
        states = self.series("pipeops_tunnel_forward_state")
        self.assertEqual((states[("api", "proven")], states[("api", "refused")]), (1, 0))
        self.assertEqual(states[('odd "name"\n', "configured")], 1)
        self.assertEqual(self.series("pipeops_tunnel_forward_open_channels"), {("api",): 1})
        self.assertEqual(self.series("pipeops_tunnel_forward_channels_total"), {("api",): 7})
        self.assertEqual(
            self.series("pipeops_tunnel_forward_failed_dials_total"),
            {("api", "refused"): 2, ("api", "timeout"): 1},
        )
        self.assertEqual(self.series("pipeops_tunnel_forward_refused_channels_total"), {("api",): 4})
        self.assertEqual(
            self.series("pipeops_tunnel_forward_bytes_total"), {("in", "api"): 100, ("out", "api"): 200}
        )

    def test_proofs(self) -> None:
        """When each forward was last confirmed, reached, and used; what is not known is left out."""
        traffic = ForwardTraffic(
            confirmed=START,
            last_dial=START + timedelta(seconds=1),
            last_out=START + timedelta(seconds=2),
            dials=DialTimes(buckets=((0.001, 1), (0.1, 3), (float("inf"), 4)), seconds=1.5),
        )
        self.board.read_traffic_from(lambda: TunnelTraffic(forwards={"api": traffic}))
        began, name = START.timestamp(), "pipeops_tunnel_forward"
        self.assertEqual(self.series(f"{name}_confirmed_timestamp_seconds"), {("api",): began})
        self.assertEqual(self.series(f"{name}_reached_timestamp_seconds"), {("api",): began + 1})
        self.assertEqual(self.series(f"{name}_last_byte_timestamp_seconds"), {("out", "api"): began + 2})
        self.assertEqual(
            self.series(f"{name}_dial_seconds_bucket"),
            {("api", "0.001"): 1, ("api", "0.1"): 3, ("api", "+Inf"): 4},
        )
        self.assertEqual(self.series(f"{name}_dial_seconds_sum"), {("api",): 1.5})
        self.assertEqual(self.series("pipeops_tunnel_canary_attempts_total"), {})

    def test_canary(self) -> None:
        """What became of the canaries."""
        canary = CanaryResult(last_success=START, rtt=0.25, error="lost", tried=5, failed=2)
        self.board.read_traffic_from(
            lambda: TunnelTraffic(forwards={"api": ForwardTraffic(canary=canary), "web": ForwardTraffic()})
        )
        for name, value in (
            ("last_success_timestamp_seconds", START.timestamp()),
            ("round_trip_seconds", 0.25),
            ("attempts_total", 5),
            ("failures_total", 2),
        ):
            self.assertEqual(self.series(f"pipeops_tunnel_canary_{name}"), {("api",): value}, name)

    def test_pauses(self) -> None:
        """Channels that wait now, and the longest of these waits."""
        flow = Flow(paused_in=1, paused_out=2, longest_pause_in=0.5, longest_pause_out=30.0)
        self.board.read_channels_from(lambda: FlowStatus(forwards={"api": flow}))
        self.assertEqual(
            self.series("pipeops_tunnel_forward_paused_channels"), {("in", "api"): 1, ("out", "api"): 2}
        )
        self.assertEqual(
            self.series("pipeops_tunnel_forward_longest_pause_seconds"),
            {("in", "api"): 0.5, ("out", "api"): 30.0},
        )

    def test_denied(self) -> None:
        """Denied dials are one number, whatever names were asked for."""
        denied = {f"host-{number}:1": 1 for number in range(50)}
        self.board.read_traffic_from(lambda: TunnelTraffic(denied_channels=50, denied=denied))
        self.assertEqual(self.series("pipeops_tunnel_denied_channels_total"), {(): 50})
        self.assertNotIn("host-", self.text())

    def test_failed_attempt(self) -> None:
        """The steps of the last attempt that failed, not of one that succeeded or was given up after it."""
        self.assertEqual(self.series("pipeops_tunnel_failed_attempt_timestamp_seconds"), {})
        steps = (Step(name="dns", seconds=0.1), Step(name="tcp", seconds=3.0, error="no answer"))
        self.board.set_tunnel(
            attempts=(
                Attempt(began=START, steps=steps, error="no answer", outcome="failed"),
                Attempt(began=START, steps=steps[:1], error="given up", outcome="given up"),
                Attempt(began=START, steps=steps[:1], outcome="connected"),
            )
        )
        self.assertEqual(
            self.series("pipeops_tunnel_failed_attempt_step_seconds"),
            {("false", "dns"): 0.1, ("true", "tcp"): 3.0},
        )

    def test_build(self) -> None:
        """What the agent was made from."""
        (labels,) = self.series("pipeops_build_info")
        self.assertEqual((labels[0], labels[-1]), ("abc", "1.2.3"))

    def test_process(self) -> None:
        """The process's own figures are there: memory, CPU, descriptors, garbage collection."""
        gc.collect()
        for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
            self.assertGreater(self.series(name)[()], 0, name)
        self.assertTrue(self.series("python_gc_collections_total"))

    def test_own_registry(self) -> None:
        """Two agents in one process share nothing, the library's registry stays empty, and no thread runs."""
        threads = threading.active_count()
        Metrics(self.board, lambda: self.now, describe("1", None)).count_request("GET", "/x", 200)
        self.assertEqual(self.series("pipeops_http_requests_total"), {})
        self.assertNotIn("pipeops_", " ".join(family.name for family in REGISTRY.collect()))
        self.assertEqual(threading.active_count(), threads)


class FormatTests(MetricsCase):
    """The two formats."""

    def test_text(self) -> None:
        """Without a preference it is Prometheus text, whatever else the header says."""
        for accept in ("", "*/*", "text/html", "text/plain;version=1.0.0", ";;,,q=", "application/json"):
            self.assertEqual(
                self.metrics.expose(accept)[1], "text/plain; version=0.0.4; charset=utf-8", accept
            )

    def test_openmetrics(self) -> None:
        """Who asks for OpenMetrics gets it, valid to its end; a version that makes no sense costs nothing."""
        self.metrics.count_request("GET", "/x", 200)
        for accept in (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2",
            "text/plain, Application/OpenMetrics-Text; version=none",
        ):
            body, content_type = self.metrics.expose(accept)
            self.assertEqual(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8")
            self.assertTrue(body.endswith(b"# EOF\n"))
        self.metrics.read_cluster_from(lambda: ClusterCounts(1, 2))
        families = {
            family.name: family for family in parse_openmetrics(self.metrics.expose(accept)[0].decode())
        }
        self.assertEqual(families["pipeops_cluster_nodes_total"].type, "gauge")
        self.assertEqual(families["pipeops_http_requests"].type, "counter")

    def test_promtool(self) -> None:
        """Prometheus's own linter has nothing to say but on the two gauges that the specification names."""
        promtool = shutil.which("promtool")
        if promtool is None:
            raise SkipTest("promtool is not installed (Debian: prometheus)")
        self.board.set_tunnel(rtt=0.1, forwards=(ForwardStatus(name="api", local_addr="localhost:1"),))
        self.metrics.read_cluster_from(lambda: ClusterCounts(1, 2))
        self.metrics.count_request("GET", "/x", 200)
        self.metrics.observe_kubernetes_call("get", "pods", 200, 0.2)
        self.metrics.observe_heartbeat(1)
        ours = "".join(
            line for line in self.text().splitlines(keepends=True) if re.match(r"(# \w+ )?pipeops_", line)
        )
        checked = subprocess.run(
            [promtool, "check", "metrics"],
            input=ours,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        complaints = [
            line
            for line in (checked.stdout + checked.stderr).splitlines()
            if not line.startswith(("pipeops_cluster_nodes_total ", "pipeops_cluster_pods_total "))
        ]
        self.assertEqual(complaints, [])


class ReactorLagTests(SynchronousTestCase):
    """How late the reactor is."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.lag = ReactorLag(self.clock)

    def test_idle(self) -> None:
        """A reactor that is on time has no lag; before the first measurement there is none either."""
        self.assertEqual(self.lag.worst, 0)
        self.lag.startService()
        self.clock.pump([1] * 5)
        self.assertEqual(self.lag.worst, 0)
        self.successResultOf(self.lag.stopService())

    def test_worst_of_the_last_minute(self) -> None:
        """A stall is shown until a minute has passed."""
        self.lag.startService()
        self.clock.pump([1, 3.5, 1])
        self.assertEqual(self.lag.worst, 2.5)
        self.clock.pump([1] * 57)
        self.assertEqual(self.lag.worst, 2.5)
        self.clock.pump([1] * 3)
        self.assertEqual(self.lag.worst, 0)
        self.successResultOf(self.lag.stopService())

    def test_stop(self) -> None:
        """Stopping leaves no timer; the time until the next start is not lag."""
        self.lag.startService()
        self.clock.advance(1)
        self.successResultOf(self.lag.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(1000)
        self.lag.startService()
        self.clock.advance(1)
        self.assertEqual(self.lag.worst, 0)
        self.successResultOf(self.lag.stopService())

    def test_shown(self) -> None:
        """The lag is a gauge once somebody measures it."""
        board = StatusBoard(EventHub(lambda: START), lambda: START)
        metrics = Metrics(board, lambda: START, describe("1", None))
        metrics.read_lag_from(lambda: 0.25)
        self.assertIn("\npipeops_reactor_lag_seconds 0.25\n", metrics.expose("")[0].decode())
