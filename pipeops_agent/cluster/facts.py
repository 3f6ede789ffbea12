"""What the cluster knows of itself and of this node: told to the control plane at registration."""

from __future__ import annotations

from typing import Final

from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.objects import Node, reading, wire
from pipeops_agent.cluster.resources import NODES
from pipeops_agent.facts import FactSource, Known, ProbeSource

_PROVIDERS: Final = {
    "aws": "aws",
    "azure": "azure",
    "digitalocean": "digitalocean",
    "gce": "gcp",
    "hcloud": "hetzner",
    "ibm": "ibm",
    "k3s": "k3s",
    "kind": "kind",
    "linode": "linode",
    "oci": "oracle",
    "openstack": "openstack",
    "ovh": "ovh",
    "scaleway": "scaleway",
    "vsphere": "vsphere",
    "vultr": "vultr",
}
"""By the scheme of C{spec.providerID}, which each provider's cloud controller writes."""

_LABELS: Final = {
    "eks.amazonaws.com/": "aws",
    "cloud.google.com/gke-": "gcp",
    "kubernetes.azure.com/": "azure",
    "doks.digitalocean.com/": "digitalocean",
}
"""By the beginning of a label that only this provider's nodes have, where there is no providerID."""


def cluster_sources(api: Api, node_name: str) -> list[FactSource]:
    """
    The cluster's facts.

    @param node_name: the node that this agent runs on; empty: any node speaks for all.
    """

    async def version() -> Known:
        return Known(k8s_version=(await api.version()).git_version)

    async def node() -> Known:
        return node_facts(await _node(api, node_name))

    return [ProbeSource("the cluster's version", version), ProbeSource("the node", node)]


async def _node(api: Api, name: str) -> Node | None:
    if name:
        return reading.read_node(await api.get(wire.Node, NODES, name))
    page = await api.page(wire.Node, NODES, limit=1)
    return reading.read_node(page.items[0]) if page.items else None


def node_facts(node: Node | None) -> Known:
    """What a node tells; nothing of what it does not say."""
    known = Known()
    if node is None:
        return known
    address = node.external_ip or node.internal_ip
    if address:
        known["server_ip"] = address
    if node.region:
        known["region"] = node.region
    provider = provider_of(node)
    if provider:
        known["cloud_provider"] = provider
    return known


def provider_of(node: Node) -> str:
    """Whose machine this is, from its C{providerID} or its labels; empty: they don't say."""
    scheme, there, _ = node.provider_id.partition("://")
    if there:
        # An unknown provider is named as it calls itself, where that can be a name.
        return _PROVIDERS.get(scheme, scheme[:63] if scheme.isascii() and scheme.isalnum() else "")
    for label in node.labels:
        for beginning, provider in _LABELS.items():
            if label.startswith(beginning):
                return provider
    return ""
