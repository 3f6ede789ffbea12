"""Services joined with what stands behind them: ports, endpoints, and how many of those are ready."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from pipeops_agent.cluster.inventory import Inventory
from pipeops_agent.cluster.objects import Endpoint, EndpointSlice, Service, ServicePort

MOST: Final = 1000
"""Endpoints that are listed of one service; all are counted."""


class DiscoveredService(msgspec.Struct, frozen=True, kw_only=True):
    """
    One service as it can be used now.

    @ivar ports: those of the service; C{endpoint_ports} those that its endpoints listen on.
    @ivar endpoints: each address once, however many slices name it; ready ones first.
    @ivar ready: how many of all are; C{total}: how many there are.
    """

    namespace: str
    name: str
    type: str
    cluster_ip: str
    external: tuple[str, ...]
    ports: tuple[ServicePort, ...]
    endpoint_ports: tuple[ServicePort, ...]
    endpoints: tuple[Endpoint, ...]
    ready: int
    total: int


def discover(inventory: Inventory, namespace: str | None = None) -> Iterator[DiscoveredService]:
    """
    The services of one namespace or of all, by namespace and name.

    It is as good as the lists of services and endpoint slices are: see their states.
    """
    slices: dict[tuple[str, str], list[EndpointSlice]] = {}
    for each in inventory["endpointslices"]:
        if each.service and namespace in (None, each.namespace):
            slices.setdefault((each.namespace, each.service), []).append(each)
    services = [each for each in inventory["services"] if namespace in (None, each.namespace)]
    services.sort(key=lambda each: (each.namespace, each.name))
    for service in services:
        yield _joined(service, slices.get((service.namespace, service.name), []))


def _joined(service: Service, slices: list[EndpointSlice]) -> DiscoveredService:
    endpoints: dict[str, Endpoint] = {}
    ports: dict[ServicePort, None] = {}
    for each in slices:
        ports.update(dict.fromkeys(each.ports))
        for endpoint in each.endpoints:
            known = endpoints.get(endpoint.address)
            # While an endpoint moves from one slice to another it is in both; ready in one is ready.
            if known is None or endpoint.ready:
                endpoints[endpoint.address] = endpoint
    ordered = sorted(endpoints.values(), key=lambda found: (not found.ready, found.address))
    return DiscoveredService(
        namespace=service.namespace,
        name=service.name,
        type=service.type,
        cluster_ip=service.cluster_ip,
        external=service.external,
        ports=service.ports,
        endpoint_ports=tuple(ports),
        endpoints=tuple(ordered[:MOST]),
        ready=sum(found.ready for found in ordered),
        total=len(ordered),
    )
