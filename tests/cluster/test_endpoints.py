"""Tests of L{pipeops_agent.cluster.endpoints}: services joined with their endpoint slices."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.cluster import endpoints
from pipeops_agent.cluster.endpoints import DiscoveredService, discover
from pipeops_agent.cluster.inventory import Inventory
from pipeops_agent.cluster.objects import Endpoint, EndpointSlice, Service, ServicePort

HTTP = ServicePort(name="http", protocol="TCP", port=80, target="web")
WEB = ServicePort(name="http", protocol="TCP", port=8080)


class DiscoverTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.inventory = Inventory()

    def service(self, name: str, namespace: str = "shop") -> None:
        self.inventory["services"].put(
            Service(
                namespace=namespace,
                name=name,
                uid=name,
                resource_version="1",
                type="ClusterIP",
                cluster_ip="10.96.0.9",
                ports=(HTTP,),
            )
        )

    def slice(self, name: str, service: str, *found: Endpoint, namespace: str = "shop") -> None:
        self.inventory["endpointslices"].put(
            EndpointSlice(
                namespace=namespace,
                name=name,
                uid=name,
                resource_version="1",
                service=service,
                ports=(WEB,),
                endpoints=found,
            )
        )

    def one(self) -> DiscoveredService:
        (found,) = discover(self.inventory)
        return found

    def test_joined(self) -> None:
        """A service has the endpoints of all its slices, ready ones first, and the ports of both."""
        self.service("web")
        self.slice("web-1", "web", Endpoint("10.0.0.1", ready=False), Endpoint("10.0.0.3", ready=True))
        self.slice("web-2", "web", Endpoint("10.0.0.2", ready=True))
        found = self.one()
        self.assertEqual([each.address for each in found.endpoints], ["10.0.0.2", "10.0.0.3", "10.0.0.1"])
        self.assertEqual((found.ready, found.total), (2, 3))
        self.assertEqual((found.ports, found.endpoint_ports), ((HTTP,), (WEB,)))

    def test_in_two_slices(self) -> None:
        """An endpoint that moves from one slice to another counts once, and as ready where one says so."""
        self.service("web")
        self.slice("web-1", "web", Endpoint("10.0.0.1", ready=True))
        self.slice("web-2", "web", Endpoint("10.0.0.1", ready=False))
        self.assertEqual((self.one().ready, self.one().total), (1, 1))

    def test_nothing_behind(self) -> None:
        """A service without slices is there, with nothing behind it."""
        self.service("web")
        self.assertEqual((self.one().endpoints, self.one().total), ((), 0))

    def test_same_name_elsewhere(self) -> None:
        """Slices belong to the service of their own namespace; without a service they are nobody's."""
        self.service("web")
        self.slice("web-1", "web", Endpoint("10.0.0.1", ready=True), namespace="bank")
        self.slice("orphan", "", Endpoint("10.0.0.2", ready=True))
        self.assertEqual(self.one().total, 0)

    def test_one_namespace(self) -> None:
        """One namespace's, or all, by namespace and name."""
        for name, namespace in (("b", "shop"), ("a", "shop"), ("z", "bank")):
            self.service(name, namespace)
        self.assertEqual([each.name for each in discover(self.inventory)], ["z", "a", "b"])
        self.assertEqual([each.name for each in discover(self.inventory, "shop")], ["a", "b"])

    def test_bounded(self) -> None:
        """Of more than L{MOST} endpoints all are counted, and so many listed."""
        self.patch(endpoints, "MOST", 3)
        self.service("web")
        self.slice("web-1", "web", *(Endpoint(f"10.0.0.{n}", ready=True) for n in range(5)))
        self.assertEqual((len(self.one().endpoints), self.one().ready, self.one().total), (3, 5, 5))
