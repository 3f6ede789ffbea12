"""Resources of the Kubernetes API and the paths by which they are reached (API conventions, "Resources")."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

import msgspec

_SEGMENT: Final = re.compile(r"[^/%\x00-\x1f\x7f]{1,253}")


def checked_segment(text: str, what: str) -> str:
    """
    C{text}, where it can be one segment of a path: the API server's own rule for names.

    @param what: what it is, for the message: "a pod's name".
    @raise ValueError: it can't.
    """
    if text in (".", "..") or not _SEGMENT.fullmatch(text):
        raise ValueError(f"{what} can't be {text[:80]!r}")
    return text


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """
    One kind of objects.

    @ivar group: the API group; empty for the core.
    @ivar plural: the name in paths: C{pods}.
    @ivar kind: the name in objects: C{Pod}.
    """

    group: str = ""
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """C{group/version}, as in objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def name(self) -> str:
        """C{plural.group}, as C{kubectl} names it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, *, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """
        The path of the whole collection, of a namespace's, or of one object, quoted.

        @raise ValueError: a part can't stand in a path, or a namespace is given where there is none.
        """
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if namespace is not None:
            if not self.namespaced:
                raise ValueError(f"{self.name} have no namespace")
            parts += ["namespaces", quote(checked_segment(namespace, "a namespace"), safe="")]
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(checked_segment(name, f"the name of a {self.kind}"), safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


NODES: Final = Resource(version="v1", plural="nodes", kind="Node", namespaced=False)
NAMESPACES: Final = Resource(version="v1", plural="namespaces", kind="Namespace", namespaced=False)
PODS: Final = Resource(version="v1", plural="pods", kind="Pod")
SERVICES: Final = Resource(version="v1", plural="services", kind="Service")
SECRETS: Final = Resource(version="v1", plural="secrets", kind="Secret")
SERVICE_ACCOUNTS: Final = Resource(version="v1", plural="serviceaccounts", kind="ServiceAccount")
EVENTS: Final = Resource(version="v1", plural="events", kind="Event")
ENDPOINT_SLICES: Final = Resource(
    group="discovery.k8s.io", version="v1", plural="endpointslices", kind="EndpointSlice"
)
DEPLOYMENTS: Final = Resource(group="apps", version="v1", plural="deployments", kind="Deployment")
REPLICA_SETS: Final = Resource(group="apps", version="v1", plural="replicasets", kind="ReplicaSet")
STATEFUL_SETS: Final = Resource(group="apps", version="v1", plural="statefulsets", kind="StatefulSet")
DAEMON_SETS: Final = Resource(group="apps", version="v1", plural="daemonsets", kind="DaemonSet")
JOBS: Final = Resource(group="batch", version="v1", plural="jobs", kind="Job")
LEASES: Final = Resource(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease")
NODE_METRICS: Final = Resource(
    group="metrics.k8s.io", version="v1beta1", plural="nodes", kind="NodeMetrics", namespaced=False
)
POD_METRICS: Final = Resource(group="metrics.k8s.io", version="v1beta1", plural="pods", kind="PodMetrics")
