"""Tests of L{pipeops_agent.cluster.facts}: what a cluster and its nodes tell of themselves."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.cluster.facts import cluster_sources, node_facts, provider_of
from pipeops_agent.cluster.objects import Node
from pipeops_agent.facts import Facts, collect_facts
from tests.cluster.case import FakeApiCase
from tests.cluster.fakeapi import Fault


def node(**fields: Any) -> Node:
    """A node of which just this is known."""
    return Node(name="n", uid="n", resource_version="1", ready=True, schedulable=True, **fields)


class ProviderTests(SynchronousTestCase):
    """Whose machine a node is."""

    def test_by_provider_id(self) -> None:
        """The scheme of the providerID says it, under the name that people use."""
        for text, provider in (
            ("aws:///eu-central-1a/i-0abc", "aws"),
            ("gce://project/zone/name", "gcp"),
            ("azure:///subscriptions/x", "azure"),
            ("digitalocean://123", "digitalocean"),
            ("hcloud://123", "hetzner"),
            ("k3s://name", "k3s"),
            ("newcloud://x", "newcloud"),
        ):
            self.assertEqual(provider_of(node(provider_id=text)), provider)

    def test_by_label(self) -> None:
        """Without a providerID a label that only one provider sets says it."""
        self.assertEqual(provider_of(node(labels=("a=b", "eks.amazonaws.com/nodegroup=x"))), "aws")

    def test_not_said(self) -> None:
        """What says nothing is nothing, and what is no name is none."""
        for text in ("", "no-scheme", "://x", "a b://x", "<b>://x"):
            self.assertEqual(provider_of(node(provider_id=text)), "")


class NodeTests(SynchronousTestCase):
    """What a node tells."""

    def test_address(self) -> None:
        """The external address goes before the internal one."""
        self.assertEqual(
            node_facts(node(internal_ip="10.0.0.1", external_ip="203.0.113.1"))["server_ip"], "203.0.113.1"
        )
        self.assertEqual(node_facts(node(internal_ip="10.0.0.1")), {"server_ip": "10.0.0.1"})

    def test_nothing(self) -> None:
        """A node that says nothing, or none at all, takes the place of no other fact."""
        self.assertEqual((node_facts(node()), node_facts(None)), ({}, {}))


class SourceTests(FakeApiCase):
    """The sources, among those of the host."""

    def setUp(self) -> None:
        super().setUp()
        for name, address in (("a", "10.0.0.1"), ("b", "10.0.0.2")):
            self.storage.create(
                "nodes",
                "",
                {
                    "metadata": {"name": name},
                    "status": {"addresses": [{"type": "InternalIP", "address": address}]},
                },
            )

    def collect(self, node_name: str = "", seconds: float = 0.0) -> Facts:
        facts: Deferred[Facts] = self.begin(
            collect_facts(
                self.clock,
                hostname="h",
                region="agent-managed",
                cloud_provider="agent",
                sources=cluster_sources(self.api, node_name),
            )
        )
        self.advance(seconds)
        return self.successResultOf(facts)

    def test_this_node(self) -> None:
        """The node that the pod runs on, by its name; the server's version; the rest as the settings say."""
        facts = self.collect("b")
        self.assertEqual((facts.k8s_version, facts.server_ip), ("v1.34.4", "10.0.0.2"))
        self.assertEqual((facts.region, facts.cloud_provider), ("agent-managed", "agent"))

    def test_any_node(self) -> None:
        """Without a name any node speaks for all."""
        self.assertEqual(self.collect().server_ip, "10.0.0.1")

    def test_denied(self) -> None:
        """What may not be read is left out, and costs nothing else."""
        self.server.allowed = lambda asked: asked.resource.plural != "nodes"
        facts = self.collect("b")
        self.assertEqual((facts.k8s_version, facts.server_ip), ("v1.34.4", None))

    def test_hangs(self) -> None:
        """A server that never answers costs five seconds."""
        self.server.faults.append(Fault(hang=True, times=9))
        facts = self.collect("b", seconds=5)
        self.assertEqual(facts.server_ip, None)
