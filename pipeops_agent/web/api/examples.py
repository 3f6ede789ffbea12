"""An example of what each operation answers, for the descriptions; of the very types that answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pipeops_agent.build import BuildInfo
from pipeops_agent.cluster.objects import Condition, KubeEvent, Node, Pod, Service, ServicePort, Workload
from pipeops_agent.health import FeatureState
from pipeops_agent.settings import Origin
from pipeops_agent.status import ClusterStatus, HeartbeatStatus, KindStatus, RegistrationStatus
from pipeops_agent.web.answers import Health, Ready, ReadyCheck
from pipeops_agent.web.api.connectivity import Connectivity, Probe
from pipeops_agent.web.api.health import (
    AgentHealth,
    Check,
    DetailedHealth,
    Features,
    ForwardHealth,
    TunnelHealth,
)
from pipeops_agent.web.api.lists import DeploymentList, EventList, ListWorth, NodeList, PodList, ServiceList
from pipeops_agent.web.api.runtime import (
    Bandwidth,
    Collector,
    Connections,
    Cpu,
    Descriptors,
    Memory,
    RuntimeFigures,
    RuntimeHistory,
)
from pipeops_agent.web.api.settings import Setting, SettingsAnswer
from pipeops_agent.web.session import SignedIn

_START: Final = datetime(2025, 10, 15, 8, 0, tzinfo=UTC)
_NOW: Final = datetime(2025, 10, 15, 9, 0, tzinfo=UTC)

_RUNTIME: Final = RuntimeFigures(
    time=_NOW,
    uptime="3600s",
    cpu=Cpu(seconds=14.2, percent=0.4),
    memory=Memory(resident=56_123_392, virtual=214_958_080),
    file_descriptors=Descriptors(open=24, limit=1024),
    threads=2,
    garbage_collector=Collector(collections=(412, 37, 3), collected=9214, uncollectable=0),
    reactor_lag=0.0012,
    bandwidth=Bandwidth(bytes_in=18_204, bytes_out=904_112, rate_in=12.5, rate_out=640.0),
    connections=Connections(websocket=1, sse=2),
    rate_seconds=15.0,
)
_WORTH: Final = ListWorth(state="live", since=_START, synced=_START)


def _check(message: str, *, readiness: bool = True) -> Check:
    return Check(ok=True, message=message, readiness=readiness, duration_ms=0.01, checked_at=_NOW)


_HEALTH: Final = DetailedHealth(
    status="healthy",
    timestamp=_NOW,
    checks={
        "registration": _check("registered as cluster 550e8400-e29b-41d4-a716-446655440000"),
        "tunnel": _check("connected", readiness=False),
    },
    agent=AgentHealth(
        agent_id="agent-shop-3f2a9c1b7d5e",
        version="1.0.0",
        phase="running",
        since=_START,
        started=_START,
        uptime="3600s",
        clock_skew=0.2,
    ),
    registration=RegistrationStatus(
        registered=True,
        since=_START,
        message="registered as cluster 550e8400-e29b-41d4-a716-446655440000",
        cluster_id="550e8400-e29b-41d4-a716-446655440000",
        attempts=1,
    ),
    heartbeat=HeartbeatStatus(
        state="ok", since=_START, last_success=_NOW, message="the last one got through"
    ),
    tunnel=TunnelHealth(
        state="connected",
        since=_START,
        message="connected",
        server="wss://tunnel.example.com:443/",
        rtt=0.021,
        contact=_NOW,
        flapping=None,
        rebuilds=0,
        forwards=(
            ForwardHealth(
                name="kubernetes-api",
                local_addr="localhost:6443",
                state="proven",
                since=_START,
                message="",
                remote_port=20001,
                open_connections=1,
                total_connections=7,
                bytes_in=18_204,
                bytes_out=904_112,
                last_error=None,
                last_error_at=None,
            ),
        ),
    ),
    cluster=ClusterStatus(
        configured=True,
        reachable=True,
        since=_START,
        message="the API server answers",
        version="v1.34.1",
        lists=(KindStatus(kind="pods", state="live", since=_START, synced=_START),),
        usage="metrics.k8s.io",
    ),
    runtime=_RUNTIME,
)

_CONNECTIVITY: Final = Connectivity(
    overall_status="degraded",
    checked_at=_NOW,
    duration_ms=41.7,
    control_plane=Probe(ok=True, target="https://api.pipeops.sh", latency_ms=41.2),
    dns=Probe(ok=True, target="api.pipeops.sh", latency_ms=3.1),
    chisel_server=Probe(ok=True, target="wss://tunnel.example.com:443/", latency_ms=30.4),
    kubernetes_api=Probe(ok=True, target="the API server's version", latency_ms=4.8),
    forwards={
        "kubernetes-api": Probe(ok=True, target="localhost:6443", latency_ms=0.4),
        "kubelet-metrics": Probe(
            ok=False, target="localhost:10250", error="localhost:10250 refuses connections"
        ),
    },
)

_SETTINGS: Final = SettingsAnswer(
    file="/etc/pipeops-agent/config.yaml",
    control_plane="directly",
    cautions=(),
    settings=(
        Setting(
            path="agent.cluster_name",
            value="shop",
            origin=Origin("file", "/etc/pipeops-agent/config.yaml", 2),
            secret=False,
            live=False,
            changed=False,
        ),
        Setting(
            path="pipeops.token",
            value="<secret, 40 characters, sha256 9f86d081>",
            origin=Origin("variable", "PIPEOPS_TOKEN"),
            secret=True,
            live=True,
            changed=False,
        ),
    ),
)

_NODE: Final = Node(
    name="node-1",
    uid="0d6f6a1e-6f0b-4b0f-9f7c-6f1f0a1f7a11",
    resource_version="4711",
    created=_START,
    labels=("kubernetes.io/arch=amd64",),
    ready=True,
    schedulable=True,
    roles=("control-plane",),
    conditions=(Condition(type="Ready", status="True", reason="KubeletReady"),),
    internal_ip="10.0.0.7",
    kubelet_version="v1.34.1",
    os_image="Debian GNU/Linux 13 (trixie)",
    architecture="amd64",
    cpu="4",
    memory="16384Mi",
    max_pods="110",
    kubelet_port=10250,
)
_POD: Final = Pod(
    namespace="shop",
    name="web-5d8f7c6b9-x2x7k",
    uid="5c2b7f1c-3a6e-4a43-8f0d-1c1a4f7a2b11",
    resource_version="4712",
    created=_START,
    labels=("app=web",),
    phase="Running",
    status="Running",
    node="node-1",
    ip="10.42.0.12",
    owner="ReplicaSet/web-5d8f7c6b9",
    containers=("web",),
    ready=1,
)
_SERVICE: Final = Service(
    namespace="shop",
    name="web",
    uid="b0a7e2f0-4a5e-4e8e-9d2e-2f0b1c7f3a11",
    resource_version="311",
    created=_START,
    type="ClusterIP",
    cluster_ip="10.43.0.80",
    ports=(ServicePort(name="http", protocol="TCP", port=80, target="8080"),),
    selector=("app=web",),
)
_DEPLOYMENT: Final = Workload(
    namespace="shop",
    name="web",
    uid="7e0c4a5b-2f3d-4a6e-8b1c-9d0e1f2a3b11",
    resource_version="4690",
    created=_START,
    kind="Deployment",
    wanted=2,
    ready=2,
    updated=2,
    available=2,
    images=("registry.example.com/web:1.4",),
    conditions=(Condition(type="Available", status="True", reason="MinimumReplicasAvailable"),),
)
_EVENT: Final = KubeEvent(
    namespace="shop",
    name="web-5d8f7c6b9-x2x7k.185f1d2c3b4a5968",
    uid="3f2a9c1b-7d5e-4f60-8a1b-2c3d4e5f6a11",
    resource_version="4713",
    created=_START,
    type="Normal",
    reason="Started",
    message="Started container web",
    about="Pod/web-5d8f7c6b9-x2x7k",
    source="kubelet",
    last_seen=_START,
)

EXAMPLES: Final[Mapping[str, Any]] = {
    "get_health": Health(timestamp=_NOW, version="1.0.0"),
    "get_readiness": Ready(
        "ready",
        {
            "registration": ReadyCheck(True),
            "heartbeat": ReadyCheck(True),
            "kubernetes": ReadyCheck(True),
        },
    ),
    "get_version": BuildInfo(
        version="1.0.0",
        git_commit="3f2a9c1b7d5e",
        build_date="2025-10-15T08:00:00Z",
        python_version="3.13.9",
        twisted_version="26.4.0",
        full_version="pipeops-agent 1.0.0 (3f2a9c1b7d5e, 2025-10-15T08:00:00Z) Python 3.13.9 Twisted 26.4.0",
    ),
    "sign_in": SignedIn(
        subject="dashboard",
        scopes=["read"],
        key="8d0c2f7b1e6a4953a2c4d6e8f0b1a3c5",
        expires=datetime(2025, 10, 15, 21, 0, tzinfo=UTC),
    ),
    "get_detailed_health": _HEALTH,
    "get_features": Features(
        features={
            "kubernetes": FeatureState(enabled=True, available=True, reason="the API server answers"),
            "cluster_metrics": FeatureState(
                enabled=True,
                available=False,
                reason="metrics.k8s.io: the server could not find the requested resource",
            ),
        }
    ),
    "get_runtime": _RUNTIME,
    "get_runtime_history": RuntimeHistory(interval=15.0, samples=(_RUNTIME,)),
    "get_connectivity": _CONNECTIVITY,
    "get_settings": _SETTINGS,
    "list_nodes": NodeList(items=(_NODE,), after=None, list=_WORTH),
    "list_pods": PodList(items=(_POD,), after="WyJwb2RzIiwiIiwic2hvcC93ZWIiXQ", list=_WORTH),
    "list_services": ServiceList(items=(_SERVICE,), after=None, list=_WORTH),
    "list_deployments": DeploymentList(items=(_DEPLOYMENT,), after=None, list=_WORTH),
    "list_events": EventList(items=(_EVENT,), after=None, list=_WORTH),
}
"""By the operation's name; those that answer no structs have none."""
