"""Which lists are kept: of each kind, all namespaces where rights and owner allow it, else those that do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.clock import WallClock
from pipeops_agent.cluster import resources
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.inventory import Inventory, Store
from pipeops_agent.cluster.objects import KINDS, Kind, Object
from pipeops_agent.cluster.reflector import ListStatus, Reflector
from pipeops_agent.cluster.scope import OutOfReach, Scope
from pipeops_agent.settings.model import KubernetesSettings

_SELECTED: Final = frozenset(
    each.name
    for each in (
        resources.PODS,
        resources.SERVICES,
        resources.DEPLOYMENTS,
        resources.STATEFUL_SETS,
        resources.DAEMON_SETS,
        resources.JOBS,
    )
)
"""The kinds that C{kubernetes.labels} selects from."""


class InventoryKeeper(MultiService):
    """
    Keeps C{inventory} like the cluster, within C{scope}.

    With C{kubernetes.namespaces} each of those has a list of its own, and nothing else is asked for. Without
    it one list has all namespaces; where that is denied, the agent's own namespace is read instead, until the
    right is there: so an agent with a Role and no ClusterRole sees what it may, and asks no more than that.

    @param home: the agent's own namespace.
    """

    def __init__(
        self,
        clock: IReactorTime,
        api: Api,
        inventory: Inventory,
        scope: Scope,
        settings: KubernetesSettings,
        *,
        home: str,
        wall: WallClock,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._api = api
        self._inventory = inventory
        self._scope = scope
        self._settings = settings
        self._home = home
        self._wall = wall
        self._ended_watches: dict[str, int] = {}

    def startService(self) -> None:
        """Begin with every list, from nothing."""
        for kind in KINDS:
            for namespace in self._namespaces(kind):
                if self._within_reach(kind, namespace):
                    self._keep(kind, namespace)
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Stop all lists, and forget what they held: nobody keeps it like the cluster any more."""
        stopping: Deferred[None] = super().stopService()
        return stopping.addCallback(lambda _: self._forget())

    def wake(self) -> None:
        """The API server answers again: lists that are broken are looked at now."""
        for reflector in self:
            reflector.wake()

    def watches(self) -> Iterator[tuple[str, int]]:
        """How many watches were begun, by kind."""
        counts = dict(self._ended_watches)
        for reflector in self:
            counts[reflector.kind] = counts.get(reflector.kind, 0) + reflector.watches
        yield from counts.items()

    def _within_reach(self, kind: Kind[Any], namespace: str | None) -> bool:
        try:
            for verb in ("list", "watch"):
                self._scope.check(verb, kind.resource, namespace)
        except OutOfReach:
            return False
        return True

    def _namespaces(self, kind: Kind[Any]) -> Iterable[str | None]:
        if not kind.resource.namespaced or not self._scope.namespaces:
            return (None,)
        return sorted(name for name in self._scope.namespaces if self._scope.reaches(name))

    def _keep(self, kind: Kind[Any], namespace: str | None) -> None:
        reflector = Reflector(
            self._clock,
            self._api,
            kind,
            _Part(self, kind, namespace),
            wall=self._wall,
            namespace=namespace,
            labels=self._settings.labels if kind.resource.name in _SELECTED else "",
            resync=self._settings.resync,
        )
        reflector.setName(_name(kind, namespace))
        reflector.setServiceParent(self)

    def _forget(self) -> None:
        for reflector in tuple(self):
            self._count(reflector)
            reflector.disownServiceParent()
        for store in self._inventory:
            for namespace in tuple(store.statuses):
                store.forget(namespace)

    def _count(self, reflector: Any) -> None:
        kind = reflector.kind
        self._ended_watches[kind] = self._ended_watches.get(kind, 0) + reflector.watches

    # -- where all namespaces are denied

    def all_changed(self, kind: Kind[Any], status: ListStatus) -> None:
        """The state of a list of all namespaces is another one."""
        store, name = self._inventory[kind.name], _name(kind, self._home)
        if status.state == "denied":
            if name not in self.namedServices and self._scope.reaches(self._home):
                store.clear(None)  # what may not be read any more is not shown either
                self._keep(kind, self._home)
        elif status.state == "live" and name in self.namedServices:
            reflector = self.getServiceNamed(name)
            self._count(reflector)
            reflector.disownServiceParent()
            store.release(self._home)

    @property
    def scope(self) -> Scope:
        """What is within reach."""
        return self._scope

    def store(self, kind: Kind[Any]) -> Store[Any]:
        """Where a kind is kept."""
        return self._inventory[kind.name]


class _Part:
    """One list's part of a store, without what the owner keeps out of reach (L{Sink})."""

    def __init__(self, keeper: InventoryKeeper, kind: Kind[Any], namespace: str | None) -> None:
        self._keeper = keeper
        self._kind = kind
        part = keeper.store(kind).part(namespace)
        self._part = part
        self.drop = part.drop
        self.keys = part.keys
        self._watched = namespace is None and kind.resource.namespaced
        self._filters = namespace is None and (
            kind.resource.namespaced or kind.resource is resources.NAMESPACES
        )
        self._reaches = keeper.scope.reaches

    def put(self, item: Object) -> None:
        """Keep it, where it is within reach."""
        if not self._filters or self._reaches(item.namespace or item.name):
            self._part.put(item)

    def status_changed(self, status: ListStatus) -> None:
        """The list's state is another one."""
        self._part.status_changed(status)
        if self._watched:
            self._keeper.all_changed(self._kind, status)


def _name(kind: Kind[Any], namespace: str | None) -> str:
    return f"{kind.name} of {'all' if namespace is None else namespace}"
