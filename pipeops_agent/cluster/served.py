"""What an API server says that it serves: the messages of discovery, and what is kept of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from pipeops_agent.cluster.resources import Resource

AGGREGATED: Final = ",".join(
    [
        *(
            f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            for version in ("v2", "v2beta1")
        ),
        "application/json",
    ]
)
"""C{Accept} of discovery: all groups in one answer where the server can (v2: 1.30, v2beta1: 1.26)."""

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


class ApiResource(msgspec.Struct, frozen=True, kw_only=True):
    """
    One kind of objects in one version, as the server serves it.

    @ivar preferred: whether this is the version of its group that the server prefers for it.
    @ivar subresources: C{status}, C{scale}, ...
    """

    resource: Resource
    verbs: frozenset[str] = frozenset()
    singular: str = ""
    short_names: tuple[str, ...] = ()
    subresources: frozenset[str] = frozenset()
    preferred: bool = True


class _GroupVersionKind(msgspec.Struct, frozen=True):
    group: str = ""
    version: str = ""
    kind: str = ""


class _Sub(msgspec.Struct, frozen=True):
    subresource: str


class _Found(msgspec.Struct, frozen=True, rename="camel"):
    resource: str
    response_kind: _GroupVersionKind | None = None
    scope: str = "Namespaced"
    singular_resource: str = ""
    verbs: frozenset[str] = frozenset()
    short_names: tuple[str, ...] = ()
    subresources: tuple[_Sub, ...] = ()


class _Version(msgspec.Struct, frozen=True):
    version: str
    resources: tuple[_Found, ...] = ()
    freshness: str = "Current"


class _Named(msgspec.Struct, frozen=True):
    name: str = ""


class _Group(msgspec.Struct, frozen=True):
    metadata: _Named = _Named()
    versions: tuple[_Version, ...] = ()


class Aggregated(msgspec.Struct, frozen=True):
    """C{apidiscovery.k8s.io APIGroupDiscoveryList}: everything below C{/api}, or below C{/apis}."""

    kind: Literal["APIGroupDiscoveryList"]
    items: tuple[_Group, ...] = ()


class CoreVersions(msgspec.Struct, frozen=True):
    """C{meta/v1 APIVersions}: C{/api} without aggregation."""

    kind: Literal["APIVersions"]
    versions: tuple[str, ...] = ()


class _GroupVersion(msgspec.Struct, frozen=True):
    version: str


class _ListedGroup(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    versions: tuple[_GroupVersion, ...] = ()
    preferred_version: _GroupVersion | None = None

    def in_order(self) -> list[str]:
        """The versions, the preferred one first."""
        found = [each.version for each in self.versions]
        preferred = self.preferred_version.version if self.preferred_version else ""
        return sorted(found, key=lambda version: version != preferred)


class Groups(msgspec.Struct, frozen=True):
    """C{meta/v1 APIGroupList}: C{/apis} without aggregation."""

    kind: Literal["APIGroupList"]
    groups: tuple[_ListedGroup, ...] = ()


class _Listed(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    kind: str
    namespaced: bool = True
    singular_name: str = ""
    verbs: frozenset[str] = frozenset()
    short_names: tuple[str, ...] = ()


class Resources(msgspec.Struct, frozen=True):
    """C{meta/v1 APIResourceList}: one version of one group."""

    kind: Literal["APIResourceList"]
    resources: tuple[_Listed, ...] = ()


def sound(name: str) -> bool:
    """Whether a group, a version or a plural can stand in a path as it is; a server may say anything."""
    return _NAME.fullmatch(name) is not None


def from_aggregated(said: Aggregated, unavailable: dict[str, str]) -> Iterator[ApiResource]:
    """
    The resources in C{said}.

    @param unavailable: takes C{group/version} and the reason of each that the server itself can't read.
    """
    for group in said.items:
        name, seen = group.metadata.name, set()
        for version in group.versions:
            if version.freshness == "Stale":
                unavailable[f"{name}/{version.version}"] = "the server behind it does not answer"
            for found in version.resources:
                if not all(map(sound, (name or "core", version.version, found.resource))):
                    continue
                yield ApiResource(
                    resource=Resource(
                        group=name,
                        version=version.version,
                        plural=found.resource,
                        kind=found.response_kind.kind if found.response_kind else "",
                        namespaced=found.scope == "Namespaced",
                    ),
                    verbs=found.verbs,
                    singular=found.singular_resource,
                    short_names=found.short_names,
                    subresources=frozenset(each.subresource for each in found.subresources),
                    preferred=found.resource not in seen,
                )
                seen.add(found.resource)


def from_lists(group: str, version: str, said: Resources) -> Iterator[ApiResource]:
    """The resources of one C{group} and C{version}; each is preferred until somebody knows better."""
    subresources: dict[str, set[str]] = {}
    for each in said.resources:
        plural, _, sub = each.name.partition("/")
        subresources.setdefault(plural, set()).update([sub] if sub else [])
    for each in said.resources:
        if not sound(each.name):
            continue  # a subresource, noted above
        yield ApiResource(
            resource=Resource(
                group=group, version=version, plural=each.name, kind=each.kind, namespaced=each.namespaced
            ),
            verbs=each.verbs,
            singular=each.singular_name,
            short_names=each.short_names,
            subresources=frozenset(subresources[each.name]),
        )
