"""
What the cluster has and what the agent may do there: looked at when it is reached, and every hour.

Two questions that stand beside each other: which resources the API server has (L{Discovery}), and which
rights the agent has (L{RightsService}). What comes of them is told as fields of
L{ClusterStatus<pipeops_agent.status.ClusterStatus>}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.application.service import MultiService
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.cluster.abilities import abilities, told
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.discovery import Catalog, Discovery
from pipeops_agent.cluster.errors import ClusterError
from pipeops_agent.cluster.needs import FEATURES, Feature, own_features
from pipeops_agent.cluster.rights import INTERVAL, RETRY, Places, Report, RightsService, places_within
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.facts import Known
from pipeops_agent.scheduling import PeriodicService
from pipeops_agent.settings import Settings

MAX_MISSING: Final = 20
"""API versions that can't be read, and are told."""

_log = Logger(namespace="cluster")


class Capabilities(MultiService):
    """
    Looks at what can be done.

    @param settings: those that hold now.
    @param home: the agent's own namespace.
    @param in_pod: whether the agent lives in a pod of this cluster.
    @param tell: takes changed fields of the cluster's status.
    @ivar discovery: what the API server has, for whoever asks for it by name.
    """

    def __init__(
        self,
        clock: IReactorTime,
        api: Api,
        settings: Callable[[], Settings],
        home: Callable[[], str],
        *,
        in_pod: bool,
        tell: Callable[..., None],
    ) -> None:
        super().__init__()
        self._api = api
        self._settings = settings
        self._home = home
        self._in_pod = in_pod
        self._tell = tell
        self._told: tuple[str, ...] | None = None
        self._unread = False
        self.discovery = Discovery(clock, api, told=self._discovered)
        self._looking = PeriodicService(
            clock,
            self._look,
            lambda: RETRY if self._unread else INTERVAL,
            what="looking at what the API server has",
        )
        self._rights = RightsService(clock, api, self._features, self._places, self._reported)
        for service in (self._rights, self._looking):
            service.setServiceParent(self)

    def reached(self) -> None:
        """The cluster answers again, or for the first time: what could not be asked is."""
        self._rights.retry()
        if self._unread:
            self._looking.wake()

    def forget(self) -> None:
        """Nothing that is known holds any more: another cluster, or other rules of the owner's."""
        self._told = None
        self.discovery.forget()
        self._rights.forget()
        self._looking.wake()
        self._tell(abilities=(), api_versions=(), api_missing=())

    async def fact(self) -> Known:
        """What registrations tell: which abilities there are, once that was asked for the first time."""
        await self._rights.looked()
        return Known() if self._told is None else Known(rights=self._told)

    def _features(self) -> list[Feature]:
        settings, in_pod = self._settings(), self._in_pod
        own = own_features(
            namespace=self._home(),
            state_secret=settings.kubernetes.state_secret if in_pod and not settings.agent.state_file else "",
            lease=settings.kubernetes.lease if in_pod and settings.agent.leader_election else "",
            service_account=settings.pipeops.cluster_service_account,
        )
        return [*FEATURES, *own]

    async def _places(self) -> Places:
        return await places_within(self._api, Scope.of(self._settings()), self._home())

    def _reported(self, report: Report) -> None:
        found = abilities(self._features(), report, Scope.of(self._settings()))
        self._told = told(found)
        self._tell(abilities=found)

    async def _look(self) -> None:
        try:
            await self.discovery.refresh()
            self._unread = False
        except ClusterError as error:
            self._unread = True
            # Whoever needs it is told; that the server is not there is said elsewhere.
            _log.debug("what the API server has can't be read: {error}", error=error.sentence)

    def _discovered(self, catalog: Catalog) -> None:
        versions = tuple(
            f"{group}/{version}" if group else version
            for group, there in catalog.groups.items()
            for version in there
        )
        missing = tuple(f"{name}: {reason}" for name, reason in catalog.unavailable.items())
        self._tell(api_versions=versions, api_missing=missing[:MAX_MISSING])
