"""The kinds that the inventory keeps: which resource each is, its shape on the wire, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec

from pipeops_agent.cluster import resources
from pipeops_agent.cluster.objects import reading, wire
from pipeops_agent.cluster.objects.model import Object

Kept = TypeVar("Kept", bound=Object)


class Kind(msgspec.Struct, Generic[Kept], frozen=True):
    """
    One kind of the inventory.

    @ivar wire: the struct that the API's objects are decoded into.
    @ivar read: makes of it what is kept.
    """

    resource: resources.Resource
    wire: type
    read: Callable[[Any], Kept]

    @property
    def name(self) -> str:
        """The resource's plural: C{pods}."""
        return self.resource.plural


KINDS: Final[tuple[Kind[Any], ...]] = (
    Kind(resources.NAMESPACES, wire.Namespace, reading.read_namespace),
    Kind(resources.NODES, wire.Node, reading.read_node),
    Kind(resources.PODS, wire.Pod, reading.read_pod),
    Kind(resources.SERVICES, wire.Service, reading.read_service),
    Kind(resources.ENDPOINT_SLICES, wire.EndpointSlice, reading.read_endpoint_slice),
    Kind(resources.DEPLOYMENTS, wire.Workload, reading.read_deployment),
    Kind(resources.STATEFUL_SETS, wire.Workload, reading.read_stateful_set),
    Kind(resources.DAEMON_SETS, wire.Workload, reading.read_daemon_set),
    Kind(resources.JOBS, wire.Job, reading.read_job),
    Kind(resources.EVENTS, wire.Event, reading.read_event),
)
"""In the order in which they are shown."""
