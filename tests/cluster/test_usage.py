"""Tests of L{pipeops_agent.cluster.usage} and L{pipeops_agent.cluster.kubelets}."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred, fail
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from pipeops_agent.cluster import kubelets, usage
from pipeops_agent.cluster.config import ClusterConfig
from pipeops_agent.cluster.inventory import Inventory
from pipeops_agent.cluster.kubelets import MAX_SUMMARY, TIMEOUT, Kubelets
from pipeops_agent.cluster.objects import Node
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.cluster.usage import ABSENT_RETRY, INTERVAL, SOON, Amount, UsageService, UsageStatus
from pipeops_agent.net import CertificateProblem, ClientTLS
from tests.cluster.case import NOON, AgentsOf, FakeApiCase
from tests.cluster.fakeapi import Fault

GIB = 1024**3


class FakeKubelets(Resource):
    """
    The kubelets of all nodes, by address.

    @ivar codes: what a node's answers instead of its summary; None: nothing, ever.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.summaries: dict[str, bytes] = {}
        self.codes: dict[str, int | None] = {}
        self.seen: list[tuple[str, str, str]] = []

    def render(self, request: Request) -> Any:
        host = (request.getHeader("host") or "").partition(":")[0]
        self.seen.append((host, request.uri.decode(), request.getHeader("authorization") or ""))
        code = self.codes.get(host, 200)
        if code is None:
            return NOT_DONE_YET
        request.setResponseCode(code)
        return self.summaries[host] if code == 200 else b"no"


class RoundOfAgents(AgentsOf):
    """To the fake kubelets; nothing is left to close."""

    async def close(self) -> None:
        pass


class SelfSigned:
    """To kubelets that have signed their own certificates, as they do by default."""

    def request(self, *arguments: Any) -> Deferred[Any]:
        return fail(
            CertificateProblem(
                "self-signed",
                subject="a",
                issuer="CN=a-ca@1700000000",
                not_before=NOON,
                not_after=NOON,
                detail="",
            )
        )


def summary(cores: float, memory: int, **pods: tuple[float, int]) -> bytes:
    """A kubelet's summary."""

    def figures(cores: float, memory: int) -> dict[str, Any]:
        return {"cpu": {"usageNanoCores": int(cores * 1e9)}, "memory": {"workingSetBytes": memory}}

    return json.dumps(
        {
            "node": {"nodeName": "n", **figures(cores, memory)},
            "pods": [
                {
                    "podRef": {"name": name, "namespace": "shop"},
                    "containers": [{"name": "x"}],
                    **figures(*used),
                }
                for name, used in pods.items()
            ],
        }
    ).encode()


class UsageCase(FakeApiCase):
    """A usage service for each test; the nodes C{a} and C{b} have kubelets."""

    def setUp(self) -> None:
        super().setUp()
        self.kubelets = FakeKubelets()
        self._kubelet_traversal = RequestTraversalAgent(self.kubelets)
        self.inventory = Inventory()
        self.told: list[UsageStatus] = []
        self.service: UsageService | None = None
        self.agents: Any = self._kubelet_traversal
        self.config = msgspec.structs.replace(self.api.transport.config, tls=ClientTLS(ca_data=b"ca"))

    def tearDown(self) -> None:
        if self.service is not None:
            self.successResultOf(self.service.stopService())
        super().tearDown()

    def flush(self) -> None:
        for _ in range(4):
            super().flush()
            self._kubelet_traversal.flush()

    def nodes(self, **addresses: str) -> None:
        for name, address in addresses.items():
            self.inventory["nodes"].put(
                Node(
                    name=name,
                    uid=name,
                    resource_version="1",
                    ready=True,
                    schedulable=True,
                    internal_ip=address,
                )
            )
            self.kubelets.summaries[address] = summary(0.5, GIB, **{f"pod-{name}": (0.25, GIB // 2)})

    def start(self, scope: Scope | None = None) -> UsageService:
        def current() -> ClusterConfig:
            return self.config

        asked = Kubelets(
            self.clock,
            current,
            lambda: RoundOfAgents(self.agents),
            version="0",
            observe=lambda *_: None,
        )
        self.service = UsageService(
            self.clock,
            self.api,
            self.inventory,
            asked,
            scope or Scope(),
            wall=self.wall,
            told=self.told.append,
        )
        self.service.startService()
        self.advance(1)
        return self.service

    def metrics(self) -> None:
        """Let there be a metrics API."""
        for name, cpu in (("a", "1500m"), ("b", "250000000n")):
            self.storage.create(
                "nodes.metrics.k8s.io",
                "",
                {"metadata": {"name": name}, "usage": {"cpu": cpu, "memory": "1Gi"}},
            )
        for namespace in ("shop", "bank"):
            self.storage.create(
                "pods.metrics.k8s.io",
                namespace,
                {
                    "metadata": {"name": "web"},
                    "containers": [
                        {"name": "x", "usage": {"cpu": "100m", "memory": "512Mi"}},
                        {"name": "y", "usage": {"cpu": "50m", "memory": "512Mi"}},
                    ],
                },
            )

    def no_metrics(self) -> None:
        """Let there be none, as a server without metrics-server answers."""
        path = "/apis/metrics.k8s.io"
        self.server.faults.append(Fault(path=path, code=404, body=b"404 page not found", times=99))


class MetricsApiTests(UsageCase):
    """Where there is a metrics API."""

    def test_usage(self) -> None:
        """Nodes, pods as the sum of their containers, and all together."""
        self.metrics()
        found = self.start().usage
        assert found is not None
        self.assertEqual(found.source, "metrics.k8s.io")
        self.assertEqual(found.nodes, {"a": Amount(1.5, GIB), "b": Amount(0.25, GIB)})
        self.assertEqual(set(found.pods), {"shop/web", "bank/web"})
        self.assertAlmostEqual(found.pods["shop/web"].cpu, 0.15)
        self.assertEqual((found.total, found.pods["shop/web"].memory), (Amount(1.75, 2 * GIB), GIB))
        self.assertEqual(self.told, [UsageStatus(source="metrics.k8s.io", message="")])
        self.assertEqual(self.kubelets.seen, [])

    def test_scope(self) -> None:
        """Only pods within reach, and only their namespaces are asked for."""
        self.metrics()
        found = self.start(Scope(namespaces=frozenset({"shop"}))).usage
        assert found is not None
        self.assertEqual(set(found.pods), {"shop/web"})
        places = {place for _, resource, place in self.server.seen if resource == "pods.metrics.k8s.io"}
        self.assertEqual(places, {"shop"})

    def test_denied_by_the_owner(self) -> None:
        """What is a denied kind's, or may not be listed, is not asked for, and that is said."""
        self.metrics()
        found = self.start(Scope(denied_kinds=frozenset({"pods"}))).usage
        assert found is not None
        self.assertEqual((len(found.nodes), found.pods), (2, {}))
        self.assertIn("of pods nothing is known: pods.metrics.k8s.io are out of reach", self.told[-1].message)
        self.assertNotIn("pods.metrics.k8s.io", [resource for _, resource, _ in self.server.seen])

    def test_nodes_denied_by_the_owner(self) -> None:
        """Without nodes nobody is asked: neither the metrics API nor a kubelet."""
        self.metrics()
        self.assertIsNone(self.start(Scope(denied_kinds=frozenset({"nodes"}))).usage)
        self.advance(2 * INTERVAL)
        self.assertIn("access.deny.kinds", self.told[-1].message)
        self.assertEqual((len(self.told), self.server.seen, self.kubelets.seen), (1, [], []))

    def test_pods_denied(self) -> None:
        """Without the right to pods' metrics those of nodes are there, and the rest is said."""
        self.metrics()
        self.server.allowed = lambda asked: asked.resource.name != "pods.metrics.k8s.io"
        found = self.start().usage
        assert found is not None
        self.assertEqual((len(found.nodes), found.pods), (2, {}))
        self.assertIn("of pods nothing is known", self.told[-1].message)

    def test_bad_quantity(self) -> None:
        """A figure that is none counts as nothing, and costs no other."""
        self.metrics()
        bad = {"metadata": {"name": "c"}, "usage": {"cpu": "many", "memory": "1Gi"}}
        self.storage.create("nodes.metrics.k8s.io", "", bad)
        found = self.start().usage
        assert found is not None
        self.assertEqual((found.nodes["c"], found.nodes["a"]), (Amount(), Amount(1.5, GIB)))

    def test_most_pods(self) -> None:
        """Of more than L{MOST_PODS<usage.MOST_PODS>} pods so many are kept."""
        self.patch(usage, "MOST_PODS", 1)
        self.metrics()
        found = self.start().usage
        assert found is not None
        self.assertEqual(len(found.pods), 1)

    def test_empty(self) -> None:
        """A metrics API that knows of no node yet is none: what stands empty is not what is idle."""
        self.assertIsNone(self.start().usage)
        self.metrics()
        self.advance(INTERVAL)
        self.assertIsNotNone(self.service and self.service.usage)

    def test_goes_away(self) -> None:
        """A source that fails later leaves no old figures behind."""
        self.metrics()
        service = self.start()
        self.server.faults.append(Fault(path="/apis/metrics.k8s.io", code=503, times=99))
        self.advance(INTERVAL + 10)
        self.assertIsNone(service.usage)
        self.assertIsNone(self.told[-1].source)
        self.assertIn("(503)", self.told[-1].message)


class KubeletTests(UsageCase):
    """Where there is none."""

    def setUp(self) -> None:
        super().setUp()
        self.no_metrics()

    def test_usage(self) -> None:
        """The kubelets are asked at their own addresses, with the agent's token; never the API's proxy."""
        self.nodes(a="10.0.0.1", b="10.0.0.2")
        found = self.start().usage
        assert found is not None
        self.assertEqual((found.source, found.total), ("kubelet", Amount(1.0, 2 * GIB)))
        self.assertEqual(found.pods["shop/pod-a"], Amount(0.25, GIB // 2))
        target = "/stats/summary?only_cpu_and_memory=true"
        self.assertEqual(
            sorted(self.kubelets.seen),
            [("10.0.0.1", target, "Bearer token"), ("10.0.0.2", target, "Bearer token")],
        )
        self.assertEqual([one for one in self.server.seen if "proxy" in one[1]], [])

    def test_pods_denied_by_the_owner(self) -> None:
        """What a kubelet tells of pods, which are a denied kind, is not kept."""
        self.nodes(a="10.0.0.1")
        found = self.start(Scope(denied_kinds=frozenset({"pods"}))).usage
        assert found is not None
        self.assertEqual((set(found.nodes), found.pods), ({"a"}, {}))

    def test_one_is_away(self) -> None:
        """A node whose kubelet says nothing is missing, and said; the others are there in its time."""
        self.nodes(a="10.0.0.1", b="10.0.0.2")
        self.kubelets.codes["10.0.0.2"] = None
        service = self.start()
        self.advance(TIMEOUT)
        found = service.usage
        assert found is not None
        self.assertEqual(set(found.nodes), {"a"})
        self.assertIn("1 nodes are missing", self.told[-1].message)

    def test_denied(self) -> None:
        """Without the right nothing is known, the reason names it, and it is asked again only later."""
        self.nodes(a="10.0.0.1")
        self.kubelets.codes["10.0.0.1"] = 403
        service = self.start()
        self.assertIsNone(service.usage)
        self.assertIn("get nodes/stats", self.told[-1].message)
        self.advance(ABSENT_RETRY - 10, step=5)
        self.assertEqual(len(self.kubelets.seen), 1)
        self.kubelets.codes.clear()
        self.advance(20)
        self.assertIsNotNone(service.usage)

    def test_no_authority(self) -> None:
        """No kubelet is sent the token that no CA of the cluster's vouches for."""
        self.config = msgspec.structs.replace(self.config, tls=ClientTLS())
        self.nodes(a="10.0.0.1")
        self.assertIsNone(self.start().usage)
        self.assertEqual(self.kubelets.seen, [])
        self.assertIn("the cluster's CA is not known", self.told[-1].message)

    def test_own_certificate(self) -> None:
        """What is said of a kubelet that nobody vouches for has nothing to do with the settings C{tls.*}."""
        self.agents = SelfSigned()
        self.nodes(a="10.0.0.1")
        self.assertIsNone(self.start().usage)
        said = self.told[-1].message
        self.assertIn("the certificate of 10.0.0.1:10250 is issued by CN=a-ca@1700000000", said)
        self.assertIn("serverTLSBootstrap", said)
        self.assertNotIn("ca_file", said)

    def test_too_long(self) -> None:
        """A summary that is too long is not read."""
        self.nodes(a="10.0.0.1")
        self.kubelets.summaries["10.0.0.1"] = b" " * (MAX_SUMMARY + 1)
        self.assertIsNone(self.start().usage)

    def test_no_summary(self) -> None:
        """An answer of another shape is a sentence."""
        self.nodes(a="10.0.0.1")
        self.kubelets.summaries["10.0.0.1"] = b'{"node": 7}'
        self.start()
        self.assertIn("the kubelet of a answers no summary", self.told[-1].message)

    def test_most_nodes(self) -> None:
        """No more than L{MOST_NODES<kubelets.MOST_NODES>} are asked in one round."""
        self.patch(kubelets, "MOST_NODES", 1)
        self.nodes(a="10.0.0.1", b="10.0.0.2")
        self.start()
        self.assertEqual(len(self.kubelets.seen), 1)
        self.assertIn("no more than 1 kubelets", self.told[-1].message)

    def test_nodes_come_later(self) -> None:
        """While the list of nodes is not there yet, it looks again soon."""
        service = self.start()
        self.nodes(a="10.0.0.1")
        self.advance(SOON + 1)
        self.assertIsNotNone(service.usage)

    def test_metrics_come_later(self) -> None:
        """A metrics API that appears is found, after a while."""
        self.nodes(a="10.0.0.1")
        service = self.start()
        self.server.faults.clear()
        self.metrics()
        self.advance(ABSENT_RETRY + INTERVAL, step=5)
        assert service.usage is not None
        self.assertEqual(service.usage.source, "metrics.k8s.io")
