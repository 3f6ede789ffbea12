"""
Which rights each feature and operation of the agent needs in the cluster: what C{docs/kubernetes.md} lists,
what is asked of the API server at start, and what a missing right is reported with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from pipeops_agent.cluster.scope import READING


class Need(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """
    One right, as RBAC grants it.

    @ivar group: the API group; empty for the core.
    @ivar resource: C{pods}, with a subresource C{pods/log}.
    @ivar namespaced: whether it can be granted in single namespaces.
    @ivar name: of the one object that is meant; empty: any.
    """

    verb: str
    resource: str
    group: str = ""
    namespaced: bool = True
    name: str = ""

    @property
    def words(self) -> str:
        """For messages: C{list deployments.apps}."""
        plural, slash, sub = self.resource.partition("/")
        full = f"{plural}.{self.group}{slash}{sub}" if self.group else self.resource
        return f"{self.verb} {full}{f' {self.name}' if self.name else ''}"


def rules(needs: Iterable[Need]) -> list[str]:
    """
    The rules of a Role or ClusterRole that grant C{needs} and nothing else, each on one line of YAML: rights
    that differ in their verbs alone are one, and so are, then, those that differ in their resources alone.
    """
    verbs: dict[tuple[str, str, str], list[str]] = {}
    for need in needs:
        verbs.setdefault((need.group, need.name, need.resource), []).append(need.verb)
    resources: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (group, name, resource), there in verbs.items():
        resources.setdefault((group, name, tuple(dict.fromkeys(there))), []).append(resource)
    return [_rule(group, name, found, there) for (group, name, there), found in resources.items()]


def _rule(group: str, name: str, resources: Iterable[str], verbs: Iterable[str]) -> str:
    names = f'resourceNames: ["{name}"], ' if name else ""
    return (
        f'{{apiGroups: ["{group}"], resources: [{", ".join(resources)}], {names}verbs: [{", ".join(verbs)}]}}'
    )


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """
    Something the agent can do in a cluster.

    @ivar needs: all of them are needed.
    @ivar namespace: the one where they are needed; empty: wherever the agent is to work.
    @ivar own: whether it is for the agent itself, so that the owner's rules for callers don't concern it.
    """

    name: str
    needs: tuple[Need, ...]
    namespace: str = ""
    own: bool = False

    @property
    def reads(self) -> bool:
        """Whether it changes nothing."""
        return READING.issuperset(need.verb for need in self.needs)


def _needs(
    verbs: str, resources: str, group: str = "", *, namespaced: bool = True, name: str = ""
) -> Iterator[Need]:
    for resource in resources.split():
        for verb in verbs.split():
            yield Need(verb=verb, resource=resource, group=group, namespaced=namespaced, name=name)


_WORKLOADS: Final = "deployments statefulsets daemonsets"

FEATURES: Final = (
    Feature(name="inventory_nodes", needs=(*_needs("list watch", "nodes", namespaced=False),)),
    Feature(name="inventory_namespaces", needs=(*_needs("list watch", "namespaces", namespaced=False),)),
    Feature(name="inventory_pods", needs=(*_needs("list watch", "pods"),)),
    Feature(
        name="inventory_services",
        needs=(
            *_needs("list watch", "services"),
            *_needs("list watch", "endpointslices", "discovery.k8s.io"),
        ),
    ),
    Feature(
        name="inventory_workloads",
        needs=(*_needs("list watch", _WORKLOADS, "apps"), *_needs("list watch", "jobs", "batch")),
    ),
    Feature(name="inventory_events", needs=(*_needs("list watch", "events"),)),
    Feature(
        name="cluster_metrics",
        needs=(
            *_needs("list", "nodes", "metrics.k8s.io", namespaced=False),
            *_needs("list", "pods", "metrics.k8s.io"),
        ),
    ),
    Feature(name="kubelet_metrics", needs=(*_needs("get", "nodes/stats", namespaced=False),)),
    Feature(name="logs", needs=(*_needs("get", "pods pods/log"),)),
    # Over WebSockets RBAC sees a get; since 1.35 a create as well.
    Feature(name="exec", needs=(*_needs("get create", "pods/exec"),)),
    Feature(name="attach", needs=(*_needs("get create", "pods/attach"),)),
    Feature(name="port_forward", needs=(*_needs("get create", "pods/portforward"),)),
    Feature(
        name="apply",
        needs=(
            *_needs("create patch", _WORKLOADS, "apps"),
            *_needs("create patch", "services configmaps"),
        ),
    ),
    Feature(name="scale", needs=(*_needs("patch", "deployments/scale statefulsets/scale", "apps"),)),
    Feature(name="restart", needs=(*_needs("get patch", _WORKLOADS, "apps"),)),
    Feature(name="delete", needs=(*_needs("delete", _WORKLOADS, "apps"), *_needs("delete", "pods services"))),
    Feature(
        name="rollout",
        needs=(
            *_needs("get", _WORKLOADS, "apps"),
            *_needs("list", "replicasets", "apps"),
            *_needs("list", "pods events"),
        ),
    ),
    Feature(name="cordon", needs=(*_needs("patch", "nodes", namespaced=False),)),
    Feature(
        name="drain",
        needs=(
            *_needs("patch", "nodes", namespaced=False),
            *_needs("list", "pods", namespaced=False),
            *_needs("create", "pods/eviction", namespaced=False),
        ),
    ),
    Feature(
        name="kubernetes_tokens",
        own=True,
        needs=(
            *_needs("create", "tokenreviews", "authentication.k8s.io", namespaced=False),
            *_needs("create", "subjectaccessreviews", "authorization.k8s.io", namespaced=False),
        ),
    ),
)
"""Everything, in the order of the documentation."""

OPERATIONS: Final = tuple(
    feature.name
    for feature in FEATURES
    if not feature.name.endswith("_metrics") and "inventory" not in feature.name
)
"""What can be asked of the agent; the rest it does by itself, and its results say whether it can."""


def own_features(
    *, namespace: str, state_secret: str, lease: str, service_account: str
) -> tuple[Feature, ...]:
    """
    What the agent needs for itself, in its own C{namespace} and on objects of fixed names alone.

    @param state_secret: empty where the state is in a file; so C{lease} and C{service_account}.
    """
    found = []
    for feature, verbs, resource, group, name in (
        ("state", "get update", "secrets", "", state_secret),
        ("lease", "get update", "leases", "coordination.k8s.io", lease),
        ("cluster_token", "create", "serviceaccounts/token", "", service_account),
    ):
        if name:
            needs = (*_needs(verbs, resource, group, name=name),)
            found.append(Feature(name=feature, needs=needs, namespace=namespace, own=True))
    return tuple(found)
