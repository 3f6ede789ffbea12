"""What the agent needs to reach, and how each is tried."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory, Protocol

from pipeops_agent.clock import WallClock
from pipeops_agent.cluster.errors import ClusterError
from pipeops_agent.cluster.service import ClusterService
from pipeops_agent.controlplane import ApiError, ControlPlaneClient
from pipeops_agent.net import ClientTLS, Connector, ThreadedResolver, explain
from pipeops_agent.settings import Forward, Proxies, Settings
from pipeops_agent.status import StatusBoard
from pipeops_agent.tokens import TokenSource
from pipeops_agent.web.api.connectivity import PATIENCE, Trial, Trials

_UNPROVEN: ClientTLS = ClientTLS(verify=False)
"""Whether the chisel server is who it should be is for the tunnel to find out; nothing is said to it here."""


class Probes:
    """
    Says what is to be reached at the moment of each run.

    Every attempt makes connections of its own: one that is kept proves nothing.

    @param settings: those that hold, and C{proxies} likewise.
    @param clean: takes secrets out of a sentence.
    """

    def __init__(
        self,
        reactor: Any,
        wall: WallClock,
        board: StatusBoard,
        cluster: ClusterService,
        *,
        settings: Callable[[], Settings],
        proxies: Callable[[], Proxies],
        tokens: TokenSource,
        clean: Callable[[str], str],
    ) -> None:
        self._reactor = reactor
        self._wall = wall
        self._board = board
        self._cluster = cluster
        self._settings = settings
        self._proxies = proxies
        self._tokens = tokens
        self._clean = clean
        self._resolver = ThreadedResolver(reactor)

    def trials(self) -> Trials:
        """All that is needed now."""
        settings = self._settings()
        forwards = settings.tunnel.forwards if settings.tunnel.enabled else ()
        return Trials(
            control_plane=Trial(settings.pipeops.api_url, self._ask_control_plane),
            dns=self._name(settings),
            chisel_server=self._chisel_server(),
            kubernetes_api=(
                Trial("the API server's version", self._cluster.api.version)
                if self._cluster.configured
                else None
            ),
            forwards={
                each.name: Trial(each.local_addr, partial(self._dial_forward, each)) for each in forwards
            },
        )

    def explain(self, target: str, error: Exception) -> str:
        """Why C{target} was not reached, as a sentence."""
        if isinstance(error, ApiError | ClusterError):
            return self._clean(error.sentence)
        return self._clean(explain(error, target).sentence)

    async def _ask_control_plane(self) -> None:
        settings = self._settings().pipeops
        connector = self._connector(self._proxies)
        client = ControlPlaneClient(self._reactor, settings, self._tokens, connector, self._board, self._wall)
        try:
            await client.reach()
        finally:
            await connector.close()

    def _name(self, settings: Settings) -> Trial | None:
        url = urlsplit(settings.pipeops.api_url)
        host, tls = url.hostname or "", url.scheme == "https"
        port = url.port or (443 if tls else 80)
        proxy = self._proxies().for_target(host, port, tls=tls)
        if proxy is not None:  # the name behind it is the proxy's to look up
            host, port = proxy.host, proxy.port
        if isIPAddress(host) or isIPv6Address(host):
            return None
        return Trial(host, partial(self._resolver.resolve, host, port))

    def _chisel_server(self) -> Trial | None:
        tunnel = self._board.now.tunnel
        if tunnel.state in ("disabled", "idle"):
            return None
        server = tunnel.server or (tunnel.attempts[-1].server if tunnel.attempts else "")
        if not server:
            return None
        url = urlsplit(server)
        tls = _UNPROVEN if url.scheme == "wss" else None
        host, port = url.hostname or "", url.port or (443 if tls else 80)
        return Trial(server, partial(self._dial, self._proxies, host, port, tls))

    async def _dial_forward(self, forward: Forward) -> None:
        host, port = forward.target
        await self._dial(Proxies, host, port, None)

    async def _dial(
        self, proxies: Callable[[], Proxies], host: str, port: int, tls: ClientTLS | None
    ) -> None:
        """Connect, and hang up."""
        endpoint = self._connector(proxies).endpoint(host, port, tls=tls)
        protocol = await endpoint.connect(Factory.forProtocol(Protocol))
        cast(ITCPTransport, cast(Protocol, protocol).transport).abortConnection()

    def _connector(self, proxies: Callable[[], Proxies]) -> Connector:
        return Connector(self._reactor, connect_timeout=PATIENCE, resolver=self._resolver, proxies=proxies)
