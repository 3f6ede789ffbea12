"""From the API's shapes to what is kept. Texts that many objects share are interned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from sys import intern
from typing import Any, Final

from pipeops_agent.cluster.objects import wire
from pipeops_agent.cluster.objects.model import (
    MAX_ADDRESSES,
    MAX_MESSAGE,
    Condition,
    Endpoint,
    EndpointSlice,
    Job,
    KubeEvent,
    Namespace,
    Node,
    Pod,
    Service,
    ServicePort,
    Workload,
)

_ROLE: Final = "node-role.kubernetes.io/"
_REGIONS: Final = ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region")
_SERVICE_NAME: Final = "kubernetes.io/service-name"


def read_node(node: wire.Node) -> Node:
    """What is kept of a node."""
    meta, status = node.metadata, node.status
    labels = meta.labels or {}
    capacity = status.capacity or {}
    conditions = _conditions(status.conditions)
    return Node(
        **_object(meta),
        ready=any(each.type == "Ready" and each.status == "True" for each in conditions),
        schedulable=not node.spec.unschedulable,
        roles=tuple(sorted(intern(label[len(_ROLE) :]) for label in labels if label.startswith(_ROLE))),
        conditions=conditions,
        internal_ip=_address(status.addresses, "InternalIP"),
        external_ip=_address(status.addresses, "ExternalIP"),
        kubelet_version=intern(status.node_info.kubelet_version),
        os_image=intern(status.node_info.os_image),
        architecture=intern(status.node_info.architecture),
        provider_id=node.spec.provider_id,
        region=next((intern(labels[label]) for label in _REGIONS if label in labels), ""),
        cpu=intern(capacity.get("cpu", "")),
        memory=intern(capacity.get("memory", "")),
        max_pods=intern(capacity.get("pods", "")),
        kubelet_port=status.daemon_endpoints.kubelet_endpoint.port,
    )


def read_pod(pod: wire.Pod) -> Pod:
    """What is kept of a pod."""
    containers = pod.status.container_statuses or ()
    return Pod(
        **_object(pod.metadata),
        phase=intern(pod.status.phase),
        status=intern(_pod_status(pod)),
        node=intern(pod.spec.node_name),
        ip=pod.status.pod_ip,
        owner=_owner(pod.metadata),
        containers=tuple(intern(each.name) for each in pod.spec.containers or ()),
        ready=sum(each.ready for each in containers),
        restarts=sum(each.restart_count for each in containers),
    )


def _pod_status(pod: wire.Pod) -> str:
    """What C{kubectl get pods} shows in the column STATUS (its C{printPod})."""
    status = pod.status
    shown = status.reason or status.phase
    waiting_to_start = _initializing(pod)
    if waiting_to_start:
        shown = waiting_to_start
    else:
        running = False
        for each in reversed(status.container_statuses or ()):
            state = each.state
            if state.waiting is not None and state.waiting.reason:
                shown = state.waiting.reason
            elif state.terminated is not None:
                shown = _ended(state.terminated)
            elif each.ready and state.running is not None:
                running = True
        if shown == "Completed" and running:
            shown = "Running"
    if pod.metadata.deletion_timestamp is not None:
        return "Unknown" if status.reason == "NodeLost" else "Terminating"
    return shown


def _initializing(pod: wire.Pod) -> str:
    """C{Init:...}, while one of the containers that come first has not done its part; else empty."""
    total = len(pod.spec.init_containers or ())
    for number, each in enumerate(pod.status.init_container_statuses or ()):
        ended, waiting = each.state.terminated, each.state.waiting
        if (ended is not None and ended.exit_code == 0) or each.started:
            continue
        if ended is not None:
            return f"Init:{_ended(ended)}"
        if waiting is not None and waiting.reason not in ("", "PodInitializing"):
            return f"Init:{waiting.reason}"
        return f"Init:{number}/{total}"
    return ""


def _ended(reason: wire.Reason) -> str:
    if reason.reason:
        return reason.reason
    return f"Signal:{reason.signal}" if reason.signal else f"ExitCode:{reason.exit_code}"


def read_service(service: wire.Service) -> Service:
    """What is kept of a service."""
    spec = service.spec
    outside = [*(spec.external_ips or ()), *([spec.external_name] if spec.external_name else ())]
    outside += [each.ip or each.hostname for each in service.status.load_balancer.ingress or ()]
    return Service(
        **_object(service.metadata),
        type=intern(spec.type),
        cluster_ip=spec.cluster_ip,
        external=tuple(outside),
        ports=_ports(spec.ports),
        selector=_pairs(spec.selector),
    )


def read_endpoint_slice(found: wire.EndpointSlice) -> EndpointSlice:
    """What is kept of an endpoint slice."""
    endpoints = [
        Endpoint(
            address=address,
            ready=each.conditions.ready is not False,  # unknown counts as ready (EndpointConditions)
            pod=each.target_ref.name if each.target_ref is not None and each.target_ref.kind == "Pod" else "",
            node=intern(each.node_name or ""),
        )
        for each in found.endpoints or ()
        for address in each.addresses or ()
    ]
    return EndpointSlice(
        **_object(found.metadata),
        service=(found.metadata.labels or {}).get(_SERVICE_NAME, ""),
        ports=_ports(found.ports),
        endpoints=tuple(endpoints[:MAX_ADDRESSES]),
    )


def read_deployment(workload: wire.Workload) -> Workload:
    """What is kept of a deployment."""
    return _workload(workload, "Deployment")


def read_stateful_set(workload: wire.Workload) -> Workload:
    """What is kept of a stateful set."""
    return _workload(workload, "StatefulSet")


def read_daemon_set(workload: wire.Workload) -> Workload:
    """What is kept of a daemon set, which counts otherwise: one pod for each node that it is meant for."""
    status = workload.status
    return Workload(
        **_common(workload, "DaemonSet"),
        wanted=status.desired_number_scheduled,
        ready=status.number_ready,
        updated=status.updated_number_scheduled,
        available=status.number_available,
    )


def _workload(workload: wire.Workload, kind: str) -> Workload:
    status, replicas = workload.status, workload.spec.replicas
    return Workload(
        **_common(workload, kind),
        wanted=1 if replicas is None else replicas,  # the API's default
        ready=status.ready_replicas,
        updated=status.updated_replicas,
        available=status.available_replicas,
    )


def _common(workload: wire.Workload, kind: str) -> dict[str, Any]:
    return {
        **_object(workload.metadata),
        "kind": kind,
        "observed": workload.status.observed_generation >= workload.metadata.generation,
        "images": tuple(intern(each.image) for each in workload.spec.template.spec.containers or ()),
        "conditions": _conditions(workload.status.conditions),
    }


def read_job(job: wire.Job) -> Job:
    """What is kept of a job."""
    return Job(
        **_object(job.metadata),
        active=job.status.active,
        succeeded=job.status.succeeded,
        failed=job.status.failed,
        completions=job.spec.completions,
        conditions=_conditions(job.status.conditions),
    )


def read_namespace(namespace: wire.Namespace) -> Namespace:
    """What is kept of a namespace."""
    return Namespace(**_object(namespace.metadata), phase=intern(namespace.status.phase))


def read_event(event: wire.Event) -> KubeEvent:
    """What is kept of an event. Newer ones count in C{series} and have C{eventTime} alone."""
    about, series = event.involved_object, event.series
    last = event.last_timestamp or event.event_time or event.metadata.creation_timestamp
    return KubeEvent(
        **_object(event.metadata),
        type=intern(event.type),
        reason=intern(event.reason),
        message=(event.message or "")[:MAX_MESSAGE],
        about=f"{about.kind}/{about.name}",
        source=intern(event.reporting_component or event.source.component),
        count=series.count if series is not None else event.count or 1,
        last_seen=(series.last_observed_time if series is not None else None) or last,
    )


def _object(meta: wire.Meta) -> dict[str, Any]:
    return {
        "namespace": intern(meta.namespace),
        "name": meta.name,
        "uid": meta.uid,
        "resource_version": meta.resource_version,
        "created": meta.creation_timestamp,
        "labels": _pairs(meta.labels),
    }


def _pairs(mapping: Mapping[str, str] | None) -> tuple[str, ...]:
    if not mapping:
        return ()
    return tuple(intern(f"{key}={value}") for key, value in sorted(mapping.items()))


def _owner(meta: wire.Meta) -> str:
    for each in meta.owner_references or ():
        if each.controller:
            return intern(f"{each.kind}/{each.name}")
    return ""


def _conditions(found: Iterable[wire.Condition] | None) -> tuple[Condition, ...]:
    return tuple(
        Condition(
            type=intern(each.type),
            status=intern(each.status),
            reason=intern(each.reason or ""),
            message=intern((each.message or "")[:MAX_MESSAGE]),
        )
        for each in found or ()
    )


def _address(found: Iterable[wire.Address] | None, kind: str) -> str:
    return next((each.address for each in found or () if each.type == kind), "")


def _ports(found: Iterable[wire.Port] | None) -> tuple[ServicePort, ...]:
    return tuple(
        ServicePort(
            name=intern(each.name or ""),
            protocol=intern(each.protocol or "TCP"),
            port=each.port or 0,
            target=str(each.target_port),
            node_port=each.node_port,
        )
        for each in found or ()
    )
