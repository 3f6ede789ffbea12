"""
What is kept of the cluster's objects: only what is shown, in small frozen structs.

They hold nothing that could form a cycle, so the garbage collector need not look at them (C{gc=False}): with
thirty thousand pods that is most of what a collection costs.
"""

from __future__ import annotations

from typing import Final

import msgspec

from pipeops_agent.clock import Moment

MAX_MESSAGE: Final = 1024
"""Characters that are kept of a condition's or an event's message."""

MAX_ADDRESSES: Final = 100
"""Addresses that are kept of one endpoint slice: the API server's own default limit."""


class Condition(msgspec.Struct, frozen=True, gc=False):
    """One condition, as in the API: C{Ready}, C{MemoryPressure}, C{Available}, ..."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class Object(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    What all have.

    @ivar namespace: empty for what has none.
    @ivar labels: C{key=value}, sorted.
    """

    namespace: str = ""
    name: str
    uid: str
    resource_version: str
    created: Moment | None = None
    labels: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """C{namespace/name}, or the name: what is unique among objects of one kind."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Node(Object, frozen=True, kw_only=True, gc=False):
    """A node. Memory is in bytes, C{cpu} in cores, both as the API writes them (quantities)."""

    ready: bool
    schedulable: bool
    roles: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    internal_ip: str = ""
    external_ip: str = ""
    kubelet_version: str = ""
    os_image: str = ""
    architecture: str = ""
    provider_id: str = ""
    region: str = ""
    cpu: str = ""
    memory: str = ""
    max_pods: str = ""
    kubelet_port: int = 0


class Pod(Object, frozen=True, kw_only=True, gc=False):
    """
    A pod.

    @ivar status: what C{kubectl get pods} shows: the phase, or what keeps it (C{CrashLoopBackOff}).
    @ivar owner: C{Kind/name} of its controller; empty: it has none.
    @ivar ready: how many of its containers are.
    """

    phase: str = ""
    status: str = ""
    node: str = ""
    ip: str = ""
    owner: str = ""
    containers: tuple[str, ...] = ()
    ready: int = 0
    restarts: int = 0


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """One port of a service. C{target}: a number or a name."""

    name: str
    protocol: str
    port: int
    target: str = ""
    node_port: int = 0


class Service(Object, frozen=True, kw_only=True, gc=False):
    """A service."""

    type: str = ""
    cluster_ip: str = ""
    external: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    selector: tuple[str, ...] = ()


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """One address behind a service."""

    address: str
    ready: bool
    pod: str = ""
    node: str = ""


class EndpointSlice(Object, frozen=True, kw_only=True, gc=False):
    """A part of a service's endpoints."""

    service: str = ""
    ports: tuple[ServicePort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()


class Workload(Object, frozen=True, kw_only=True, gc=False):
    """A deployment, stateful set or daemon set: how many there shall be, and how many there are."""

    kind: str
    wanted: int = 0
    ready: int = 0
    updated: int = 0
    available: int = 0
    observed: bool = True
    images: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()


class Job(Object, frozen=True, kw_only=True, gc=False):
    """A job."""

    active: int = 0
    succeeded: int = 0
    failed: int = 0
    completions: int | None = None
    conditions: tuple[Condition, ...] = ()


class Namespace(Object, frozen=True, kw_only=True, gc=False):
    """A namespace."""

    phase: str = ""


class KubeEvent(Object, frozen=True, kw_only=True, gc=False):
    """An event (C{core/v1 Event}): what happened to C{about}, which is C{Kind/name}."""

    type: str = ""
    reason: str = ""
    message: str = ""
    about: str = ""
    source: str = ""
    count: int = 1
    last_seen: Moment | None = None
