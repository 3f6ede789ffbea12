"""What the agent tells of itself."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.controlplane import describe_agent
from pipeops_agent.controlplane.messages import encode
from pipeops_agent.facts import Facts
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model import AccessSettings, AgentSettings, DenySettings, Settings
from pipeops_agent.settings.model_tunnel import Forward, TunnelSettings
from tests.controlplane.fakes import NOON

BARE = Facts(hostname="web1", region="agent-managed", cloud_provider="agent")


class DescribeTests(SynchronousTestCase):
    """L{describe_agent}."""

    def body(self, settings: Settings | None = None, facts: Facts = BARE, **changes: Any) -> dict[str, Any]:
        keywords: dict[str, Any] = {
            "agent_id": "agent-1",
            "cluster_id": None,
            "version": "1.2.3",
            "moment": NOON,
            **changes,
        }
        body: dict[str, Any] = json.loads(encode(describe_agent(settings or Settings(), facts, **keywords)))
        return body

    def test_bare(self) -> None:
        """Without any fact: what must be there is, and nothing is invented or empty."""
        self.assertEqual(
            self.body(),
            {
                "contract_version": 1,
                "capabilities": ["heartbeat", "tunnel"],
                "agent_id": "agent-1",
                "name": "default-cluster",
                "region": "agent-managed",
                "cloud_provider": "agent",
                "hostname": "web1",
                "agent_version": "1.2.3",
                "labels": {"hostname": "web1", "agent.pipeops.io/version": "1.2.3"},
                "tunnel_port_config": {"kubernetes_api": 6443, "kubelet": 10250, "agent_http": 8080},
                "metadata": {
                    "agent_mode": "vm-agent",
                    "agent_name": "pipeops-agent",
                    "registration_timestamp": "2026-03-04T12:00:00Z",
                },
            },
        )

    def test_name(self) -> None:
        """The agent's own name, which is not the cluster's, is told beside it."""
        body = self.body(Settings(agent=AgentSettings(name="agent of the shop", cluster_name="shop")))
        self.assertEqual((body["name"], body["metadata"]["agent_name"]), ("shop", "agent of the shop"))

    def test_whole(self) -> None:
        """All facts, the labels of the settings, the last known cluster, the token with its CA."""
        facts = Facts(
            hostname="web1",
            region="eu",
            cloud_provider="aws",
            server_ip="192.0.2.1",
            cpu_cores=4,
            memory_gb=16,
            disk_gb=100,
            os="Debian",
            k8s_version="v1.31.0",
        )
        settings = Settings(agent=AgentSettings(cluster_name="prod", labels={"env": "x", "hostname": "no"}))
        body = self.body(
            settings,
            facts,
            cluster_id="c-1",
            cluster_token=Secret("sa"),
            cluster_ca="PEM",
            cluster_server_name="kubernetes",
        )
        self.assertEqual(body["name"], "prod")
        self.assertEqual((body["server_ip"], body["server_code"]), ("192.0.2.1", "192.0.2.1"))
        self.assertEqual(
            body["server_specs"], {"cpu_cores": 4, "memory_gb": 16, "disk_gb": 100, "os": "Debian"}
        )
        self.assertEqual((body["region"], body["cloud_provider"]), ("eu", "aws"))
        self.assertEqual(body["k8s_version"], "v1.31.0")
        self.assertEqual(body["labels"]["env"], "x")
        self.assertEqual(body["labels"]["hostname"], "web1")
        self.assertEqual(body["metadata"]["cluster_id"], "c-1")
        self.assertEqual(
            [body["k8s_service_token"], body["k8s_ca"], body["k8s_server_name"]], ["sa", "PEM", "kubernetes"]
        )

    def test_part_of_the_facts(self) -> None:
        """What could not be found out of the host is left out, the rest is told; all of it are numbers."""
        facts = Facts(hostname="web1", region="eu", cloud_provider="aws", cpu_cores=4, memory_gb=15)
        self.assertEqual(self.body(facts=facts)["server_specs"], {"cpu_cores": 4, "memory_gb": 15})

    def test_no_token_no_ca(self) -> None:
        """The CA goes only with a token."""
        body = self.body(cluster_ca="PEM", cluster_server_name="kubernetes")
        for name in ("k8s_service_token", "k8s_ca", "k8s_server_name"):
            self.assertNotIn(name, body)

    def test_own_forwards(self) -> None:
        """The ports are those of the configured forwards."""
        forwards = (Forward(name="my-db", local_addr="[::1]:5432"),)
        body = self.body(Settings(tunnel=TunnelSettings(forwards=forwards)))
        self.assertEqual(body["tunnel_port_config"], {"my_db": 5432})

    def test_owners_switch(self) -> None:
        """What the owner has switched off is told."""
        access = AccessSettings(read_only=True, deny=DenySettings(verbs=("delete", "exec")))
        metadata = self.body(Settings(access=access))["metadata"]
        self.assertEqual(metadata["access_read_only"], "true")
        self.assertEqual(metadata["access_deny_verbs"], "delete,exec")
        self.assertNotIn("access_deny_kinds", metadata)

    def test_rights(self) -> None:
        """What the agent may do in its cluster is told where that is known, also that it is nothing."""
        self.assertNotIn("rights", self.body(Settings())["metadata"])
        for rights, expected in ((("logs", "exec@shop"), "logs,exec@shop"), ((), "none")):
            body = self.body(Settings(), facts=msgspec.structs.replace(BARE, rights=rights))
            self.assertEqual(body["metadata"]["rights"], expected)
