"""The agent's HTTP interface and everything that stands behind it, joined."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import MultiService

from pipeops_agent.build import build_info
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.cluster.service import ClusterService
from pipeops_agent.entrance import Entrance
from pipeops_agent.health import Feature, Registry
from pipeops_agent.metrics import ReactorLag
from pipeops_agent.parts import Common
from pipeops_agent.settings import Loaded
from pipeops_agent.web.access import RefusingSight
from pipeops_agent.web.api.connectivity import ConnectivityService
from pipeops_agent.web.api.health import HealthView
from pipeops_agent.web.api.lists import ClusterLists
from pipeops_agent.web.api.probes import Probes
from pipeops_agent.web.api.routes import api_routes
from pipeops_agent.web.api.runtime import Connections, Runtime, this_process
from pipeops_agent.web.api.settings import SettingsView
from pipeops_agent.web.canary import canary_route
from pipeops_agent.web.listener import Listener
from pipeops_agent.web.realtime import Realtime
from pipeops_agent.web.routes import Route
from pipeops_agent.web.site import build_site


class Interface(MultiService):
    """
    Listens, and samples and probes what can be asked for.

    What makes listening impossible makes starting raise C{FatalError}, at once.

    @param features: what can be done.
    @param realtime: what is there for those who stay connected; started and stopped by the agent.
    @param entrance: who may ask for what.
    @param loaded: the settings as they were read last.
    @param clean: takes secrets out of a sentence.
    @param hostname: this machine's, for a certificate of the agent's own making.
    """

    def __init__(
        self,
        common: Common,
        cluster: ClusterService,
        features: Registry[Feature],
        realtime: Realtime,
        entrance: Entrance,
        *,
        loaded: Callable[[], Loaded],
        clean: Callable[[str], str],
        hostname: str,
    ) -> None:
        super().__init__()
        self._common = common
        self._features = features
        self._realtime = realtime
        self._settings = SettingsView(loaded, common.settings)
        reactor, wall, board = common.reactor, common.wall, common.board
        self._lag = lag = ReactorLag(reactor)
        common.metrics.read_lag_from(lambda: lag.worst)
        self._runtime = Runtime(
            reactor, wall, board, lambda: lag.worst, this_process(), connections=self._connections
        )
        probes = Probes(
            reactor,
            wall,
            board,
            cluster,
            settings=common.settings,
            proxies=common.proxies,
            tokens=common.tokens,
            clean=clean,
        )
        self._lists = ClusterLists(
            cluster, board, lambda: Scope.of(common.settings()), RefusingSight(entrance.sight)
        )
        self._connectivity = ConnectivityService(reactor, wall, probes.trials, probes.explain)
        self._access = entrance.access
        self._listener = self._listen(hostname)
        for service in (self._lag, self._runtime, self._connectivity, self._listener):
            service.setServiceParent(self)

    def _listen(self, hostname: str) -> Listener:
        common = self._common
        server = common.settings().server
        site = build_site(
            common.reactor,
            common.board,
            common.checks,
            common.metrics,
            server,
            common.wall,
            access=self._access,
            build=build_info(),
            more=self._routes(),
        )
        return Listener(common.reactor, site, server, common.wall, hostname)

    def _routes(self) -> list[Route]:
        common = self._common
        health = HealthView(
            common.reactor,
            common.wall,
            common.board,
            common.checks,
            self._features,
            runtime=self._runtime.now,
            version=build_info().version,
        )
        realtime = self._realtime
        realtime.status, realtime.metrics = health.detailed, self._runtime.now
        return [
            canary_route(common.canaries.answer),
            *realtime.routes(),
            *api_routes(
                self._access,
                health=health,
                runtime=self._runtime,
                connectivity=self._connectivity,
                settings=self._settings,
                lists=self._lists,
                more=realtime.operations(),
                messages=realtime.messages,
            ),
        ]

    def _connections(self) -> Connections:
        metrics = self._common.metrics
        return Connections(websocket=metrics.connections("websocket"), sse=metrics.connections("sse"))

    @property
    def scheme(self) -> str:
        """C{HTTP} or C{HTTPS}."""
        return self._listener.scheme

    @property
    def address(self) -> str:
        """C{host:port} as it is listened on; an IPv6 host is bracketed."""
        return self._listener.address
