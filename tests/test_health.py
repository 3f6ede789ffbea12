"""Tests for L{pipeops_agent.health}."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, get_args, get_type_hints

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.health import CheckResult, Feature, FeatureState, HealthCheck, Registry, standard_checks
from pipeops_agent.status import (
    TUNNEL_STATES,
    AgentStatus,
    ClusterStatus,
    HeartbeatStatus,
    RegistrationStatus,
    TunnelStatus,
)

NOW = datetime(2025, 10, 15, 8, 0, 0, tzinfo=UTC)


def status(**parts: Any) -> AgentStatus:
    """A status of which only C{parts} are of interest."""
    return AgentStatus(since=NOW, started=NOW, **parts)


class RegistryTests(SynchronousTestCase):
    """Things by name."""

    def check(self, name: str) -> HealthCheck:
        return HealthCheck(name=name, check=lambda _: CheckResult(True, "well"))

    def test_order(self) -> None:
        """They come in the order in which they were added."""
        registry: Registry[HealthCheck] = Registry()
        for name in ("b", "a", "c"):
            registry.add(self.check(name))
        self.assertEqual([check.name for check in registry], ["b", "a", "c"])

    def test_taken(self) -> None:
        """A name can be taken once only; the first keeps it."""
        registry: Registry[HealthCheck] = Registry()
        first = self.check("a")
        registry.add(first)
        with self.assertRaises(ValueError) as caught:
            registry.add(self.check("a"))
        self.assertIn("'a'", str(caught.exception))
        self.assertEqual(list(registry), [first])

    def test_added_while_read(self) -> None:
        """Adding while somebody goes through them disturbs nobody."""
        registry: Registry[HealthCheck] = Registry()
        registry.add(self.check("a"))
        names = []
        for check in registry:
            names.append(check.name)
            registry.add(self.check(check.name + "a"))
        self.assertEqual(names, ["a"])

    def test_features(self) -> None:
        """Features are kept in the same way."""
        registry: Registry[Feature] = Registry()
        state = FeatureState(enabled=True, available=False, reason="no cluster")
        registry.add(Feature(name="cluster_metrics", state=lambda _: state))
        self.assertEqual([feature.state(status()) for feature in registry], [state])


class StandardChecksTests(SynchronousTestCase):
    """The checks that every agent has."""

    def results(self, now: AgentStatus) -> dict[str, bool]:
        return {check.name: check.check(now).ok for check in standard_checks()}

    def ok(self, name: str, **parts: Any) -> bool:
        return self.results(status(**parts))[name]

    def test_names(self) -> None:
        """Readiness depends on all but the tunnel."""
        self.assertEqual(
            {check.name: check.readiness for check in standard_checks()},
            {"registration": True, "heartbeat": True, "kubernetes": True, "tunnel": False},
        )

    def test_of_their_own(self) -> None:
        """Each agent gets a registry of its own: what one adds, another does not have."""
        checks = standard_checks()
        checks.add(HealthCheck(name="mine", check=lambda _: CheckResult(True, "")))
        self.assertNotIn("mine", self.results(status()))

    def test_at_start(self) -> None:
        """At the start nothing is well that needs the control plane; what is not configured is no worry."""
        self.assertEqual(
            self.results(status()),
            {"registration": False, "heartbeat": False, "kubernetes": True, "tunnel": True},
        )

    def test_registration(self) -> None:
        """Registered, or not."""
        self.assertTrue(self.ok("registration", registration=RegistrationStatus(registered=True)))
        self.assertFalse(self.ok("registration", registration=RegistrationStatus(registered=False)))

    def test_heartbeat(self) -> None:
        """Well only while heartbeats get through: not before the first, not while they fail."""
        for state in get_args(get_type_hints(HeartbeatStatus)["state"]):
            self.assertEqual(self.ok("heartbeat", heartbeat=HeartbeatStatus(state=state)), state == "ok")

    def test_kubernetes(self) -> None:
        """A cluster counts where one is configured."""
        for configured, reachable, well in (
            (False, False, True),
            (True, False, False),
            (True, True, True),
        ):
            cluster = ClusterStatus(configured=configured, reachable=reachable)
            self.assertEqual(self.ok("kubernetes", cluster=cluster), well)

    def test_tunnel(self) -> None:
        """The tunnel is well where it is there, or not wanted; any state that is not named here is not."""
        well = {
            state for state in (*TUNNEL_STATES, "odd") if self.ok("tunnel", tunnel=TunnelStatus(state=state))
        }
        self.assertEqual(well, {"connected", "idle", "disabled"})

    def test_messages(self) -> None:
        """Each check says what the status says of its part."""
        now = status(
            registration=RegistrationStatus(message="r"),
            heartbeat=HeartbeatStatus(message="h"),
            cluster=ClusterStatus(message="k"),
            tunnel=TunnelStatus(message="t"),
        )
        self.assertEqual([check.check(now).message for check in standard_checks()], ["r", "h", "k", "t"])
