"""
One attempt to reach a peer, step by step.

C{dns} (left out for an address), C{tcp}, C{proxy} and C{tls} (each left out without). Through a proxy the
first two lead to the proxy, and C{proxy} is everything that is said to it: its own TLS, the login, the
request. The target's name is then never looked up here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorFromThreads,
    IReactorTCP,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from pipeops_agent.net.explain import explain
from pipeops_agent.net.explanation import Explanation
from pipeops_agent.net.handshake import HandshakeFactory
from pipeops_agent.net.problems import CertificateProblem, ConnectProblem
from pipeops_agent.net.proxy_relay import ProxyFactory, ProxyRelay
from pipeops_agent.net.race import ATTEMPT_DELAY, interleave, race
from pipeops_agent.net.resolver import Address, Resolver
from pipeops_agent.net.tls import ClientTLS, HostTLS
from pipeops_agent.net.trace import Trace
from pipeops_agent.scheduling import bounded
from pipeops_agent.settings.proxy_url import Proxy

T = TypeVar("T")


class IConnectorReactor(IReactorTCP, IReactorTime, IReactorFromThreads):
    """What connections need of the reactor."""


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the attempts of one connector share.

    @ivar connect_timeout: the seconds that all steps may take together.
    @ivar proxy_tls: how TLS is spoken to an C{https://} proxy.
    @ivar clock_note: what is wrong with this machine's clock, for a certificate's dates; empty: nothing.
    """

    reactor: Any
    resolver: Resolver
    connect_timeout: float
    proxy_tls: ClientTLS
    clock_note: Callable[[], str]


class _Hop(msgspec.Struct, frozen=True):
    """A peer on the way: the target, or the proxy; C{name} is what sentences call it."""

    host: str
    port: int
    name: str
    tls: ClientTLS | None


@implementer(IStreamClientEndpoint)
class Endpoint:
    """See L{pipeops_agent.net.Connector.endpoint}. The proxy is asked for anew at each C{connect}."""

    def __init__(
        self,
        ways: Ways,
        host: str,
        port: int,
        *,
        tls: ClientTLS | None,
        proxy: Callable[[], Proxy | None],
        trace: Trace | None,
        prompt: bool = False,
    ) -> None:
        self._ways = ways
        self._prompt = prompt
        self._place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._target = _Hop(host, port, self._place, tls)
        self._proxy = proxy
        self._trace = trace

    def __repr__(self) -> str:
        return f"<endpoint {self._place}>"

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803  # its name
        """See L{IStreamClientEndpoint}."""
        deadline = self._ways.reactor.seconds() + self._ways.connect_timeout
        attempt = _Attempt(self._ways, self._target, deadline, self._trace, self._prompt)
        return Deferred.fromCoroutine(attempt.run(protocolFactory, self._proxy()))


class _Attempt:
    """One C{connect}; all its steps have the one deadline."""

    def __init__(self, ways: Ways, target: _Hop, deadline: float, trace: Trace | None, prompt: bool) -> None:
        self._ways = ways
        self._prompt = prompt
        self._reactor = ways.reactor
        self._target = target
        self._deadline = deadline
        self._trace = trace

    async def run(self, factory: IProtocolFactory, proxy: Proxy | None) -> IProtocol:
        """Connect, and hand over to a protocol of C{factory}."""
        target = self._target
        tls = self._prepare("tls", target)
        inner = factory if tls is None else self._over_tls(tls, factory)
        if proxy is None:
            protocol = await self._dial(target, inner)
        else:
            relay = await self._reach_through(proxy)
            protocol = relay.hand_over(inner)
        if tls is None:
            return protocol
        handshake = _handshake(protocol)
        await self._step("tls", target, handshake.completed, tls)
        application: IProtocol = handshake.hand_over()
        return application

    async def _reach_through(self, proxy: Proxy) -> ProxyRelay:
        secure = self._ways.proxy_tls if proxy.scheme == "https" else None
        hop = _Hop(proxy.host, proxy.port, f"the proxy {proxy.place}", secure)
        tls = self._prepare("proxy", hop)
        try:
            relays = ProxyFactory(proxy, self._target.host, self._target.port)
        except UnicodeError as error:
            raise self._problem("proxy", self._target, error) from error
        protocol = await self._dial(hop, relays if tls is None else self._over_tls(tls, relays))
        asked = partial(self._ask, protocol, tls)
        return await self._step("proxy", hop, lambda: Deferred.fromCoroutine(asked()), tls)

    async def _ask(self, protocol: Any, tls: HostTLS | None) -> ProxyRelay:
        if tls is not None:
            handshake = _handshake(protocol)
            await handshake.completed()
            protocol = handshake.hand_over()
        relay: ProxyRelay = protocol
        await relay.completed()
        return relay

    async def _dial(self, hop: _Hop, factory: IProtocolFactory) -> IProtocol:
        addresses = _literal(hop.host, hop.port)
        if addresses is None:
            look_up = partial(self._ways.resolver.resolve, hop.host, hop.port)
            addresses = await self._step("dns", hop, look_up)
        attempts = [
            partial(_tcp(self._reactor, address, self._ways.connect_timeout).connect, factory)
            for address in interleave(addresses)
        ]
        protocol: IProtocol = await self._step(
            "tcp", hop, lambda: race(self._reactor, attempts, ATTEMPT_DELAY)
        )
        _no_delay(getattr(protocol, "transport", None))
        return protocol

    def _prepare(self, step: str, hop: _Hop) -> HostTLS | None:
        """What TLS to C{hop} needs, before anything is dialled."""
        if hop.tls is None:
            return None
        try:
            return hop.tls.for_host(hop.host)
        except Exception as error:
            raise self._problem(step, hop, error) from error

    def _over_tls(self, tls: HostTLS, factory: IProtocolFactory) -> TLSMemoryBIOFactory:
        # Twisted's wrapClientTLS would take the global reactor for its timers.
        wrapper = TLSMemoryBIOFactory(tls, True, HandshakeFactory(factory), clock=self._reactor)
        if self._prompt:  # without the layer that collects small writes
            wrapper.protocol = TLSMemoryBIOProtocol
        return wrapper

    async def _step(
        self, name: str, hop: _Hop, begin: Callable[[], Deferred[T]], tls: HostTLS | None = None
    ) -> T:
        with nullcontext() if self._trace is None else self._trace.step(name):
            left = max(0.0, self._deadline - self._reactor.seconds())
            try:
                return await bounded(self._reactor, left, begin(), f"{name} for {hop.name}")
            except (CancelledError, ConnectingCancelledError):
                raise CancelledError from None
            except Exception as error:
                # What OpenSSL has told of the certificate says more than its error.
                cause = tls.problem if tls is not None and tls.problem is not None else error
                raise self._problem(name, hop, cause) from cause

    def _problem(self, step: str, hop: _Hop, cause: Exception) -> ConnectProblem:
        said = explain(cause, hop.name, hop.tls, clock_note=self._ways.clock_note())
        return ConnectProblem(
            step,
            self._sentence(step, hop, said),
            retryable=said.retryable,
            remedy=_PROXY_AUTHORITY if step == "proxy" and _unknown_issuer(cause) else said.remedy,
            timed_out=said.timed_out,
        )

    def _sentence(self, step: str, hop: _Hop, said: Explanation) -> str:
        if said.timed_out:
            return f"no answer from {hop.name} within {self._ways.connect_timeout:g} s ({step})"
        if said.lost:
            during = {"tls": " during the TLS handshake", "proxy": f" before {self._target.name} was reached"}
            return said.sentence + during.get(step, "")
        return said.sentence


_PROXY_AUTHORITY: Final = "a proxy is known by the system's authorities: its issuer belongs there"


def _unknown_issuer(cause: Exception) -> bool:
    return isinstance(cause, CertificateProblem) and cause.fault in ("unknown CA", "self-signed")


def _handshake(carrier: Any) -> Any:
    """The L{pipeops_agent.net.handshake.Handshake} that its factory has put into C{carrier}."""
    return carrier.wrappedProtocol


def _literal(host: str, port: int) -> list[Address] | None:
    """The address that C{host} is, where it is one and not a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return [(IPv4Address if address.version == 4 else IPv6Address)("TCP", host, port)]


def _tcp(reactor: Any, address: Address, timeout: float) -> IStreamClientEndpoint:
    kind = TCP6ClientEndpoint if isinstance(address, IPv6Address) else TCP4ClientEndpoint
    endpoint: IStreamClientEndpoint = kind(reactor, address.host, address.port, timeout)
    return endpoint


def _no_delay(transport: Any) -> None:
    """Send small packets at once (a tunnel's keystroke must not wait for the last one's ACK)."""
    switch = getattr(transport, "setTcpNoDelay", None)
    if switch is not None:
        switch(True)
