"""
The API's own shapes, as far as they are needed: what the decoder makes of a page or of a line of a watch.

They name nothing that is not read (L{reading}), so that nothing else is ever made. Everything has a default:
what an object lacks, or a later version of the API leaves out, must not cost the whole list.

They live for a moment and form no cycle, so the garbage collector need not look at them (C{gc=False}): that
would be a tenth of the time that decoding takes.
"""

from __future__ import annotations

from datetime import datetime

import msgspec


class Owner(msgspec.Struct, rename="camel", gc=False):
    """C{metadata.ownerReferences}: who made it."""

    kind: str = ""
    name: str = ""
    controller: bool = False


class Meta(msgspec.Struct, rename="camel", gc=False):
    """C{metadata}."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    generation: int = 0
    labels: dict[str, str] | None = None
    owner_references: list[Owner] | None = None


class Condition(msgspec.Struct, gc=False):
    """C{status.conditions}."""

    type: str = ""
    status: str = ""
    reason: str | None = ""
    message: str | None = ""


class Address(msgspec.Struct, gc=False):
    """C{Node status.addresses}."""

    type: str = ""
    address: str = ""


class NodeInfo(msgspec.Struct, rename="camel", gc=False):
    """C{Node status.nodeInfo}."""

    kubelet_version: str = ""
    os_image: str = ""
    architecture: str = ""


class NodeSpec(msgspec.Struct, rename="camel", gc=False):
    """C{Node spec}."""

    unschedulable: bool = False
    provider_id: str = msgspec.field(name="providerID", default="")


class DaemonEndpoint(msgspec.Struct, gc=False):
    """Where a daemon of the node listens."""

    port: int = msgspec.field(name="Port", default=0)  # written so in the API


class DaemonEndpoints(msgspec.Struct, rename="camel", gc=False):
    """C{Node status.daemonEndpoints}."""

    kubelet_endpoint: DaemonEndpoint = msgspec.field(default_factory=DaemonEndpoint)


class NodeStatus(msgspec.Struct, rename="camel", gc=False):
    """C{Node status}."""

    conditions: list[Condition] | None = None
    addresses: list[Address] | None = None
    capacity: dict[str, str] | None = None
    node_info: NodeInfo = msgspec.field(default_factory=NodeInfo)
    daemon_endpoints: DaemonEndpoints = msgspec.field(default_factory=DaemonEndpoints)


class Node(msgspec.Struct, gc=False):
    """A C{Node} as it comes."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)


class Named(msgspec.Struct, gc=False):
    """A container: C{spec.containers}."""

    name: str = ""
    image: str = ""


class PodSpec(msgspec.Struct, rename="camel", gc=False):
    """C{Pod spec}, and that of a template."""

    node_name: str = ""
    containers: list[Named] | None = None
    init_containers: list[Named] | None = None


class Reason(msgspec.Struct, rename="camel", gc=False):
    """Why a container waits, or has ended."""

    reason: str = ""
    exit_code: int = 0
    signal: int = 0


class Running(msgspec.Struct, gc=False):
    """C{containerStatuses[].state.running}: that it is there is all."""


class State(msgspec.Struct, gc=False):
    """C{containerStatuses[].state}: one of these."""

    waiting: Reason | None = None
    terminated: Reason | None = None
    running: Running | None = None


class ContainerStatus(msgspec.Struct, rename="camel", gc=False):
    """C{Pod status.containerStatuses}."""

    name: str = ""
    ready: bool = False
    started: bool | None = False
    restart_count: int = 0
    state: State = msgspec.field(default_factory=State)


class PodStatus(msgspec.Struct, rename="camel", gc=False):
    """C{Pod status}."""

    phase: str = ""
    reason: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None


class Pod(msgspec.Struct, gc=False):
    """A C{Pod} as it comes."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


class Port(msgspec.Struct, rename="camel", gc=False):
    """A port of a service or of an endpoint slice."""

    name: str | None = ""
    protocol: str | None = "TCP"
    port: int | None = 0
    target_port: int | str = ""
    node_port: int = 0


class Ingress(msgspec.Struct, gc=False):
    """An address of a load balancer."""

    ip: str = ""
    hostname: str = ""


class LoadBalancer(msgspec.Struct, gc=False):
    """C{Service status.loadBalancer}."""

    ingress: list[Ingress] | None = None


class ServiceSpec(msgspec.Struct, rename="camel", gc=False):
    """C{Service spec}."""

    type: str = ""
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    external_ips: list[str] | None = msgspec.field(name="externalIPs", default=None)
    external_name: str = ""
    ports: list[Port] | None = None
    selector: dict[str, str] | None = None


class ServiceStatus(msgspec.Struct, rename="camel", gc=False):
    """C{Service status}."""

    load_balancer: LoadBalancer = msgspec.field(default_factory=LoadBalancer)


class Service(msgspec.Struct, gc=False):
    """A C{Service} as it comes."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: ServiceSpec = msgspec.field(default_factory=ServiceSpec)
    status: ServiceStatus = msgspec.field(default_factory=ServiceStatus)


class EndpointConditions(msgspec.Struct, gc=False):
    """C{endpoints[].conditions}."""

    ready: bool | None = True


class TargetRef(msgspec.Struct, gc=False):
    """What an endpoint or an event is about."""

    kind: str = ""
    name: str = ""


class Endpoint(msgspec.Struct, rename="camel", gc=False):
    """C{EndpointSlice endpoints}."""

    addresses: list[str] | None = None
    conditions: EndpointConditions = msgspec.field(default_factory=EndpointConditions)
    target_ref: TargetRef | None = None
    node_name: str | None = ""


class EndpointSlice(msgspec.Struct, gc=False):
    """An C{EndpointSlice} as it comes."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    ports: list[Port] | None = None
    endpoints: list[Endpoint] | None = None


class Template(msgspec.Struct, gc=False):
    """C{spec.template}."""

    spec: PodSpec = msgspec.field(default_factory=PodSpec)


class WorkloadSpec(msgspec.Struct, rename="camel", gc=False):
    """C{spec} of a deployment, stateful set or daemon set."""

    replicas: int | None = None
    template: Template = msgspec.field(default_factory=Template)


class WorkloadStatus(msgspec.Struct, rename="camel", gc=False):
    """Their C{status}."""

    observed_generation: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    available_replicas: int = 0
    desired_number_scheduled: int = 0
    number_ready: int = 0
    updated_number_scheduled: int = 0
    number_available: int = 0
    conditions: list[Condition] | None = None


class Workload(msgspec.Struct, gc=False):
    """A C{Deployment}, C{StatefulSet} or C{DaemonSet} as it comes."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: WorkloadSpec = msgspec.field(default_factory=WorkloadSpec)
    status: WorkloadStatus = msgspec.field(default_factory=WorkloadStatus)


class JobSpec(msgspec.Struct, gc=False):
    """C{Job spec}."""

    completions: int | None = None


class JobStatus(msgspec.Struct, gc=False):
    """C{Job status}."""

    active: int = 0
    succeeded: int = 0
    failed: int = 0
    conditions: list[Condition] | None = None


class Job(msgspec.Struct, gc=False):
    """A C{Job} as it comes."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: JobSpec = msgspec.field(default_factory=JobSpec)
    status: JobStatus = msgspec.field(default_factory=JobStatus)


class NamespaceStatus(msgspec.Struct, gc=False):
    """C{Namespace status}."""

    phase: str = ""


class Namespace(msgspec.Struct, gc=False):
    """A C{Namespace} as it comes."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    status: NamespaceStatus = msgspec.field(default_factory=NamespaceStatus)


class EventSource(msgspec.Struct, gc=False):
    """C{Event source}."""

    component: str = ""


class EventSeries(msgspec.Struct, rename="camel", gc=False):
    """C{Event series}."""

    count: int = 0
    last_observed_time: datetime | None = None


class Event(msgspec.Struct, rename="camel", gc=False):
    """An C{Event} (core/v1) as it comes."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    involved_object: TargetRef = msgspec.field(default_factory=TargetRef)
    type: str = ""
    reason: str = ""
    message: str | None = ""
    source: EventSource = msgspec.field(default_factory=EventSource)
    reporting_component: str = ""
    count: int | None = 1
    event_time: datetime | None = None
    last_timestamp: datetime | None = None
    series: EventSeries | None = None
