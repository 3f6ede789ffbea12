"""
Forwarding: which target a channel leads to, and the connection that is made for it.

One L{ForwardFactory} stands for each remote of a session. The agent dials what is configured and
nothing else: any other channel is refused, counted and reported. A channel is confirmed only when
its target was reached, so that the far side learns of a dead target at once, and why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from pipeops_agent.net.explain import explain
from pipeops_agent.net.resolver import Resolver
from pipeops_agent.scheduling import Tasks, bounded
from pipeops_agent.tunnel.relay import Relay
from pipeops_agent.tunnel.remotes import Remote, TargetError, parse_target
from pipeops_agent.tunnel.ssh.common import peer_text
from pipeops_agent.tunnel.ssh.connection import OpenRequest
from pipeops_agent.tunnel.ssh.messages import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
    OPEN_UNKNOWN_CHANNEL_TYPE,
)
from pipeops_agent.tunnel.traffic import ForwardCounters, TrafficCounters

_log = Logger(namespace="tunnel.forward")

CHANNEL_TYPE: Final = b"chisel"

_LOOPBACK: Final = ("127.0.0.1", "::1")
"""What C{localhost} is, without asking: a look-up for each connection would cost a thread."""


class Dialer:
    """Makes connections to local targets; never through a proxy."""

    def __init__(self, reactor: Any, resolver: Resolver) -> None:
        self._reactor = reactor
        self._resolver = resolver

    async def dial(self, host: str, port: int, factory: Factory, timeout: float) -> Relay:
        """
        Connect to the first address of C{host} that answers.

        @raise Exception: what the last address said.
        """
        addresses = await self._addresses(host, port)
        for last, address in zip([False] * (len(addresses) - 1) + [True], addresses, strict=True):
            make = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
            try:
                relay = await make(self._reactor, address, port, timeout).connect(factory)
            except (CancelledError, ConnectingCancelledError):
                raise CancelledError from None
            except Exception:
                if last:
                    raise
            else:
                return cast(Relay, relay)
        raise AssertionError("a host has at least one address")

    async def _addresses(self, host: str, port: int) -> tuple[str, ...]:
        if isIPAddress(host) or isIPv6Address(host):
            return (host,)
        if host == "localhost":
            return _LOOPBACK
        return tuple(address.host for address in await self._resolver.resolve(host, port))


class ForwardFactory(Factory):
    """Makes the connections of one remote; keeps its relays and its counters."""

    noisy = False

    def __init__(self, clock: IReactorTime, remote: Remote, counters: ForwardCounters) -> None:
        self.remote = remote
        self.counters = counters
        self._clock = clock
        self._relays: set[Relay] = set()

    def buildProtocol(self, addr: IAddress | None) -> Relay:
        return Relay(self._clock, self.counters, self._ended)

    def __len__(self) -> int:
        return len(self._relays)

    def joined(self, relay: Relay) -> None:
        """Count C{relay}, whose two sides have just been joined."""
        self._relays.add(relay)
        self.counters.opened += 1
        self.counters.open += 1
        self.counters.last_dial = self._clock.seconds()

    def _ended(self, relay: Relay) -> None:
        if relay in self._relays:
            self._relays.remove(relay)
            self.counters.open -= 1

    def abort(self) -> None:
        """Cut every connection."""
        for relay in tuple(self._relays):
            relay.abort()


class Forwarder:
    """
    Answers the channel requests of one session.

    @param max_connections: how many connections there may be at once, with those whose channel is gone
        and that still have something to deliver.
    @param report: called with a forward's name and None when its target was reached, or the reason
        when it was not.
    """

    def __init__(
        self,
        reactor: Any,
        dialer: Dialer,
        remotes: tuple[Remote, ...],
        traffic: TrafficCounters,
        *,
        dial_timeout: float,
        max_connections: int,
        report: Callable[[str, str | None], None],
    ) -> None:
        self._clock: IReactorTime = reactor
        self._dialer = dialer
        self._traffic = traffic
        self._dial_timeout = dial_timeout
        self._max_connections = max_connections
        self._report = report
        self._tasks = Tasks()
        self._factories: dict[tuple[str, int], ForwardFactory] = {}
        for remote in remotes:
            # The server names only the target: of two forwards to one target the first counts.
            factory = ForwardFactory(reactor, remote, traffic.forward(remote.forward))
            self._factories.setdefault((remote.host, remote.port), factory)

    def channel_requested(self, request: OpenRequest) -> None:
        """Dial the target of C{request} where it is configured, else refuse."""
        if request.kind != CHANNEL_TYPE:
            kind = peer_text(request.kind)
            self._refuse(request, OPEN_UNKNOWN_CHANNEL_TYPE, f"unknown channel type {kind!r}")
            return
        try:
            target = parse_target(request.extra)
        except TargetError as error:
            self._refuse(request, OPEN_ADMINISTRATIVELY_PROHIBITED, str(error))
            return
        factory = self._factories.get((target.host, target.port))
        if factory is None or target.protocol != "tcp":
            shown = peer_text(request.extra)
            self._refuse(request, OPEN_ADMINISTRATIVELY_PROHIBITED, f"{shown!r} is no configured forward")
            return
        if sum(map(len, self._factories.values())) + len(self._tasks) >= self._max_connections:
            factory.counters.refused += 1
            request.refuse(OPEN_RESOURCE_SHORTAGE, "too many connections")
            return
        self._tasks.spawn(self._join(request, factory), f"a connection to {factory.remote.target}")

    def _refuse(self, request: OpenRequest, code: int, why: str) -> None:
        self._traffic.refused += 1
        _log.warn("a channel was refused: {why}", why=why)
        request.refuse(code, why)

    async def _join(self, request: OpenRequest, factory: ForwardFactory) -> None:
        remote = factory.remote
        dialling = bounded(
            self._clock,
            self._dial_timeout,
            self._dialer.dial(remote.host, remote.port, factory, self._dial_timeout),
            f"connecting to {remote.target}",
        )
        request.abandoned.addCallback(lambda _: dialling.cancel())
        try:
            relay = await dialling
        except CancelledError:
            if not request.abandoned.called:
                request.refuse(OPEN_CONNECT_FAILED, "the tunnel is closing")
            return
        except Exception as error:
            factory.counters.failed_dials += 1
            sentence = f"the local target can't be reached: {explain(error, remote.target).sentence}"
            _log.warn("forward {forward}: {why}", forward=remote.forward, why=sentence)
            self._report(remote.forward, sentence)
            request.refuse(OPEN_CONNECT_FAILED, sentence)
            return
        factory.joined(relay)
        relay.attach(request.accept(relay))
        self._report(remote.forward, None)

    def stop(self) -> Deferred[None]:
        """Cut every connection and every dial under way; fires when the dials have ended."""
        for factory in self._factories.values():
            factory.abort()
        return self._tasks.stop()
