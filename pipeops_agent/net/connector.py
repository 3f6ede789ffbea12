"""
The one way out of the agent.

Every connection to the outside (control plane, carrier) is made here, so that addresses, TLS,
deadlines and explanations are the same for all. The steps are C{dns} (left out for an address),
C{tcp} and C{tls} (left out without); a proxy's would stand between the last two.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final, TypeVar

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorFromThreads,
    IReactorTCP,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from pipeops_agent.net.answers import AnswerEndpoint
from pipeops_agent.net.explain import explain
from pipeops_agent.net.handshake import HandshakeFactory
from pipeops_agent.net.problems import ConnectProblem
from pipeops_agent.net.resolver import Address, Resolved, Resolver, ThreadedResolver
from pipeops_agent.net.tls import ClientTLS, HostTLS
from pipeops_agent.net.trace import Trace
from pipeops_agent.scheduling import bounded

_log = Logger(namespace="net")

T = TypeVar("T")

ATTEMPT_DELAY: Final = 0.3
"""Seconds until a host's next address is tried beside the one under way (RFC 8305 section 5)."""
IDLE_CONNECTION: Final = 55
"""Seconds that an HTTP connection is kept unused: less than the 60 s of common load balancers."""


class IConnectorReactor(IReactorTCP, IReactorTime, IReactorFromThreads):
    """What a L{Connector} needs of the reactor."""


class Connector:
    """
    Makes endpoints and HTTP agents.

    @param resolver: finds addresses; by default the system's, in threads.
    @param connect_timeout: the seconds that name, TCP and TLS may take together.
    """

    def __init__(
        self, reactor: IConnectorReactor, *, connect_timeout: float, resolver: Resolver | None = None
    ) -> None:
        self._reactor = reactor
        self._resolver = ThreadedResolver(reactor) if resolver is None else resolver
        self._connect_timeout = connect_timeout
        self._pools: list[HTTPConnectionPool] = []

    def endpoint(
        self, host: str, port: int, *, tls: ClientTLS | None = None, trace: Trace | None = None
    ) -> IStreamClientEndpoint:
        """
        An endpoint whose C{connect} fires when bytes can be sent: with TLS, after the handshake.

        C{connect} fails with L{ConnectProblem}, and can be cancelled at each step. The factory is
        asked for a protocol once, when everything below it is ready.

        @param host: a name, or an address (IPv6 without brackets).
        @param trace: told of each step.
        """
        return _Endpoint(
            self._reactor,
            self._resolver,
            host,
            port,
            connect_timeout=self._connect_timeout,
            tls=tls,
            trace=trace,
        )

    def agent(self, tls: ClientTLS | None = None, *, max_answer: int | None = None) -> Agent:
        """
        An HTTP agent with a pool of its own, which L{close} closes; C{https} is spoken as C{tls} says.

        @param max_answer: the bytes that one answer, headers included, may have on the wire.
        """
        pool = HTTPConnectionPool(self._reactor, persistent=True)
        pool.cachedConnectionTimeout = IDLE_CONNECTION
        self._pools.append(pool)
        factory = _AgentEndpoints(self, ClientTLS() if tls is None else tls, max_answer)
        agent: Agent = Agent.usingEndpointFactory(self._reactor, factory, pool)
        return agent

    async def close(self) -> None:
        """Close the unused connections of all agents. Those in use belong to whoever uses them."""
        closing = [pool.closeCachedConnections() for pool in self._pools]
        for ok, result in await DeferredList(closing, consumeErrors=True):
            if not ok:
                _log.warn("closing an HTTP connection: {reason}", reason=result.getErrorMessage())


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


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """See L{Connector.endpoint}."""

    def __init__(
        self,
        reactor: IConnectorReactor,
        resolver: Resolver,
        host: str,
        port: int,
        *,
        connect_timeout: float,
        tls: ClientTLS | None,
        trace: Trace | None,
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._connect_timeout = connect_timeout
        self._host = host
        self._port = port
        self._tls = tls
        self._trace = trace

    def __repr__(self) -> str:
        return f"<endpoint {self._place}>"

    @property
    def _place(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803  # its name
        """See L{Connector.endpoint}."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        deadline = self._reactor.seconds() + self._connect_timeout
        addresses = _literal(self._host, self._port)
        if addresses is None:
            addresses = await self._step("dns", deadline, self._look_up)
        tcp = HostnameEndpoint(
            Resolved(self._reactor, addresses),
            "resolved.invalid",  # only a label: the addresses are known
            self._port,
            timeout=self._connect_timeout,
            attemptDelay=ATTEMPT_DELAY,
        )
        if self._tls is None:
            protocol = await self._step("tcp", deadline, lambda: tcp.connect(factory))
            _no_delay(getattr(protocol, "transport", None))
            return protocol
        try:
            host_tls = self._tls.for_host(self._host)
        except Exception as error:
            raise self._problem("tls", error) from error
        # Twisted's wrapClientTLS would take the global reactor for its timers.
        handshakes = HandshakeFactory(factory)
        wrapper = TLSMemoryBIOFactory(host_tls, True, handshakes, clock=self._reactor)
        carrier: Any = await self._step("tcp", deadline, lambda: tcp.connect(wrapper))
        handshake = carrier.wrappedProtocol  # HandshakeFactory made it
        _no_delay(carrier)
        await self._step("tls", deadline, handshake.completed, host_tls)
        application: IProtocol = handshake.hand_over()
        return application

    def _look_up(self) -> Deferred[list[Address]]:
        return self._resolver.resolve(self._host, self._port)

    async def _step(
        self, name: str, deadline: float, begin: Callable[[], Deferred[T]], host_tls: HostTLS | None = None
    ) -> T:
        with nullcontext() if self._trace is None else self._trace.step(name):
            left = max(0.0, deadline - self._reactor.seconds())
            try:
                return await bounded(self._reactor, left, begin(), f"{name} for {self._place}")
            except (CancelledError, ConnectingCancelledError):
                raise CancelledError from None
            except Exception as error:
                # What OpenSSL has told of the certificate says more than its error.
                cause = host_tls.problem if host_tls is not None and host_tls.problem is not None else error
                raise self._problem(name, cause) from cause

    def _problem(self, step: str, cause: Exception) -> ConnectProblem:
        said = explain(cause, self._place, self._tls)
        sentence = said.sentence
        if said.timed_out:
            sentence = f"no answer from {self._place} within {self._connect_timeout:g} s ({step})"
        elif step == "tls" and said.retryable:
            sentence += " during the TLS handshake"
        return ConnectProblem(
            step, sentence, retryable=said.retryable, remedy=said.remedy, timed_out=said.timed_out
        )


def _literal(host: str, port: int) -> list[Address] | None:
    """The address that C{host} is, where it is one and not a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return [(IPv4Address if address.version == 4 else IPv6Address)("TCP", host, port)]


def _no_delay(transport: Any) -> None:
    """Send small packets at once (a tunnel's keystroke must not wait for the last one's ACK)."""
    switch = getattr(transport, "setTcpNoDelay", None)
    if switch is not None:
        switch(True)
