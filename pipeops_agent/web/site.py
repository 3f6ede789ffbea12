"""The site: its connections, its table of routes, its access log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site

from pipeops_agent.build import BuildInfo
from pipeops_agent.clock import WallClock
from pipeops_agent.health import HealthCheck, Registry
from pipeops_agent.metrics import Metrics
from pipeops_agent.status import StatusBoard
from pipeops_agent.web.access import Access
from pipeops_agent.web.channel import AgentChannel
from pipeops_agent.web.request import AgentRequest
from pipeops_agent.web.resources import BasicPages
from pipeops_agent.web.routes import Route, Router
from pipeops_agent.web.session import SessionPages

_log = Logger(namespace="web")

MALFORMED: Final = "malformed"
"""The name, in metrics, of requests that were refused before they had a path."""

_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})


class Limits(Protocol):
    """What of the section C{server} of the settings bounds connections."""

    @property
    def max_connections(self) -> int:
        """Connections at one time; one more takes the place of the one that has been idle longest."""

    @property
    def request_timeout(self) -> float:
        """Seconds within which a request must have arrived whole."""

    @property
    def idle_timeout(self) -> float:
        """Seconds for which a connection may send nothing."""


class AgentSite(Site):
    """
    Makes a channel for each connection, and knows them all.

    @ivar router: the table of routes.
    @ivar access: who is who, and how much each may ask for.
    @ivar request_timeout: seconds within which a request must have arrived whole.
    """

    # Twisted names the proxy for HTTP/2 here; a class of channels is as good.
    protocol = AgentChannel  # type: ignore[assignment]
    requestFactory = AgentRequest
    noisy = False

    def __init__(
        self,
        reactor: IReactorTime,
        routes: Iterable[Route],
        metrics: Metrics,
        limits: Limits,
        access: Access,
    ) -> None:
        # Requests find their way by the table, not by a tree of resources.
        super().__init__(
            Resource(), reactor=reactor, timeout=limits.idle_timeout, parsePOSTFormSubmission=False
        )
        self.router = Router(routes)
        self.access = access
        self.request_timeout = limits.request_timeout
        self._limits = limits
        self._metrics = metrics
        self._channels: dict[AgentChannel, None] = {}
        self._emptied: list[Deferred[None]] = []

    def startFactory(self) -> None:
        """Open no log file and start no clock for it, as the class overridden does."""

    def stopFactory(self) -> None:
        """Nothing was opened: see L{startFactory}."""

    # The channel itself, not the proxy that Twisted wraps around one.
    def buildProtocol(self, addr: IAddress | None) -> AgentChannel | None:  # type: ignore[override]
        if len(self._channels) >= self._limits.max_connections and not self._make_room():
            _log.warn(
                "a connection was closed: {limit} are open and all are busy",
                limit=self._limits.max_connections,
            )
            return None
        return cast(AgentChannel, super().buildProtocol(addr))

    def opened(self, channel: AgentChannel) -> None:
        """A connection was made."""
        self._channels[channel] = None

    def rested(self, channel: AgentChannel) -> None:
        """A connection's request has been answered: it is the last of those that are idle."""
        if channel in self._channels:
            del self._channels[channel]
            self._channels[channel] = None

    def closed(self, channel: AgentChannel) -> None:
        """A connection has ended."""
        self._channels.pop(channel, None)
        if not self._channels:
            emptied, self._emptied = self._emptied, []
            for waiter in emptied:
                waiter.callback(None)

    def close_connections(self) -> Deferred[None]:
        """
        End all connections: the idle at once, the others after their answer, within C{CLOSE_GRACE}.

        To be called when the port is closed already. Fires when none is left.
        """
        if not self._channels:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._emptied.append(waiter)
        for channel in tuple(self._channels):
            channel.wind_up()
        return waiter

    def refused(self, code: int, client: str, message: str) -> None:
        """A request was refused before it had arrived whole."""
        self._metrics.count_request("OTHER", MALFORMED, code)
        _log.debug("request refused: {message}", message=message, code=code, client=client)

    def log(self, request: Request) -> None:
        """Count an answered request; the access log is for debugging: probes come every few seconds."""
        assert isinstance(request, AgentRequest)
        method = request.method.decode("latin-1")
        self._metrics.count_request(
            method if method in _METHODS else "OTHER", request.endpoint, int(request.code)
        )
        _log.debug(
            "{method} {path} {code}",
            method=method,
            path=request.path.decode("latin-1"),
            code=int(request.code),
            endpoint=request.endpoint,
            client=request.channel.origin.name,
            seconds=round(self.reactor.seconds() - request.began, 6),
        )

    def _make_room(self) -> bool:
        """
        Close the connection that has been idle, or slow to ask, for the longest time.

        Otherwise whoever opens connections and says nothing would keep the probes out.
        """
        for channel in self._channels:
            if not channel.busy:
                del self._channels[channel]
                channel.abort()
                return True
        return False


def build_site(
    reactor: IReactorTime,
    board: StatusBoard,
    checks: Registry[HealthCheck],
    metrics: Metrics,
    limits: Limits,
    wall: WallClock,
    *,
    access: Access,
    build: BuildInfo,
    more: Iterable[Route] = (),
) -> AgentSite:
    """
    The agent's HTTP interface, to be listened with.

    @param limits: the settings' section C{server}.
    @param access: who asks, and what they may see.
    @param more: routes beyond the basic ones.
    @raise ValueError: two routes have the same method and template.
    """
    pages = BasicPages(board, checks, metrics, wall, build, access)
    table = [*pages.routes(), *SessionPages(access, wall).routes(), *more]
    return AgentSite(reactor, table, metrics, limits, access)
