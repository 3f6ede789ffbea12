"""Where the site is listened for, and how listening ends."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTCP, IReactorTime
from twisted.internet.protocol import ServerFactory

from pipeops_agent.clock import WallClock
from pipeops_agent.errors import ExitStatus, FatalError
from pipeops_agent.net.problems import TLSFileProblem
from pipeops_agent.settings.model_server import ServerSettings
from pipeops_agent.web.site import AgentSite
from pipeops_agent.web.tls import TLSSite, server_tls


class IServerReactor(IReactorTCP, IReactorTime):
    """What listening needs of the reactor."""


class Listener(Service):
    """
    Listens for C{site}, from start to stop.

    @param hostname: this machine's, for a certificate of the agent's own making.
    @ivar site: what is listened for.

    What makes that impossible makes starting raise C{FatalError}, at once: nobody would look for a server
    that only logged it.
    """

    def __init__(
        self,
        reactor: IServerReactor,
        site: AgentSite,
        settings: ServerSettings,
        wall: WallClock,
        hostname: str,
    ) -> None:
        self._reactor = reactor
        self.site = site
        self._tls = server_tls(settings, wall, hostname)
        self._place = settings
        self._port: IListeningPort | None = None

    @property
    def scheme(self) -> str:
        """C{HTTP} or C{HTTPS}."""
        return "HTTP" if self._tls is None else "HTTPS"

    @property
    def address(self) -> str:
        """C{host:port} as it is listened on; an IPv6 host is bracketed."""
        host = f"[{self._place.bind}]" if ":" in self._place.bind else self._place.bind
        if self._port is None:
            return f"{host}:{self._place.port}"
        return f"{host}:{cast(IPv4Address, self._port.getHost()).port}"

    def startService(self) -> None:
        factory: ServerFactory[Any] = cast(ServerFactory[Any], self.site)
        try:
            if self._tls is not None:
                self._tls.certificate.context()  # now, not at the first handshake
                factory = cast(ServerFactory[Any], TLSSite(self._reactor, self.site, self._tls))
            self._port = self._reactor.listenTCP(self._place.port, factory, interface=self._place.bind)
        except TLSFileProblem as error:
            raise FatalError(f"can't serve TLS: {error} (server.tls)", ExitStatus.CONFIG) from error
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or str(error.socketError)
            raise FatalError(
                f"can't serve HTTP on {error.interface}:{error.port}: {reason} (server.bind, server.port)",
                ExitStatus.FAILURE,
            ) from error
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Listen no more, then end the connections: what is being answered is answered first."""
        super().stopService()
        port, self._port = self._port, None
        if port is None:
            return self.site.close_connections()
        return Deferred.fromCoroutine(self._close(port))

    async def _close(self, port: IListeningPort) -> None:
        # Given up by a stop that can't wait: nobody above takes an error of it.
        with suppress(CancelledError):
            await maybeDeferred(port.stopListening)
            await self.site.close_connections()
