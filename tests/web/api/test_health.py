"""Tests for L{pipeops_agent.web.api.health}."""

from __future__ import annotations

from datetime import timedelta

from pipeops_agent.events import EventHub
from pipeops_agent.figures import ForwardTraffic, TunnelTraffic
from pipeops_agent.health import CheckResult, Feature, FeatureState, HealthCheck
from pipeops_agent.status import AgentStatus, ForwardStatus, StatusBoard
from tests.web.api.case import ApiCase
from tests.web.harness import START


class DetailedHealthTests(ApiCase):
    """Everything in one answer."""

    def well(self) -> None:
        self.board.enter("running")
        self.board.identify("agent-1")
        self.board.set_registration(registered=True, message="registered as cluster c-1", cluster_id="c-1")
        self.board.set_heartbeat(state="ok", message="the last got through")
        self.board.set_tunnel(state="connected", message="up", server="wss://tunnel.example:443", rtt=0.02)

    def test_from_the_first_moment(self) -> None:
        """There is an answer before anything is known, and what is not known is null, never invented."""
        answer = self.get("/api/health/detailed").json
        self.assertEqual(answer["status"], "unhealthy")
        self.assertEqual(
            answer["agent"],
            {
                "agent_id": None,
                "version": "1.2.3",
                "phase": "starting",
                "since": "2024-01-15T10:30:00Z",
                "started": "2024-01-15T10:30:00Z",
                "uptime": "0s",
                "clock_skew": None,
            },
        )

    def test_healthy(self) -> None:
        """All checks are well: each with what it found, and when."""
        self.well()
        self.clock.advance(3600)
        answer = self.get("/api/health/detailed").json
        self.assertEqual((answer["status"], answer["agent"]["uptime"]), ("healthy", "3600s"))
        self.assertEqual(set(answer["checks"]), {"registration", "heartbeat", "kubernetes", "tunnel"})
        self.assertEqual(
            answer["checks"]["tunnel"],
            {
                "ok": True,
                "message": "up",
                "readiness": False,
                "duration_ms": 0.0,
                "checked_at": "2024-01-15T11:30:00Z",
            },
        )
        self.assertEqual(answer["registration"]["cluster_id"], "c-1")
        self.assertEqual(answer["runtime"]["memory"]["resident"], 50_000_000)

    def test_degraded(self) -> None:
        """A check that readiness does not depend on fails."""
        self.well()
        self.board.set_tunnel(state="connecting")
        self.assertEqual(self.get("/api/health/detailed").json["status"], "degraded")

    def test_unhealthy(self) -> None:
        """One fails that it does depend on."""
        self.well()
        self.board.set_heartbeat(state="failing", message="503")
        answer = self.get("/api/health/detailed").json
        self.assertEqual((answer["status"], answer["checks"]["heartbeat"]["message"]), ("unhealthy", "503"))

    def test_stopping(self) -> None:
        """An agent that stops is not healthy, however well everything still is."""
        self.well()
        self.board.enter("stopping")
        self.assertEqual(self.get("/api/health/detailed").json["status"], "unhealthy")

    def test_standby(self) -> None:
        """A standby is neither ill nor well: it waits."""
        self.board.enter("standby")
        self.assertEqual(self.get("/api/health/detailed").json["status"], "standby")

    def test_forwards(self) -> None:
        """Each forward: state, port, address, connections, bytes, the last error."""
        self.board.set_tunnel(
            forwards=(
                ForwardStatus(name="api", local_addr="localhost:6443", state="proven", remote_port=8001),
                ForwardStatus(name="idle", local_addr="localhost:1"),
            )
        )
        traffic = ForwardTraffic(
            open_channels=2,
            total_channels=7,
            bytes_in=100,
            bytes_out=2000,
            last_problem="localhost:6443 refuses connections",
            last_problem_at=START,
        )
        self.board.read_traffic_from(lambda: TunnelTraffic(forwards={"api": traffic}))
        api, idle = self.get("/api/health/detailed").json["tunnel"]["forwards"]
        self.assertEqual(
            api,
            {
                "name": "api",
                "local_addr": "localhost:6443",
                "state": "proven",
                "since": None,
                "message": "",
                "remote_port": 8001,
                "open_connections": 2,
                "total_connections": 7,
                "bytes_in": 100,
                "bytes_out": 2000,
                "last_error": "localhost:6443 refuses connections",
                "last_error_at": "2024-01-15T10:30:00Z",
            },
        )
        self.assertEqual((idle["remote_port"], idle["total_connections"]), (None, 0))

    def test_slow_check(self) -> None:
        """How long a check took is its own."""

        def slow(status: AgentStatus) -> CheckResult:
            self.clock.rightNow += 0.25
            return CheckResult(True, "it took its time")

        self.checks.add(HealthCheck(name="slow", check=slow))
        checks = self.get("/api/health/detailed").json["checks"]
        self.assertEqual((checks["slow"]["duration_ms"], checks["heartbeat"]["duration_ms"]), (250.0, 0.0))

    def test_check_that_fails_itself(self) -> None:
        """It is a check that has failed, a record in the log, and no end of the answer."""

        def breaks(status: AgentStatus) -> CheckResult:
            raise ZeroDivisionError("it is broken")

        self.checks.add(HealthCheck(name="broken", check=breaks, readiness=False))
        broken = self.get("/api/health/detailed").json["checks"]["broken"]
        self.assertEqual((broken["ok"], broken["message"]), (False, "the check itself failed"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_uptime_of_a_clock_set_back(self) -> None:
        """An uptime is never negative."""
        self.board = StatusBoard(EventHub(self.wall), lambda: START + timedelta(hours=1))
        self.build()
        self.assertEqual(self.get("/api/health/detailed").json["agent"]["uptime"], "0s")


class FeatureTests(ApiCase):
    """What is switched on, and works."""

    def test_now(self) -> None:
        """Each is asked at the moment of the request."""

        def state(status: AgentStatus) -> FeatureState:
            there = status.cluster.reachable
            return FeatureState(enabled=True, available=there, reason="it answers" if there else "away")

        self.features.add(Feature(name="kubernetes", state=state))
        for reachable, reason in ((False, "away"), (True, "it answers")):
            self.board.set_cluster(configured=True, reachable=reachable)
            self.assertEqual(
                self.get("/api/status/features").json,
                {"features": {"kubernetes": {"enabled": True, "available": reachable, "reason": reason}}},
            )
