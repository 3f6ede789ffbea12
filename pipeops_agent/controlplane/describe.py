"""What the agent tells the control plane of itself when it registers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from pipeops_agent.clock import rfc3339
from pipeops_agent.controlplane.messages import CAPABILITIES, CONTRACT_VERSION, Registration, ServerSpecs
from pipeops_agent.facts import Facts
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model import AccessSettings, Settings
from pipeops_agent.settings.model_tunnel import Forward

_PORT_NAMES: Final = {"kubelet-metrics": "kubelet"}
"""The contract's names of ports, where they are not just the forward's with underscores."""


def describe_agent(
    settings: Settings,
    facts: Facts,
    *,
    agent_id: str,
    cluster_id: str | None,
    version: str,
    moment: datetime,
    cluster_token: Secret | None = None,
    cluster_ca: str = "",
    cluster_server_name: str = "",
) -> Registration:
    """
    The body of a registration.

    @param cluster_id: the last known one.
    @param cluster_token: what the control plane may use on the tunnelled Kubernetes API; without it
        neither C{cluster_ca} nor C{cluster_server_name} is sent.
    """
    return Registration(
        contract_version=CONTRACT_VERSION,
        capabilities=CAPABILITIES,
        agent_id=agent_id,
        name=settings.agent.cluster_name,
        k8s_version=facts.k8s_version or "",
        server_ip=facts.server_ip or "",
        server_code=facts.server_ip or "",
        k8s_service_token=cluster_token,
        k8s_ca=cluster_ca if cluster_token else "",
        k8s_server_name=cluster_server_name if cluster_token else "",
        region=facts.region,
        cloud_provider=facts.cloud_provider,
        hostname=facts.hostname,
        agent_version=version,
        labels={
            **settings.agent.labels,
            "hostname": facts.hostname,
            "agent.pipeops.io/version": version,
        },
        tunnel_port_config=_ports(settings.tunnel.forwards),
        server_specs=_specs(facts),
        metadata={
            "agent_mode": "vm-agent",
            "agent_name": settings.agent.name,
            "registration_timestamp": rfc3339(moment),
            **({"cluster_id": cluster_id} if cluster_id else {}),
            **_access(settings.access),
            **({} if facts.rights is None else {"rights": ",".join(facts.rights) or "none"}),
        },
    )


def _ports(forwards: Iterable[Forward]) -> Mapping[str, int]:
    return {
        _PORT_NAMES.get(forward.name, forward.name.replace("-", "_")): forward.target[1]
        for forward in forwards
    }


def _specs(facts: Facts) -> ServerSpecs | None:
    specs = ServerSpecs(
        cpu_cores=facts.cpu_cores,
        memory_gb=facts.memory_gb,
        disk_gb=facts.disk_gb,
        os=facts.os or "",
    )
    return None if specs == ServerSpecs() else specs


def _access(access: AccessSettings) -> Mapping[str, str]:
    """The owner's switch, where it is set: so that the control plane need not offer what is refused."""
    shown = {"access_read_only": "true"} if access.read_only else {}
    for name in ("verbs", "kinds", "namespaces"):
        denied = getattr(access.deny, name)
        if denied:
            shown[f"access_deny_{name}"] = ",".join(denied)
    return shown
