"""The cluster's objects: what is kept of them, and how it is read from what the API sends."""

from __future__ import annotations

from pipeops_agent.cluster.objects.kinds import KINDS, Kind
from pipeops_agent.cluster.objects.model import (
    Condition,
    Endpoint,
    EndpointSlice,
    Job,
    KubeEvent,
    Namespace,
    Node,
    Object,
    Pod,
    Service,
    ServicePort,
    Workload,
)

__all__ = [
    "KINDS",
    "Condition",
    "Endpoint",
    "EndpointSlice",
    "Job",
    "Kind",
    "KubeEvent",
    "Namespace",
    "Node",
    "Object",
    "Pod",
    "Service",
    "ServicePort",
    "Workload",
]
