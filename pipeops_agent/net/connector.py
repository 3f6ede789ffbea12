"""
The one way out of the agent.

Every connection to the outside (control plane, carrier) is made here, so that addresses, proxies, TLS,
deadlines and explanations are the same for all. The steps are in L{pipeops_agent.net.endpoint}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from pipeops_agent.net.answers import AnswerEndpoint
from pipeops_agent.net.endpoint import Endpoint, IConnectorReactor, Ways
from pipeops_agent.net.resolver import Resolver, ThreadedResolver
from pipeops_agent.net.tls import ClientTLS
from pipeops_agent.net.trace import Trace
from pipeops_agent.settings.proxies import Proxies

_log = Logger(namespace="net")

IDLE_CONNECTION: Final = 55
"""Seconds that an HTTP connection is kept unused: less than the 60 s of common load balancers."""


PROXY_TLS: Final = ClientTLS(min_version="1.2")
"""A proxy has nothing to do with the control plane's TLS: it is known by the system's authorities."""


class Connector:
    """
    Makes endpoints and HTTP agents.

    @param resolver: finds addresses; by default the system's, in threads.
    @param connect_timeout: the seconds that name, TCP, proxy and TLS may take together.
    @param proxies: which proxy leads to which target, asked for each connection; by default none.
    @param proxy_tls: how TLS is spoken to an C{https://} proxy.
    @param clock_note: what is known of this machine's clock, said with a certificate's dates.
    """

    def __init__(
        self,
        reactor: IConnectorReactor,
        *,
        connect_timeout: float,
        resolver: Resolver | None = None,
        proxies: Callable[[], Proxies] = Proxies,
        proxy_tls: ClientTLS = PROXY_TLS,
        clock_note: Callable[[], str] = str,
    ) -> None:
        self._reactor = reactor
        self._proxies = proxies
        self._ways = Ways(
            reactor=reactor,
            resolver=ThreadedResolver(reactor) if resolver is None else resolver,
            connect_timeout=connect_timeout,
            proxy_tls=proxy_tls,
            clock_note=clock_note,
        )
        self._agents: dict[IAgent, _PooledAgent] = {}

    def endpoint(
        self,
        host: str,
        port: int,
        *,
        tls: ClientTLS | None = None,
        trace: Trace | None = None,
        prompt: bool = False,
    ) -> IStreamClientEndpoint:
        """
        An endpoint whose C{connect} fires when bytes can be sent: with TLS, after the handshake.

        C{connect} fails with L{ConnectProblem}, and can be cancelled at each step. The factory is
        asked for a protocol once, when everything below it is ready.

        @param host: a name, or an address (IPv6 without brackets).
        @param trace: told of each step.
        @param prompt: with TLS, each write is encrypted at once; else small ones are collected until the
            reactor's next turn, as Twisted does by default.
        """
        return Endpoint(
            self._ways,
            host,
            port,
            tls=tls,
            proxy=lambda: self._proxies().for_target(host, port, tls=tls is not None),
            trace=trace,
            prompt=prompt,
        )

    def agent(self, tls: ClientTLS | None = None, *, max_answer: int | None = None) -> IAgent:
        """
        An HTTP agent with a pool of its own, which L{close} closes; C{https} is spoken as C{tls} says.

        Connections are kept for the next request as long as the proxies stay the same.

        @param max_answer: the bytes that one answer, headers included, may have on the wire.
        """
        endpoints = _AgentEndpoints(self, ClientTLS() if tls is None else tls, max_answer)
        agent = _PooledAgent(self._reactor, endpoints, self._proxies)
        self._agents[agent] = agent
        return agent

    def release(self, agent: IAgent) -> None:
        """C{agent}, one of L{agent}'s, is asked no more: let go of it, and of its connections as they end."""
        self._agents.pop(agent).release()

    async def close(self) -> None:
        """
        Close the unused connections of all agents, and the others once they are free.

        Those in use belong to whoever uses them; none is kept for a next request.
        """
        await DeferredList([agent.release() for agent in self._agents.values()])


@implementer(IAgent)
class _PooledAgent:
    """
    See L{Connector.agent}.

    A connection says nothing of the way that it went. So when the ways change, its pool gives way to another.
    """

    def __init__(
        self,
        reactor: IConnectorReactor,
        endpoints: IAgentEndpointFactory,
        proxies: Callable[[], Proxies],
    ) -> None:
        self._reactor = reactor
        self._endpoints = endpoints
        self._proxies = proxies
        self._begin()

    def _begin(self) -> None:
        self._ways = self._proxies()
        self._pool = HTTPConnectionPool(self._reactor, persistent=True)
        self._pool.cachedConnectionTimeout = IDLE_CONNECTION
        self._agent: IAgent = Agent.usingEndpointFactory(self._reactor, self._endpoints, self._pool)

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,  # noqa: N803  # IAgent's name
    ) -> Deferred[IResponse]:
        """See L{IAgent}."""
        if self._proxies() != self._ways:
            self.release()
            self._begin()
        return self._agent.request(method, uri, headers, bodyProducer)

    def release(self) -> Deferred[None]:
        """Close the connections that nobody uses, and the others once they are free; never fails."""
        self._pool.cachedConnectionTimeout = 0
        closing: Deferred[None] = self._pool.closeCachedConnections()
        return closing.addErrback(_close_failed)


def _close_failed(reason: Failure) -> None:
    _log.warn("closing an HTTP connection: {reason}", reason=reason.getErrorMessage())


@implementer(IAgentEndpointFactory)
class _AgentEndpoints:
    """Takes an agent's connections to the L{Connector}."""

    def __init__(self, connector: Connector, tls: ClientTLS, max_answer: int | None) -> None:
        self._connector = connector
        self._tls = tls
        self._max_answer = max_answer

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802  # IAgentEndpointFactory's
        """See L{IAgentEndpointFactory}."""
        if uri.scheme not in (b"http", b"https"):
            raise SchemeNotSupported(f"unsupported scheme {uri.scheme!r}")
        host = uri.host.decode("ascii").strip("[]")
        tls = self._tls if uri.scheme == b"https" else None
        return AnswerEndpoint(self._connector.endpoint(host, uri.port, tls=tls), self._max_answer)
