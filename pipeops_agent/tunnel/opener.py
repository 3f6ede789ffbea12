"""The manager's way out: a session made of its layers, with whoever must vouch for its server."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec

from pipeops_agent.net.connector import Connector
from pipeops_agent.net.tls import ClientTLS
from pipeops_agent.net.trace import Trace
from pipeops_agent.orders import TunnelServer
from pipeops_agent.settings.model_tunnel import TunnelSettings
from pipeops_agent.tunnel.denials import Source
from pipeops_agent.tunnel.dialing import Dialer
from pipeops_agent.tunnel.errors import SessionError
from pipeops_agent.tunnel.forwarding import Forwarder
from pipeops_agent.tunnel.remotes import Remote
from pipeops_agent.tunnel.session import ChiselSession
from pipeops_agent.tunnel.traffic import TrafficCounters


class SessionOpener:
    """
    Opens sessions: the manager's way out (L{pipeops_agent.tunnel.session_api.Opener}).

    @param hasty: the way out of attempts that are hurried; by default the same.
    @param tls: how TLS is spoken to chisel servers.
    @param report: told of each dial: the forward's name, and None or why it failed.
    @param on_ping: called when a ping has been answered.
    """

    def __init__(
        self,
        reactor: Any,
        connector: Connector,
        dialer: Dialer,
        traffic: TrafficCounters,
        *,
        settings: Callable[[], TunnelSettings],
        tls: ClientTLS,
        version: str,
        report: Callable[[str, str | None], None],
        on_ping: Callable[[], None],
        hasty: Connector | None = None,
    ) -> None:
        self._reactor = reactor
        self._on_ping = on_ping
        self._connector = connector
        self._hasty = hasty or connector
        self._dialer = dialer
        self._traffic = traffic
        self._settings = settings
        self._tls = tls
        self._version = version
        self._report = report
        self._sessions = count(1)

    async def __call__(
        self, server: TunnelServer, remotes: tuple[Remote, ...], trace: Trace, *, hurried: bool = False
    ) -> ChiselSession:
        """See L{pipeops_agent.tunnel.session_api.Opener}."""
        settings = self._settings()
        tls = self._tls_for(server)
        forwarder = Forwarder(
            self._reactor,
            self._dialer,
            remotes,
            self._traffic,
            dial_timeout=settings.dial_timeout,
            max_connections=settings.max_channels,
            report=self._report,
            source=Source(server.address.url, next(self._sessions)),
        )
        session = ChiselSession(
            self._reactor,
            server,
            remotes,
            forwarder=forwarder,
            traffic=self._traffic,
            settings=settings,
            version=self._version,
            on_ping=self._on_ping,
        )
        await session.open(self._hasty if hurried else self._connector, tls, trace)
        return session

    def _tls_for(self, server: TunnelServer) -> ClientTLS | None:
        """
        How TLS is spoken to C{server}: somebody must vouch for it, TLS or the fingerprint.

        @raise SessionError: nobody does.
        """
        if server.fingerprint is None and not server.address.tls:
            raise SessionError(
                "tls", "the server has neither TLS nor a fingerprint to be known by", retryable=False
            )
        if not server.address.tls:
            return None
        if server.fingerprint is None:
            return msgspec.structs.replace(self._tls, verify=True)
        return self._tls
