"""What a real kubelet and a real metrics-server say of what is used, and services with their endpoints."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.endpoints import discover
from pipeops_agent.cluster.inventory import Inventory
from pipeops_agent.cluster.kubelets import CA_REMEDY, Kubelets
from pipeops_agent.cluster.objects import KINDS
from pipeops_agent.cluster.reflector import Reflector
from pipeops_agent.cluster.resources import PODS, SERVICES
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.cluster.usage import UsageService, UsageStatus
from pipeops_agent.net import ClientTLS, Connector
from tests.peers.kubernetes import cluster
from tests.peers.kubernetes.case import KubernetesCase

NODE = "node1"
NODES = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}
STATS = {"apiGroups": [""], "resources": ["nodes/stats"], "verbs": ["get"]}
METRICS = {"apiGroups": ["metrics.k8s.io"], "resources": ["nodes", "pods"], "verbs": ["list"]}


def now() -> datetime:
    return datetime.now(UTC)


class UsageCase(KubernetesCase):
    """
    A pod with a service before it, and lists that are kept.

    @ivar told: what was said of the usage.
    """

    start = staticmethod(cluster)

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        await super().setUp()
        self.inventory = Inventory()
        self.told: list[UsageStatus] = []
        body = {
            "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {
                "containers": [{"name": "main", "image": "localhost/pause:1", "imagePullPolicy": "Never"}],
                "terminationGracePeriodSeconds": 0,
            },
        }
        await self.api.create(dict, PODS, body, namespace=self.namespace)

    def keep(self, api: Api, *kinds: str) -> None:
        """Keep these lists until the test ends."""
        for kind in KINDS:
            if kind.name in kinds:
                sink = self.inventory[kind.name].part(None)
                reflector = Reflector(self.reactor, api, kind, sink, wall=now)
                reflector.startService()
                self.addCleanup(reflector.stopService)

    def account(self, name: str, *rules: dict[str, Any]) -> Api:
        """An account with these rights everywhere."""
        self.kube.make_account(self.namespace, name, *rules, everywhere=True)
        return self.client.account(self.kube, self.kube.token(self.namespace, name))

    def look(self, api: Api, tls: ClientTLS | None = None) -> UsageService:
        """
        Look with C{api}'s rights.

        @param tls: how a kubelet must prove itself; None: by the cluster's CA.
        """
        config = api.transport.config
        if tls is not None:
            config = msgspec.structs.replace(config, tls=tls)
        kubelets = Kubelets(
            self.reactor,
            lambda: config,
            lambda: Connector(cast(Any, self.reactor), connect_timeout=10.0),
            version="0",
            observe=lambda *_: None,
        )
        service = UsageService(
            self.reactor, api, self.inventory, kubelets, Scope(), wall=now, told=self.told.append
        )
        service.startService()
        self.addCleanup(service.stopService)
        return service

    async def refusal(self, api: Api, tls: ClientTLS | None = None) -> str:
        """Why nothing is known."""
        self.told.clear()
        service = self.look(api, tls)
        await self.until(lambda: bool(self.told))
        self.assertIsNone(service.usage)
        return self.told[-1].message


class UsageTests(UsageCase):
    """How much of processors and memory is used."""

    async def test_kubelet(self) -> None:
        """With nodes/stats alone, and a certificate that is vouched for; else it is said what is missing."""
        own = ClientTLS(ca_file=str(self.kube.directory / "pki/kubelet/kubelet.crt"))
        may, may_not = self.account("may", NODES, STATS), self.account("may-not", NODES)
        self.keep(may, "nodes")
        await self.until(lambda: self.inventory["nodes"].get(NODE) is not None)
        self.assertIn(CA_REMEDY, await self.refusal(may))  # it has signed its certificate itself
        self.assertIn("get nodes/stats", await self.refusal(may_not, own))
        service = self.look(may, own)
        await self.until(lambda: service.usage is not None and f"{self.namespace}/web" in service.usage.pods)
        assert service.usage is not None
        self.assertEqual((service.usage.source, set(service.usage.nodes)), ("kubelet", {NODE}))
        self.assertGreater(service.usage.nodes[NODE].memory, 1 << 20)

    async def test_metrics_server(self) -> None:
        """Where it runs it is asked, and no kubelet; without the right that is said."""
        self.kube.start_metrics()
        may, may_not = self.account("may", METRICS), self.account("may-not")
        self.assertIn("metrics.k8s.io: list nodes.metrics.k8s.io", await self.refusal(may_not))
        service = self.look(may)
        await self.until(lambda: service.usage is not None and NODE in service.usage.nodes)
        assert service.usage is not None
        self.assertEqual(service.usage.source, "metrics.k8s.io")
        self.assertGreater(service.usage.nodes[NODE].cpu, 0)
        self.assertGreater(service.usage.nodes[NODE].memory, 1 << 20)


class DiscoveryTests(UsageCase):
    """Services, and what is behind them."""

    async def test_service(self) -> None:
        """A service has its ready pod behind it, with address, node and port; and none when that has gone."""
        body = {
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        }
        await self.api.create(dict, SERVICES, body, namespace=self.namespace)
        self.keep(self.api, "services", "endpointslices", "pods")

        def counted() -> tuple[int, int]:
            return next(
                ((each.ready, each.total) for each in discover(self.inventory, self.namespace)), (0, 0)
            )

        await self.until(lambda: counted() == (1, 1))
        (found,) = discover(self.inventory, self.namespace)
        pod = self.inventory["pods"].get("web", self.namespace)
        assert pod is not None
        (endpoint,) = found.endpoints
        self.assertEqual((endpoint.address, endpoint.pod, endpoint.node), (pod.ip, "web", NODE))
        self.assertEqual(
            [(each.name, each.port, each.target) for each in found.ports], [("http", 80, "8080")]
        )
        self.assertEqual([(each.name, each.port) for each in found.endpoint_ports], [("http", 8080)])
        await self.api.delete(PODS, "web", namespace=self.namespace, grace_seconds=0)
        await self.until(lambda: counted() == (0, 0))
