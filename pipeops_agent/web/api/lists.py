"""
C{/api/cluster/...}: what the cluster holds, page by page, from the inventory.

Asking costs the API server nothing. An object that is there from the first page to the last is given once, as
it is at the time of its page; what comes or goes meanwhile is given or not. Events are in the order of time,
newest first: one that happens again moves to the front.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Final, Generic, Literal, Protocol, TypeVar, cast

import msgspec

from pipeops_agent.caller import Caller
from pipeops_agent.clock import Moment
from pipeops_agent.cluster import resources
from pipeops_agent.cluster.inventory import Inventory, Store
from pipeops_agent.cluster.objects import KubeEvent, Node, Object, Pod, Service, Workload
from pipeops_agent.cluster.reflector import ListState
from pipeops_agent.cluster.resources import Resource
from pipeops_agent.cluster.scope import OutOfReach, Scope
from pipeops_agent.status import StatusBoard
from pipeops_agent.web.api.cursor import MAX_LENGTH, read_cursor, write_cursor
from pipeops_agent.web.replies import Refusal

MAX_LIMIT: Final = 1000
"""Objects in one page: 300 KB of pods, of which the encoding takes a millisecond."""

_AGE_DIGITS: Final = 16
_AGES: Final = 1 << 62

Kept = TypeVar("Kept", bound=Object)


class PageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a list."""

    limit: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=MAX_LIMIT,
            description="At most so many objects.",
            extra={"expected": f"an integer from 1 to {MAX_LIMIT}"},
        ),
    ] = 200
    after: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=MAX_LENGTH,
            description="Go on behind an earlier page: what that had as `continue`.",
            extra={"expected": "what an answer had as `continue`"},
        ),
    ] = msgspec.field(default="", name="continue")


class NamespacedQuery(PageQuery, frozen=True, kw_only=True):
    """Which part of a list of objects that are in namespaces."""

    namespace: Annotated[
        str,
        msgspec.Meta(
            # RFC 1123, as Kubernetes has it. Python's `$` alone would let a line break pass.
            pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$(?!\n)",
            max_length=63,
            description="Only objects of this namespace.",
            extra={"expected": "the name of a namespace"},
        ),
    ] = ""


class ListWorth(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a list is worth.

    @ivar state: C{live}: it is the server's, at this moment. C{listing}: it is being read, what was known is
        shown. C{broken}: the server can't be asked. C{denied}, C{absent}: it does not give this list.
        C{pending}: not read yet. C{unwatched}: nothing is kept, as on a standby.
    @ivar since: when that began.
    @ivar synced: when the list was last known to be the server's, where it is not C{live}.
    """

    state: ListState | Literal["unwatched"]
    since: Moment | None = None
    synced: Moment | None = None
    message: str = ""


class ObjectList(msgspec.Struct, Generic[Kept], frozen=True, kw_only=True):
    """
    One page of a list.

    @ivar items: the objects.
    @ivar after: for the next page; null: this is the last one.
    @ivar list: what the list is worth.
    """

    items: tuple[Kept, ...]
    after: str | None = msgspec.field(name="continue")
    list: ListWorth


class NodeList(ObjectList[Node], frozen=True, kw_only=True):
    """One page of the nodes, by name."""


class PodList(ObjectList[Pod], frozen=True, kw_only=True):
    """One page of the pods, by namespace and name."""


class ServiceList(ObjectList[Service], frozen=True, kw_only=True):
    """One page of the services, by namespace and name."""


class DeploymentList(ObjectList[Workload], frozen=True, kw_only=True):
    """One page of the deployments, by namespace and name."""


class EventList(ObjectList[KubeEvent], frozen=True, kw_only=True):
    """One page of the events, the newest first."""


class Listed(msgspec.Struct, frozen=True):
    """
    A kind that can be listed.

    @ivar page: the type of a page of it.
    @ivar by_time: the newest come first; else by namespace and name.
    """

    resource: Resource
    page: type[ObjectList[Any]]
    by_time: bool = False

    @property
    def name(self) -> str:
        """Its plural."""
        return self.resource.plural

    def places(self, store: Store[Any]) -> Iterable[str]:
        """
        Where each object stands: a lower text comes first. It ends with the object's key; no two are equal.
        """
        if not self.by_time:
            return store.keys()
        return (f"{_age(item.last_seen)}{item.key}" for item in store)

    def key(self, place: str) -> str:
        """The key of the object that stands there."""
        return place[_AGE_DIGITS:] if self.by_time else place


LISTED: Final = (
    Listed(resources.NODES, NodeList),
    Listed(resources.PODS, PodList),
    Listed(resources.SERVICES, ServiceList),
    Listed(resources.DEPLOYMENTS, DeploymentList),
    Listed(resources.EVENTS, EventList, by_time=True),
)


def _age(moment: datetime | None) -> str:
    """Sixteen digits that are lower the later C{moment} is; those of none are the highest."""
    age = _AGES if moment is None else _AGES - int(moment.timestamp() * 1_000_000)
    return f"{age:0{_AGE_DIGITS}x}"


class Cluster(Protocol):
    """What of L{ClusterService<pipeops_agent.cluster.service.ClusterService>} is read here."""

    @property
    def configured(self) -> bool:
        """Whether there is one."""

    @property
    def inventory(self) -> Inventory:
        """What it holds."""


class Sight(Protocol):
    """What a caller may see."""

    async def namespaces(
        self, caller: Caller, verb: str, resource: Resource, known: Collection[str]
    ) -> frozenset[str] | None:
        """
        The namespaces whose objects C{caller} may see; None: all of them, and what has no namespace.

        @param known: the namespaces that there are.
        @raise Refusal: that can't be found out now.
        """


class SightByScope:
    """What a caller may see by its scopes alone."""

    async def namespaces(
        self, caller: Caller, verb: str, resource: Resource, known: Collection[str]
    ) -> frozenset[str] | None:
        """See L{Sight.namespaces}."""
        if caller.allows(verb, kind=resource.name):
            return None
        return frozenset(each for each in known if caller.allows(verb, kind=resource.name, namespace=each))


class ClusterLists:
    """
    Gives pages.

    @param board: says what each list is worth.
    @param scope: the owner's rules, now.
    @param sight: what a caller may see within those.
    """

    def __init__(
        self, cluster: Cluster, board: StatusBoard, scope: Callable[[], Scope], sight: Sight | None = None
    ) -> None:
        self._cluster = cluster
        self._board = board
        self._scope = scope
        self._sight = SightByScope() if sight is None else sight

    async def page(self, caller: Caller, listed: Listed, query: PageQuery) -> ObjectList[Any]:
        """
        One page.

        @raise Refusal: 404, there is no cluster; 403, the owner's rules or the caller's scopes say no; 400,
            C{continue} is of no use here.
        """
        if not self._cluster.configured:
            raise Refusal(404, "no_cluster", "no cluster is configured")
        namespace = query.namespace if isinstance(query, NamespacedQuery) else ""
        sees = await self._seen(caller, listed.resource, namespace)
        behind = read_cursor(query.after, listed.name, namespace) if query.after else ""
        store = self._cluster.inventory[listed.name]
        items: list[Any] = []
        last = ""
        more = False
        for place in sorted(place for place in listed.places(store) if place > behind):
            key = listed.key(place)
            if not sees(key.partition("/")[0] if listed.resource.namespaced else ""):
                continue
            if len(items) == query.limit:
                more = True
                break
            items.append(store.at(key))
            last = place
        return listed.page(
            items=tuple(items),
            after=write_cursor(listed.name, namespace, last) if more else None,
            list=self._worth(listed.name),
        )

    async def _seen(self, caller: Caller, resource: Resource, namespace: str) -> Callable[[str], bool]:
        """
        Which namespaces are shown, owner's rules and caller's scopes together.

        @raise Refusal: not even the one that was asked for.
        """
        scope = self._scope()
        try:
            scope.check("list", resource, namespace or None)
        except OutOfReach as error:
            raise Refusal(403, "out_of_reach", str(error)) from None
        known = {*self._namespaces(resource), *([namespace] if namespace else ())}
        may = await self._sight.namespaces(caller, "list", resource, known)
        if may is not None and (namespace not in may if namespace else not resource.namespaced):
            where = f" in namespace {namespace}" if namespace else ""
            raise Refusal(403, "forbidden", f"this token does not let you see {resource.name}{where}")

        def shown(name: str) -> bool:
            return (
                (not namespace or name == namespace)
                and (may is None or name in may)
                and (not name or scope.reaches(name))
            )

        return cache(shown)  # asked once for each namespace, not for each object

    def _namespaces(self, resource: Resource) -> Iterable[str]:
        """Those that there are; where the agent may not list them, those that something is in."""
        inventory = self._cluster.inventory
        names, keys = inventory["namespaces"].keys(), inventory[resource.plural].keys()
        return names or {key.partition("/")[0] for key in keys}

    def _worth(self, kind: str) -> ListWorth:
        cluster = self._board.now.cluster
        for each in cluster.lists:
            if each.kind == kind:
                return ListWorth(
                    state=cast(ListState, each.state),
                    since=each.since,
                    synced=each.synced,
                    message=each.message,
                )
        reason = "nothing is watched before this agent is registered and active"
        return ListWorth(state="unwatched", message=reason if cluster.reachable else cluster.message)
