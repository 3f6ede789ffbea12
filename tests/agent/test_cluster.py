"""An agent and its cluster: the fake API server on loopback, and everything that stands above it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.agent import Agent
from pipeops_agent.clock import utc_now
from pipeops_agent.cluster import lease, reaching, reflector
from pipeops_agent.cluster_figures import heartbeat_figures
from pipeops_agent.controlplane import registration
from pipeops_agent.errands import reset_state_of
from pipeops_agent.errors import ExitStatus
from pipeops_agent.identity import cluster_agent_id
from pipeops_agent.sandbox.pki import Authority
from pipeops_agent.settings import Loaded
from pipeops_agent.sources import Host
from tests.agent.cluster_house import ClusterHouse, pod
from tests.agent.house import REACTOR, House, change, look_until
from tests.cluster.fakeapi import Asked, FakeApi
from tests.cluster.fakeapi.listening import ListeningApi


class KubeconfigTests(ClusterHouse):
    """An agent on a VM, with a kubeconfig."""

    async def test_from_nothing_to_inventory(self) -> None:
        """Registered with the cluster's facts; ready; pods and nodes counted in metrics and heartbeats."""
        self.start_sandbox()
        self.start_api()
        self.start_agent(self.with_kubeconfig())
        await self.until_connected()
        cluster = await self.until_watched()
        self.assertEqual((cluster.reachable, cluster.version), (True, "v1.34.4"))
        told = self.known.registration
        self.assertEqual(told.k8s_version, "v1.34.4")
        self.assertEqual(
            (told.server_ip, told.region, told.cloud_provider), ("203.0.113.7", "eu-central-1", "aws")
        )
        self.assertEqual((await self.get("/ready"))[0], 200)
        for line in (
            "pipeops_cluster_nodes_total 1.0",
            "pipeops_cluster_pods_total 2.0",
            'pipeops_cluster_pods{phase="Running"} 2.0',
            'pipeops_cluster_node_condition{condition="Ready",status="true"} 1.0',
            'pipeops_cluster_list_state{kind="pods",state="live"} 1.0',
            "pipeops_cluster_reachable 1.0",
        ):
            self.assertEqual(await self.series(line), [line])
        calls = await self.series("pipeops_kubernetes_api_calls_total")
        self.assertIn('pipeops_kubernetes_api_calls_total{code="200",resource="pods",verb="list"} 1.0', calls)
        figures = heartbeat_figures(self.agent.cluster, cluster)
        self.assertEqual(figures, {"k8s_version": "v1.34.4", "k8s_nodes": 1, "k8s_pods": 2})
        states = {feature.name: feature.state(self.agent.board.now) for feature in self.agent.features}
        self.assertTrue(states["inventory"].available)
        self.assertEqual(
            (states["cluster_metrics"].enabled, states["cluster_metrics"].available), (True, False)
        )

    async def test_changes_on_the_hub(self) -> None:
        """Who listens hears of a new pod and of one that is gone, in one event."""
        self.start_sandbox()
        self.start_api()
        self.start_agent(self.with_kubeconfig())
        await self.until_watched()
        heard: list[Any] = []
        self.addCleanup(self.agent.hub.subscribe(heard.append))
        self.api.storage.create("pods", "shop", pod("c"))
        self.api.storage.delete("pods", "shop", "a")
        await look_until(lambda: [each for each in heard if each.event == "changes"], "the event")
        (event,) = [each for each in heard if each.event == "changes"]
        found = {change["key"]: change["gone"] for change in event.data["changes"]}
        self.assertEqual((event.channel, found), ("cluster", {"shop/c": False, "shop/a": True}))

    async def test_server_dies_and_returns(self) -> None:
        """
        Without its API server the agent runs on, connected, and not ready; the lists stay readable. With it
        again all is as before, also what happened meanwhile.
        """
        self.start_sandbox()
        self.start_api()
        self.start_agent(self.with_kubeconfig())
        await self.until_connected()
        await self.until_watched()
        await self.listening.stop()
        await self.until(lambda status: not status.cluster.reachable, "the loss")
        code, body = await self.get("/ready")
        self.assertEqual((code, json.loads(body)["checks"]["kubernetes"]["ok"]), (503, False))
        self.assertEqual(self.agent.board.now.tunnel.state, "connected")
        await self.until(lambda status: status.cluster.lists[2].state == "broken", "a list that says so")
        self.assertEqual(len(self.agent.cluster.inventory["pods"]), 2)
        self.api.storage.create("pods", "shop", pod("c"))
        self.listening.start()
        await self.until(lambda status: status.cluster.reachable, "the return")
        await self.until_watched()
        self.assertEqual(len(self.agent.cluster.inventory["pods"]), 3)
        self.assertEqual((await self.get("/ready"))[0], 200)
        self.assertEqual(self.logged().count("the cluster can't be reached; the agent goes on"), 1)

    async def test_lists_do_not_wait(self) -> None:
        """However long the lists would wait by themselves, they hear that the API server answers again."""
        for module, name, value in (
            (reaching, "QUIET", 0.1),
            (reflector, "RETRY_FIRST", 3600.0),
            (reflector, "RETRY_CAP", 3600.0),
        ):
            self.patch(module, name, value)
        self.start_sandbox()
        self.start_api()
        self.start_agent(self.with_kubeconfig())
        await self.until_watched()
        await self.listening.stop()
        await self.until(lambda status: not status.cluster.reachable, "the loss")
        await self.until_watched("broken")
        self.listening.start()
        await self.until_watched()

    async def test_appears_later(self) -> None:
        """
        A kubeconfig that is not there yet is a sentence, not an end. When it comes, the cluster is watched,
        and the control plane is told what it is.
        """
        self.patch(registration, "BETWEEN_REGISTRATIONS", 0.05)
        self.start_sandbox()
        self.start_api()
        path = self.directory / "kubeconfig"
        self.start_agent(self.settings(kubernetes={"kubeconfig": str(path)}))
        await self.until_connected()
        cluster = self.agent.board.now.cluster
        self.assertEqual((cluster.configured, cluster.reachable), (True, False))
        self.assertIn("there is no such file", cluster.message)
        self.assertEqual((await self.get("/ready"))[0], 503)
        self.assertFalse(self.known.registration.k8s_version)
        self.write_kubeconfig(f"http://127.0.0.1:{self.listening.port}")
        await self.until_watched()
        await look_until(lambda: self.known.registration.k8s_version == "v1.34.4", "the registration")
        self.assertEqual((await self.get("/ready"))[0], 200)

    async def test_another_cluster(self) -> None:
        """A kubeconfig that leads to another cluster: nothing of the old one stays."""
        self.start_sandbox()
        self.start_api()
        self.start_agent(self.with_kubeconfig())
        await self.until_watched()
        other = FakeApi()
        other.git_version = "v1.35.0"
        other.storage.create("pods", "other", pod("z"))
        listening = ListeningApi(REACTOR, other)
        listening.start()
        self.addCleanup(listening.stop)
        self.write_kubeconfig(f"http://127.0.0.1:{listening.port}")
        await self.until(lambda status: status.cluster.version == "v1.35.0", "the other one")
        await self.until_watched()
        self.assertEqual([each.key for each in self.agent.cluster.inventory["pods"]], ["other/z"])
        self.assertEqual(len(self.agent.cluster.inventory["nodes"]), 0)

    async def test_one_resource_denied(self) -> None:
        """403 on services costs the services, says so in the features, and is asked for no more for now."""

        def allowed(asked: Asked) -> bool:
            return asked.resource.plural != "services"

        self.api.allowed = allowed
        self.start_sandbox()
        self.start_api()
        self.start_agent(self.with_kubeconfig())
        await self.until_connected()
        cluster = await self.until_watched("live", "denied")
        self.assertEqual([each.kind for each in cluster.lists if each.state == "denied"], ["services"])
        self.assertEqual((await self.get("/ready"))[0], 200)
        states = {feature.name: feature.state(self.agent.board.now) for feature in self.agent.features}
        self.assertIn("services: denied", states["inventory"].reason)
        self.assertFalse(states["service_discovery"].available)
        asked = [one for one in self.api.seen if one[1] == "services"]
        self.assertEqual(asked, [("list", "services", None), ("list", "services", "pipeops-system")])

    async def test_rights_in_one_namespace(self) -> None:
        """With rights in its own namespace alone that is what it shows; it says so, and is ready."""
        self.api.allowed = lambda asked: asked.namespace == "shop" or asked.resource.plural == "nodes"
        self.api.storage.create("pods", "bank", pod("b"))
        self.start_sandbox()
        self.start_api()
        self.start_agent(change(self.with_kubeconfig(), agent={"pod_namespace": "shop"}))
        await self.until_watched("live", "denied")
        await self.until(lambda status: status.cluster.lists[2].namespace == "shop", "its own namespace")
        (pods,) = [each for each in self.agent.board.now.cluster.lists if each.kind == "pods"]
        self.assertEqual((pods.state, pods.namespace), ("live", "shop"))
        self.assertIn("of namespace shop alone: list pods", pods.message)
        self.assertEqual([each.key for each in self.agent.cluster.inventory["pods"]], ["shop/a", "shop/b"])
        states = {feature.name: feature.state(self.agent.board.now) for feature in self.agent.features}
        self.assertTrue(states["inventory"].available)
        self.assertEqual(await self.series("pipeops_cluster_pods_total"), [])

    async def test_owners_rules_while_running(self) -> None:
        """What the owner denies while the agent runs is forgotten at once."""
        self.start_sandbox()
        self.start_api()
        self.api.storage.create("pods", "secret", pod("s"))
        self.start_agent(self.with_kubeconfig())
        await self.until_watched()
        self.assertEqual(len(self.agent.cluster.inventory["pods"]), 3)
        denied = msgspec.structs.replace(self.agent.settings.access.deny, namespaces=("secret",))
        loaded = Loaded(change(self.agent.settings, access={"deny": denied}), {}, None)
        self.next_settings = lambda: loaded
        self.agent.reload()
        await look_until(lambda: len(self.agent.cluster.inventory["pods"]) == 2, "the two")
        await self.until_watched()
        self.assertEqual({each.namespace for each in self.agent.cluster.inventory["pods"]}, {"shop"})


class NoClusterTests(House):
    """An agent without a cluster."""

    async def test_said_once(self) -> None:
        """It is ready, says once that there is none, and asks nothing of anybody."""
        self.start_sandbox()
        self.start_agent()
        await self.until_connected()
        self.assertEqual((await self.get("/ready"))[0], 200)
        self.assertEqual(self.logged().count("no cluster is configured"), 1)
        states = {feature.name: feature.state(self.agent.board.now) for feature in self.agent.features}
        self.assertEqual(
            msgspec.structs.asdict(states["kubernetes"]),
            {"enabled": False, "available": False, "reason": "no cluster is configured"},
        )


class PodTests(ClusterHouse):
    """Agents in pods of their cluster: state in the Secret, active by the Lease."""

    def setUp(self) -> None:
        super().setUp()
        for name, value in (("DURATION", 1), ("RENEW_DEADLINE", 0.6), ("RETRY_PERIOD", 0.1)):
            self.patch(lease, name, value)
        self.authority = Authority(utc_now())
        self.account = self.directory / "serviceaccount"
        self.account.mkdir()
        (self.account / "ca.crt").write_bytes(self.authority.pem)
        (self.account / "token").write_text("the-pods-token")
        (self.account / "namespace").write_text("agents")
        self.api.users = {"the-pods-token": "agent"}
        self.api.storage.create("secrets", "agents", {"metadata": {"name": "pipeops-agent-state"}})
        self.uid = self.api.storage.get("namespaces", "", "kube-system")["metadata"]["uid"]

    def pod_host(self, name: str) -> Host:
        environ = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.listening.port),
        }
        return self.host(hostname=name, environ=environ, service_account=self.account)

    def start_pod(self, name: str, **sections: Any) -> Agent:
        settings = self.settings(**sections)
        settings = change(settings, agent={"leader_election": True, "cluster_name": "shop"})
        return self.start_agent(settings, host=self.pod_host(name))

    def state(self) -> str:
        """What is kept in the Secret."""
        secret = self.api.storage.get("secrets", "agents", "pipeops-agent-state")
        return str(secret.get("data", {}).get("state.json", ""))

    async def test_secret_and_id(self) -> None:
        """The id is the cluster's, it is in the Secret, and a lost Secret gives the same agent."""
        self.start_sandbox()
        self.start_api(self.authority.server(["127.0.0.1"]))
        agent = self.start_pod("pod-a")
        await self.until_connected()
        expected = cluster_agent_id("shop", self.uid, "agents")
        self.assertEqual(self.known.agent_id, expected)
        self.assertNotEqual(self.state(), "")
        await agent.stopService()
        self.api.storage.delete("secrets", "agents", "pipeops-agent-state")
        self.api.storage.create("secrets", "agents", {"metadata": {"name": "pipeops-agent-state"}})
        self.start_pod("pod-b")
        await self.until_connected()
        self.assertEqual(self.known.agent_id, expected)

    async def test_no_id_without_the_uid(self) -> None:
        """Who may not read kube-system makes no other id: it waits and names the right."""
        self.api.allowed = lambda asked: asked.resource.plural != "namespaces"
        self.start_sandbox()
        self.start_api(self.authority.server(["127.0.0.1"]))
        self.start_pod("pod-a")
        status = await self.until(lambda status: "kube-system" in status.registration.message, "the reason")
        self.assertIn("get on namespaces/kube-system", status.registration.message)
        self.assertEqual((list(self.sandbox.ledger), self.state()), ([], ""))

    async def test_two_replicas(self) -> None:
        """
        One is active, the other stands by; when the first one stops, the second goes on as the same agent and
        need not wait for the lease to end.
        """
        self.start_sandbox()
        self.start_api(self.authority.server(["127.0.0.1"]))
        first = self.start_pod("pod-a")
        await self.until_connected()
        known = self.known
        second = self.start_pod("pod-b")
        await self.until(lambda status: "pod-a" in status.registration.message, "the standby")
        self.assertEqual(await self.get("/ready"), (200, '{"status":"standby"}'))
        self.assertIn("waits for it", second.board.now.registration.message)
        self.assertEqual(second.board.now.cluster.lists, ())
        await first.stopService()
        await self.until_connected()
        self.assertEqual((self.known.agent_id, self.known.cluster_id), (known.agent_id, known.cluster_id))

    async def test_replaced(self) -> None:
        """An agent that finds another holder steps back, and comes again when that one has gone."""
        self.start_sandbox()
        self.start_api(self.authority.server(["127.0.0.1"]))
        self.start_pod("pod-a")
        await self.until_connected()
        place = ("leases.coordination.k8s.io", "agents", "pipeops-agent")
        taken = dict(self.api.storage.get(*place))
        taken["spec"] = {**taken["spec"], "holderIdentity": "somebody"}
        taken["metadata"] = {**taken["metadata"], "resourceVersion": ""}
        self.api.storage.replace(*place, taken)
        await self.until(
            lambda status: status.phase == "standby" and "somebody" in status.registration.message,
            "the standby",
        )
        # It never renews, so its lease ends.
        await self.until_connected()
        await self.until_watched()

    async def test_strict(self) -> None:
        """A strict one that can't renew its lease is active no more, whoever else there is."""
        self.start_sandbox()
        self.start_api(self.authority.server(["127.0.0.1"]))
        self.start_pod("pod-a", leader_election={"strict": True})
        await self.until_connected()
        await self.listening.stop()
        await self.until(lambda status: status.phase == "standby", "the standby")
        self.listening.start()
        await self.until_connected()

    async def test_not_strict(self) -> None:
        """One that is not stays active while the API server is away."""
        self.start_sandbox()
        self.start_api(self.authority.server(["127.0.0.1"]))
        self.start_pod("pod-a")
        await self.until_connected()
        since = self.agent.board.now.tunnel.since
        await self.listening.stop()
        await self.until(lambda status: not status.cluster.reachable, "the loss")
        said = "stays active until it sees another holder"
        await look_until(lambda: said in self.logged(), "its word")
        self.assertEqual(self.agent.board.now.phase, "running")
        self.listening.start()
        await self.until(lambda status: status.cluster.reachable, "the return")
        self.assertEqual(self.agent.board.now.tunnel.since, since)

    async def test_reset(self) -> None:
        """C{--reset-state} forgets the agent in its Secret, and says so; the rest of the Secret stays."""
        self.start_sandbox()
        self.start_api(self.authority.server(["127.0.0.1"]))
        agent = self.start_pod("pod-a")
        await self.until_connected()
        await agent.stopService()
        host = self.pod_host("pod-a")
        text, status = await reset_state_of(REACTOR, self.settings(), host)
        self.assertEqual(status, ExitStatus.OK)
        self.assertIn("a copy is kept beside the Secret agents/pipeops-agent-state", text)
        self.assertEqual(self.state(), "")
        await self.listening.stop()
        text, status = await reset_state_of(REACTOR, self.settings(), host)
        self.assertEqual(status, ExitStatus.FAILURE)
        self.assertIn("was not reset", text)


class ImportTests(SynchronousTestCase):
    def test_without_a_cluster(self) -> None:
        """Without a kubeconfig, in a pod too, the official client is not imported: it takes 20 MB."""
        code = (
            "import sys, pipeops_agent.agent, pipeops_agent.launch, pipeops_agent.errands;"
            "sys.exit('kubernetes' in sys.modules)"
        )
        self.assertEqual(subprocess.run([sys.executable, "-c", code], check=False).returncode, 0)
