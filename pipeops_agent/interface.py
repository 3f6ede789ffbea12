"""The agent's HTTP interface and everything that stands behind it, joined."""

from __future__ import annotations

from twisted.application.service import MultiService

from pipeops_agent.build import build_info
from pipeops_agent.entrance import Entrance
from pipeops_agent.health import Feature, Registry
from pipeops_agent.metrics import ReactorLag
from pipeops_agent.parts import Common
from pipeops_agent.web.api.health import HealthView
from pipeops_agent.web.api.routes import api_routes
from pipeops_agent.web.api.runtime import Runtime, this_process
from pipeops_agent.web.canary import canary_route
from pipeops_agent.web.listener import Listener
from pipeops_agent.web.realtime import Realtime
from pipeops_agent.web.site import build_site


class Interface(MultiService):
    """
    Listens, and samples what can be asked for.

    What makes listening impossible makes starting raise C{FatalError}, at once.

    @param features: what can be done.
    @param realtime: what is there for those who stay connected; started and stopped by the agent.
    @param entrance: who may ask for what.
    @param hostname: this machine's, for a certificate of the agent's own making.
    """

    def __init__(
        self,
        common: Common,
        features: Registry[Feature],
        realtime: Realtime,
        entrance: Entrance,
        *,
        hostname: str,
    ) -> None:
        super().__init__()
        reactor, build = common.reactor, build_info()
        lag = ReactorLag(reactor)
        common.metrics.read_lag_from(lambda: lag.worst)
        runtime = Runtime(reactor, common.wall, common.board, lambda: lag.worst, this_process())
        health = HealthView(
            reactor,
            common.wall,
            common.board,
            common.checks,
            features,
            runtime=runtime.now,
            version=build.version,
        )
        access = entrance.access
        server = common.settings().server
        site = build_site(
            reactor,
            common.board,
            common.checks,
            common.metrics,
            server,
            common.wall,
            access=access,
            build=build,
            more=[
                canary_route(common.canaries.answer),
                *realtime.routes(),
                *api_routes(access, health=health, runtime=runtime),
            ],
        )
        self._listener = Listener(reactor, site, server, common.wall, hostname)
        for service in (lag, runtime, self._listener):
            service.setServiceParent(self)

    @property
    def scheme(self) -> str:
        """C{HTTP} or C{HTTPS}."""
        return self._listener.scheme

    @property
    def address(self) -> str:
        """C{host:port} as it is listened on; an IPv6 host is bracketed."""
        return self._listener.address
