"""
The cluster as a service: found, reached, and kept in view.

It begins by looking for the cluster and goes on for as long as the process lives; L{ClusterService.watch}
then keeps the inventory, and L{ClusterService.unwatch} ends that, as often as the agent becomes active.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.clock import WallClock
from pipeops_agent.cluster.access import CONNECT_TIMEOUT, ClusterAccess
from pipeops_agent.cluster.capabilities import Capabilities
from pipeops_agent.cluster.errors import Misconfigured
from pipeops_agent.cluster.facts import cluster_sources
from pipeops_agent.cluster.finding import Finder, Surroundings, home_namespace, uses_service_account
from pipeops_agent.cluster.inventory import Inventory, Store
from pipeops_agent.cluster.keeping import InventoryKeeper
from pipeops_agent.cluster.kubelets import Kubelets
from pipeops_agent.cluster.logs import Logs
from pipeops_agent.cluster.operations import Kit, Operations
from pipeops_agent.cluster.proxying import Proxy
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.reaching import Reachability, Reached
from pipeops_agent.cluster.reflector import ListStatus
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.cluster.service_token import verification
from pipeops_agent.cluster.streaming import Streams
from pipeops_agent.cluster.telling import ChangeTeller
from pipeops_agent.cluster.transport import Observer
from pipeops_agent.cluster.usage import Usage, UsageService, UsageStatus
from pipeops_agent.events import EventHub
from pipeops_agent.facts import FactSource, ProbeSource
from pipeops_agent.net import Connector
from pipeops_agent.scheduling import Tasks
from pipeops_agent.secrets import Secret
from pipeops_agent.settings import Settings
from pipeops_agent.status import KindStatus, StatusBoard

_log = Logger(namespace="cluster")


class ClusterService(MultiService):
    """
    Finds the cluster, says on the board what is true of it, and keeps its inventory.

    @param reactor: everything that a reactor can do.
    @param counted: told of every call, for metrics.
    @param keep: lets the log mask a secret until another has its name.

    @ivar on_facts: called when something is known of the cluster that registrations tell, or it is different.
    @ivar api: the API of whichever cluster is configured; every operation goes by it.
    @ivar inventory: what the cluster holds, while it is watched.
    """

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        around: Surroundings,
        board: StatusBoard,
        hub: EventHub,
        *,
        version: str,
        counted: Observer,
        keep: Callable[[str, Secret], None],
    ) -> None:
        super().__init__()
        self._clock: IReactorTime = reactor
        self._settings = settings
        self._wall: WallClock = around.wall
        self._board = board
        self._hub = hub
        self._counted = counted
        self._around = around
        self._in_pod = uses_service_account(settings.kubernetes, around.environ)
        self._access = ClusterAccess(
            reactor,
            Finder(reactor, settings.kubernetes, around),
            version=version,
            observe=self._observed,
            keep=keep,
        )
        self.api = self._access.api
        self.inventory = Inventory()
        self.inventory.on_status(lambda kind: self._show_lists())
        self._reachability = Reachability(
            self._clock, self._access, told=self._reached, changed=self._another
        )
        self._reachability.setServiceParent(self)
        self._capabilities = Capabilities(
            self._clock,
            self.api,
            lambda: self._settings,
            lambda: self.home,
            in_pod=self._in_pod,
            tell=self._able,
        )
        if self.configured:
            self._capabilities.setServiceParent(self)
        self._kubelets = Kubelets(
            self._clock,
            lambda: self._access.config,
            lambda: Connector(reactor, connect_timeout=CONNECT_TIMEOUT),
            version=version,
            observe=counted,
        )
        self._tasks = Tasks()
        self._lock = DeferredLock()
        self._watching = False
        self._keeper: InventoryKeeper | None = None
        self._usage: UsageService | None = None
        self._view: MultiService | None = None
        self._said: str | None = None
        self.on_facts: Callable[[], None] = lambda: None

    # -- what others ask

    @property
    def configured(self) -> bool:
        """Whether the settings or the pod name a cluster."""
        return self._access.configured

    @property
    def usage(self) -> Usage | None:
        """What of processors and memory is used, where that is known."""
        return None if self._usage is None else self._usage.usage

    @property
    def keeper(self) -> InventoryKeeper | None:
        """What keeps the inventory, while something does."""
        return self._keeper

    def whole(self, kind: str) -> Store[Any] | None:
        """The store of a kind, where it is, or was lately, all that is within reach; else None."""
        status = self.inventory[kind].status
        if status is None or status.synced is None or status.state in ("denied", "absent"):
            return None
        return self.inventory[kind]

    def fact_sources(self) -> list[FactSource]:
        """The facts of the cluster, where there is one."""
        if not self.configured:
            return []
        rights = ProbeSource("what the agent may do in the cluster", self._capabilities.fact)
        return [*cluster_sources(self.api, self._settings.agent.node_name), rights]

    @property
    def operations(self) -> Operations:
        """What callers may ask for, by the owner's rules of this moment."""
        kit = Kit(
            clock=self._clock,
            wall=self._wall,
            api=self.api,
            discovery=self._capabilities.discovery,
            reach=self._reach,
            own_pod=self._own_pod,
        )
        return Operations(kit)

    @property
    def proxy(self) -> Proxy:
        """The way of callers' own requests, by the owner's rules of this moment."""
        return Proxy(self.api, self._capabilities.discovery, self._reach)

    @property
    def logs(self) -> Logs:
        """Logs of pods for callers, by the owner's rules of this moment."""
        return Logs(self._clock, self.api, self._reach)

    @property
    def streams(self) -> Streams:
        """
        Streams to pods for callers, by the owner's rules and to the cluster of this moment.

        @raise Misconfigured: there is none.
        """
        return self._access.streams(self._reach)

    @property
    def _reach(self) -> Reach:
        scope, kubernetes = Scope.of(self._settings), self._settings.kubernetes
        if not self._in_pod:
            return Reach(scope=scope)
        return Reach.of(
            scope, namespace=self.home, state_secret=kubernetes.state_secret, lease=kubernetes.lease
        )

    @property
    def _own_pod(self) -> str:
        name = self._settings.agent.pod_name or self._around.hostname
        return f"{self.home}/{name}" if self._in_pod and name else ""

    @property
    def verification(self) -> tuple[str, str]:
        """
        The CA (PEM) and the name by which the API is known through the tunnel; empty where there is none.

        @raise Misconfigured: the CA can't be read.
        """
        return verification(self._access.config) if self._access.found else ("", "")

    # -- start and stop

    def startService(self) -> None:
        """Look for the cluster."""
        if self.configured:
            self._board.set_cluster(configured=True, message="looking for the cluster")
        else:
            _log.info("no cluster is configured; the agent runs without")
        super().startService()

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.unwatch()
        await self._tasks.stop()
        await maybeDeferred(super().stopService)
        await self._access.close()

    def watch(self) -> None:
        """Keep the inventory from now on."""
        self._watching = True
        self._tasks.spawn(self._arrange(), "beginning to watch the cluster")

    async def unwatch(self) -> None:
        """Keep nothing any more, and forget it."""
        self._watching = False
        await self._arrange()

    def reconfigure(self, settings: Settings) -> None:
        """Take in the owner's rules: what is out of reach now is forgotten."""
        before, self._settings = Scope.of(self._settings), settings
        if Scope.of(settings) != before:
            self._another()

    def _another(self) -> None:
        """Nothing that is known holds any more: another cluster, or other rules."""
        self._capabilities.forget()
        if self._watching:
            self._tasks.spawn(self._arrange(), "looking at the cluster anew")

    async def _arrange(self) -> None:
        """End what is kept, and begin anew if something is to be; one after the other."""
        await self._lock.run(lambda: Deferred.fromCoroutine(self._rearrange()))

    async def _rearrange(self) -> None:
        await self._end()
        if self._watching and self.configured:
            self._begin()

    def _begin(self) -> None:
        scope, kubernetes = Scope.of(self._settings), self._settings.kubernetes
        self._view = view = MultiService()
        self._keeper = InventoryKeeper(
            self._clock, self.api, self.inventory, scope, kubernetes, home=self.home, wall=self._wall
        )
        self._usage = UsageService(
            self._clock,
            self.api,
            self.inventory,
            self._kubelets,
            scope,
            wall=self._wall,
            told=self._usage_known,
        )
        for service in (ChangeTeller(self._clock, self.inventory, self._hub), self._keeper, self._usage):
            service.setServiceParent(view)
        view.startService()

    async def _end(self) -> None:
        view, self._view = self._view, None
        if view is None:
            return
        self._keeper = self._usage = None
        # One after the other, the teller first: that all is forgotten is no news of the cluster.
        for service in tuple(view):
            await maybeDeferred(service.stopService)
        self._board.set_cluster(lists=(), usage=None, usage_message="")

    @property
    def home(self) -> str:
        """The agent's own namespace."""
        return home_namespace(self._settings, self._account_namespace())

    def _account_namespace(self) -> str | None:
        try:
            return self._access.config.namespace
        except Misconfigured:
            return None

    # -- what is seen

    def _observed(self, verb: str, resource: str, code: int | None, seconds: float) -> None:
        self._counted(verb, resource, code, seconds)
        self._reachability.observed(code)

    def _reached(self, reached: Reached) -> None:
        before = self._board.now.cluster
        if reached.reached:
            if not before.reachable:
                _log.info(
                    "the cluster is reached at {place}: Kubernetes {version}",
                    place=self._access.config.authority,
                    version=reached.version,
                    origin=self._access.config.origin,
                )
                if self._keeper is not None:
                    self._keeper.wake()
            self._said = None
        elif self._said is None:
            self._said = reached.sentence
            _log.warn("the cluster can't be reached; the agent goes on: {reason}", reason=reached.sentence)
        elif self._said != reached.sentence:
            self._said = reached.sentence
            _log.debug("the cluster still can't be reached: {reason}", reason=reached.sentence)
        changed = before.since is None or reached.reached != before.reachable
        self._board.set_cluster(
            configured=True,
            reachable=reached.reached,
            since=self._wall() if changed else before.since,
            message="the API server answers" if reached.reached else reached.sentence,
            version=reached.version,
        )
        if reached.reached and not before.reachable:
            self._capabilities.reached()
        if reached.version != before.version:
            self.on_facts()

    def _able(self, **changes: Any) -> None:
        self._board.set_cluster(**changes)
        if "abilities" in changes:
            self.on_facts()

    def _usage_known(self, status: UsageStatus) -> None:
        self._board.set_cluster(usage=status.source, usage_message=status.message)

    def _show_lists(self) -> None:
        lists = tuple(status for store in self.inventory if (status := _worst(store)) is not None)
        self._board.set_cluster(lists=lists)


def _worst(store: Store[Any]) -> KindStatus | None:
    """
    The state of the list that is worst off; where all namespaces are denied and one is read instead, that
    one's, with why it is no more.
    """
    status, lists = store.status, store.statuses
    if status is None:
        return None
    everywhere = lists.get(None)
    instead = next((name for name, each in lists.items() if name and each.state == "live"), None)
    if everywhere is not None and everywhere.state == "denied" and instead is not None:
        said = f"of namespace {instead} alone: {everywhere.message}"
        status = msgspec.structs.replace(lists[instead], message=said)
        return _shown(store.kind, instead, status)
    return _shown(store.kind, next(name for name, each in lists.items() if each is status), status)


def _shown(kind: str, where: str | None, status: ListStatus) -> KindStatus:
    return KindStatus(
        kind=kind,
        state=status.state,
        namespace=where,
        since=status.since,
        synced=status.synced,
        message=status.message,
    )
