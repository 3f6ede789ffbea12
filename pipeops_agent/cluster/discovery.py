"""
Which resources the API server has: groups, versions, kinds and the names that people use.

Read in two calls where the server aggregates (since 1.26), else group by group; kept for a while, and
read anew when something is asked for that is not there: a CRD may have been made a second ago.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import msgspec
from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.call import Answer, Call
from pipeops_agent.cluster.errors import NOT_JSON, BadAnswer, ClusterError, StatusError
from pipeops_agent.cluster.served import (
    AGGREGATED,
    Aggregated,
    ApiResource,
    CoreVersions,
    Groups,
    Resources,
    from_aggregated,
    from_lists,
    sound,
)

T = TypeVar("T")

LIFETIME: Final = 600.0
"""Seconds that what was read holds: client-go's cached discovery has the same."""

MISS_INTERVAL: Final = 5.0
"""Seconds between two readings because of something that was not there: a guess must not cost a reading."""

MAX_ANSWER: Final = 16 * 1024 * 1024
"""The longest answer, in bytes: a server with a thousand CRDs sends one or two."""

MAX_RESOURCES: Final = 20_000
"""Resources that are kept of one server, in all their versions."""


class NotServed(ClusterError):
    """The server has no such kind or resource."""


class Catalog:
    """
    Everything that a server has, at one moment.

    @param found: in the server's order: groups by preference, the preferred version of each first.
    @ivar unavailable: C{group/version} that could not be read, each with the reason: an aggregated API that
        is down takes nothing but itself away.
    """

    def __init__(self, found: Iterable[ApiResource], unavailable: Mapping[str, str]) -> None:
        self.resources = tuple(found)
        self.unavailable = dict(unavailable)
        self._kinds: dict[tuple[str, str], ApiResource] = {}
        self._paths: dict[tuple[str, str, str], ApiResource] = {}
        self._names: dict[str, ApiResource] = {}
        for each in self.resources:
            resource = each.resource
            self._kinds.setdefault((resource.api_version, resource.kind), each)
            self._paths.setdefault((resource.group, resource.version, resource.plural), each)
        for each in sorted(self.resources, key=lambda each: (not each.preferred, bool(each.resource.group))):
            self._note_names(each)

    def _note_names(self, each: ApiResource) -> None:
        resource = each.resource
        names = (resource.plural, each.singular, resource.kind.lower())
        for name in filter(None, (*names, *each.short_names)):
            self._names.setdefault(name, each)
        for name in filter(None, names):
            self._names.setdefault(f"{name}.{resource.group}", each)
            self._names.setdefault(f"{name}.{resource.version}.{resource.group}", each)

    @property
    def groups(self) -> dict[str, list[str]]:
        """The groups and their versions, in the server's order."""
        found: dict[str, list[str]] = {}
        for each in self.resources:
            versions = found.setdefault(each.resource.group, [])
            if each.resource.version not in versions:
                versions.append(each.resource.version)
        return found

    def kind(self, api_version: str, kind: str) -> ApiResource | None:
        """What objects of C{apiVersion} and C{kind} are."""
        return self._kinds.get((api_version, kind))

    def path(self, group: str, version: str, plural: str) -> ApiResource | None:
        """What a path speaks of."""
        return self._paths.get((group, version, plural))

    def named(self, name: str) -> ApiResource | None:
        """
        What a person means: C{pods}, C{pod}, C{po}, C{Pod}, C{deployments.apps}, C{deployments.v1.apps}.

        Where several groups have the name, the core's is meant, then that of the first group of the server.
        """
        return self._names.get(name.lower().removesuffix("."))

    def where_unavailable(self, group: str) -> str:
        """Why something of C{group} may be missing, for the end of a message; empty: it is all there."""
        for name, reason in self.unavailable.items():
            if name.partition("/")[0] == group:
                return f" ({name} can't be read: {reason})"
        return ""


class Discovery:
    """
    Keeps the L{Catalog} of one server.

    @param told: of each that was read.
    """

    def __init__(
        self,
        clock: IReactorTime,
        api: Api,
        *,
        lifetime: float = LIFETIME,
        told: Callable[[Catalog], None] = lambda catalog: None,
    ) -> None:
        self._clock = clock
        self._api = api
        self._lifetime = lifetime
        self._told = told
        self._generation = 0
        self._lock = DeferredLock()
        self._catalog: Catalog | None = None
        self._read_at = 0.0

    async def catalog(self) -> Catalog:
        """
        What the server has, not older than the lifetime.

        @raise ClusterError: it can't be read.
        """
        return await self._newer_than(self._lifetime)

    async def kind(self, api_version: str, kind: str) -> ApiResource:
        """
        What objects of C{apiVersion} and C{kind} are.

        @raise NotServed: the server does not know them.
        """
        for age in (self._lifetime, MISS_INTERVAL):
            catalog = await self._newer_than(age)
            found = catalog.kind(api_version, kind)
            if found is not None:
                return found
        group = api_version.rpartition("/")[0]
        versions = [f"{group}/{version}" if group else version for version in catalog.groups.get(group, ())]
        also = f"; it has {', '.join(versions)}" if versions and api_version not in versions else ""
        raise NotServed(
            f"the server knows no kind {kind[:80]!r} in {api_version[:80]!r}{also}"
            f"{catalog.where_unavailable(group)}"
        )

    async def path(self, group: str, version: str, plural: str) -> ApiResource:
        """@raise NotServed: the server has no resource of this path."""
        for age in (self._lifetime, MISS_INTERVAL):
            catalog = await self._newer_than(age)
            found = catalog.path(group, version, plural)
            if found is not None:
                return found
        where = f"{group}/{version}" if group else version
        raise NotServed(
            f"the server has no {plural[:80]!r} in {where[:80]!r}{catalog.where_unavailable(group)}"
        )

    async def named(self, name: str) -> ApiResource:
        """
        What a person means: see L{Catalog.named}.

        @raise NotServed: the server has nothing of this name.
        """
        for age in (self._lifetime, MISS_INTERVAL):
            catalog = await self._newer_than(age)
            found = catalog.named(name)
            if found is not None:
                return found
        raise NotServed(f"the server has no resource {name[:80]!r}")

    async def refresh(self) -> Catalog:
        """Read anew, whatever is there."""
        return await self._newer_than(-1.0)

    def forget(self) -> None:
        """It is another server now: what is being read of the old one counts no more."""
        self._generation += 1
        self._catalog = None

    async def _newer_than(self, age: float) -> Catalog:
        """The catalog, read now where it is older: by one at a time, the others take what that one reads."""
        asked = self._clock.seconds()
        await self._lock.acquire()
        try:
            wanted = asked - age
            if self._catalog is not None and self._read_at >= wanted:
                return self._catalog
            began, generation = self._clock.seconds(), self._generation
            catalog = await self._read()
            if generation == self._generation:
                self._catalog, self._read_at = catalog, began
                self._told(catalog)
            return catalog
        finally:
            self._lock.release()

    # -- reading

    async def _read(self) -> Catalog:
        core = await self._get("/api")
        named = await self._get("/apis")
        first, second = _decoded(Aggregated, core), _decoded(Aggregated, named)
        if first is None or second is None:
            return await self._read_lists(core, named)
        unavailable: dict[str, str] = {}
        found = [*from_aggregated(first, unavailable), *from_aggregated(second, unavailable)]
        return _catalog(found, unavailable)

    async def _read_lists(self, core: Answer, named: Answer) -> Catalog:
        """Group by group: servers before 1.26, and whatever else stands before one and knows no better."""
        versions, groups = _decoded(CoreVersions, core), _decoded(Groups, named)
        if versions is None or groups is None:
            raise BadAnswer("discovery: the answer is no list of API groups")
        places = [("", version, f"/api/{version}") for version in versions.versions]
        for group in groups.groups:
            places += [(group.name, version, f"/apis/{group.name}/{version}") for version in group.in_order()]
        found, unavailable, seen = [], {}, set()
        for group_name, version, path in places:
            if not (sound(group_name or "core") and sound(version)):
                continue
            where = f"{group_name}/{version}" if group_name else version
            try:
                listed = _decoded(Resources, await self._get(path))
            except StatusError as error:
                unavailable[where] = error.message or f"{error.code}"
                continue
            if listed is None:
                unavailable[where] = "the answer is no list of resources"
                continue
            for each in from_lists(group_name, version, listed):
                key = (group_name, each.resource.plural)
                found.append(msgspec.structs.replace(each, preferred=key not in seen))
                seen.add(key)
        return _catalog(found, unavailable)

    async def _get(self, path: str) -> Answer:
        call = Call(
            method="GET", verb="get", resource="discovery", path=path, accept=AGGREGATED, limit=MAX_ANSWER
        )
        return await self._api.call(call)


def _decoded(kind: type[T], answer: Answer) -> T | None:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except NOT_JSON:
        return None


def _catalog(found: list[ApiResource], unavailable: dict[str, str]) -> Catalog:
    if len(found) > MAX_RESOURCES:
        raise BadAnswer(f"discovery: the server has more than {MAX_RESOURCES} resources")
    return Catalog(found, unavailable)


__all__ = ["ApiResource", "Catalog", "Discovery", "NotServed"]
