"""Tests for L{pipeops_agent.features}."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.features import standard_features
from pipeops_agent.health import FeatureState
from pipeops_agent.settings import Settings
from pipeops_agent.settings.model import AgentSettings
from pipeops_agent.settings.model_pipeops import PipeopsSettings
from pipeops_agent.settings.model_server import ServerSettings
from pipeops_agent.status import AbilityStatus, AgentStatus, ClusterStatus, KindStatus, RegistrationStatus
from tests.test_health import NOW, status


def kind(name: str, state: str = "live", message: str = "") -> KindStatus:
    """One list."""
    return KindStatus(kind=name, state=state, since=NOW, message=message)


def cluster(*lists: KindStatus, **fields: Any) -> AgentStatus:
    """A cluster that is there."""
    fields = {"message": "the API server answers", **fields}
    return status(cluster=ClusterStatus(configured=True, reachable=True, lists=lists, **fields))


class FeatureTests(SynchronousTestCase):
    def state(
        self, name: str, now: AgentStatus, *, elects: bool = False, has_home: bool = False
    ) -> FeatureState:
        settings = Settings(agent=AgentSettings(leader_election=elects))
        features = {each.name: each for each in standard_features(settings, has_home=has_home)}
        return features[name].state(now)

    def test_switches(self) -> None:
        """What is switched on by a setting is there, and what is switched off says which setting."""
        for on in (True, False):
            server = ServerSettings(enable_websocket=on, enable_sse=not on)
            features = {
                each.name: each for each in standard_features(Settings(server=server), has_home=False)
            }
            for name, path, there in (("websocket", "/ws", on), ("sse", "/api/realtime/events", not on)):
                reason = f"{path} is served" if there else f"server.enable_{name} is off"
                expected = FeatureState(enabled=there, available=there, reason=reason)
                self.assertEqual(features[name].state(status()), expected)

    def test_no_cluster(self) -> None:
        """Without a cluster nothing of it is enabled, and each says why it is not there."""
        for name in ("kubernetes", "inventory", "service_discovery", "cluster_metrics"):
            expected = FeatureState(enabled=False, available=False, reason="no cluster is configured")
            self.assertEqual(self.state(name, status()), expected)

    def test_unreachable(self) -> None:
        """One that can't be reached is the reason for all."""
        now = status(cluster=ClusterStatus(configured=True, message="get version: connection refused"))
        for name in ("kubernetes", "inventory", "cluster_metrics"):
            found = self.state(name, now)
            self.assertEqual((found.available, found.reason), (False, "get version: connection refused"))

    def test_not_watched_yet(self) -> None:
        """Before the registration there are no lists, which is no fault."""
        found = self.state("inventory", cluster())
        self.assertEqual(found.reason, "the cluster is watched once this agent is registered and active")
        self.assertFalse(found.available)

    def test_inventory(self) -> None:
        """All is well; one list is denied, which is named; nothing is there at all."""
        whole = self.state("inventory", cluster(kind("pods"), kind("nodes")))
        self.assertEqual((whole.available, whole.reason), (True, "all lists are watched"))
        part = self.state("inventory", cluster(kind("pods"), kind("nodes", "denied", "no right")))
        self.assertEqual((part.available, part.reason), (True, "nodes: denied (no right)"))
        nothing = self.state("inventory", cluster(kind("pods", "denied"), kind("nodes", "denied")))
        self.assertEqual((nothing.available, nothing.reason), (False, "pods: denied; nodes: denied"))

    def test_broken_is_still_shown(self) -> None:
        """A list whose watch is broken is available, and says so."""
        found = self.state("inventory", cluster(kind("pods", "broken", "connection refused")))
        self.assertEqual((found.available, found.reason), (True, "pods: broken (connection refused)"))

    def test_discovery(self) -> None:
        """It needs services and endpoint slices both."""
        self.assertTrue(
            self.state("service_discovery", cluster(kind("services"), kind("endpointslices"))).available
        )
        found = self.state("service_discovery", cluster(kind("services"), kind("endpointslices", "absent")))
        self.assertEqual((found.available, found.reason), (False, "endpointslices: absent"))

    def test_cluster_metrics(self) -> None:
        """Where they come from, what is missing of them, or why there are none."""
        found = self.state("cluster_metrics", cluster(usage="kubelet", usage_message="1 nodes are missing"))
        self.assertEqual((found.available, found.reason), (True, "from kubelet; 1 nodes are missing"))
        found = self.state("cluster_metrics", cluster(usage_message="metrics.k8s.io: not found"))
        self.assertEqual((found.available, found.reason), (False, "metrics.k8s.io: not found"))

    def test_abilities(self) -> None:
        """Where an operation works, what stands in its way, and what is not known yet."""
        found = self.state("exec", cluster())
        self.assertEqual((found.available, found.reason), (False, "the API server has not been asked yet"))
        now = cluster(
            abilities=(
                AbilityStatus(name="logs", state="allowed"),
                AbilityStatus(name="exec", state="namespaces", namespaces=("bank", "shop"), message="a rule"),
                AbilityStatus(name="drain", state="denied", message="no right"),
            )
        )
        for name, available, reason in (
            ("logs", True, "allowed"),
            ("exec", True, "in bank, shop alone; a rule"),
            ("drain", False, "no right"),
        ):
            self.assertEqual(
                self.state(name, now), FeatureState(enabled=True, available=available, reason=reason)
            )
        away = status(
            cluster=ClusterStatus(configured=True, message="refused", abilities=now.cluster.abilities)
        )
        self.assertEqual(self.state("logs", away).reason, "refused")

    def test_cluster_token(self) -> None:
        """Whether the control plane has a token of its own: not wanted, there, or why not."""
        for pipeops, now, expected in (
            (PipeopsSettings(), cluster(), (False, False)),
            (PipeopsSettings(cluster_service_account="control"), cluster(), (True, True)),
            (PipeopsSettings(cluster_token_file="/t"), cluster(token_message="it is empty"), (True, False)),
        ):
            features = standard_features(Settings(pipeops=pipeops), has_home=False)
            (found,) = (each.state(now) for each in features if each.name == "cluster_token")
            self.assertEqual((found.enabled, found.available), expected)
        self.assertEqual(found.reason, "it is empty")

    def test_leader_election(self) -> None:
        """Off; asked for where it can't be; active; waiting, and for whom."""
        off = self.state("leader_election", status(), has_home=True)
        self.assertEqual((off.enabled, off.reason), (False, "agent.leader_election is off"))
        nowhere = self.state("leader_election", status(), elects=True)
        self.assertEqual((nowhere.enabled, nowhere.available), (True, False))
        active = self.state("leader_election", status(phase="running"), elects=True, has_home=True)
        self.assertEqual(active.reason, "this agent is the active one")
        waiting = status(phase="standby", registration=RegistrationStatus(message="b is active"))
        found = self.state("leader_election", waiting, elects=True, has_home=True)
        self.assertEqual((found.available, found.reason), (True, "b is active"))
