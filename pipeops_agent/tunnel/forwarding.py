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

from pipeops_agent.net.resolver import Resolver
from pipeops_agent.scheduling import Tasks, bounded
from pipeops_agent.tunnel.denials import Source
from pipeops_agent.tunnel.dialproblem import dial_problem
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
from pipeops_agent.tunnel.traffic import ChannelTally, ForwardCounters, TrafficCounters
from pipeops_agent.tunnel.watched import WatchedRelay

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
        if self.counters.canary_heads:
            return WatchedRelay(self._clock, ChannelTally(), self._ended, self.counters)
        return Relay(self._clock, ChannelTally(), self._ended)

    def __len__(self) -> int:
        return len(self._relays)

    def joined(self, relay: Relay, began: float) -> None:
        """Count C{relay}, whose two sides have just been joined; its dial began then."""
        now = self._clock.seconds()
        self._relays.add(relay)
        self.counters.enter(relay, now, max(0.0, now - began))

    def _ended(self, relay: Relay) -> None:
        if relay in self._relays:
            self._relays.remove(relay)
            self.counters.leave(relay)

    def abort(self) -> None:
        """Cut every connection."""
        for relay in tuple(self._relays):
            relay.abort()


class Forwarder:
    """
    Answers the channel requests of one session.

    @param max_connections: how many connections there may be at once, with those whose channel is gone
        and that still have something to deliver.
    @param source: whose channels these are, for the report of what was denied.
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
        source: Source = Source(),  # noqa: B008  # it is frozen
    ) -> None:
        self._source = source
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
            kind = f"channel type {peer_text(request.kind)!r}"
            self._deny(request, OPEN_UNKNOWN_CHANNEL_TYPE, kind, f"unknown {kind}")
            return
        asked = peer_text(request.extra)
        try:
            target = parse_target(request.extra)
        except TargetError as error:
            self._deny(request, OPEN_ADMINISTRATIVELY_PROHIBITED, asked, str(error))
            return
        factory = self._factories.get((target.host, target.port))
        if factory is None or target.protocol != "tcp":
            why = f"{asked!r} is no configured forward"
            self._deny(request, OPEN_ADMINISTRATIVELY_PROHIBITED, asked, why)
            return
        if sum(map(len, self._factories.values())) + len(self._tasks) >= self._max_connections:
            why = f"there are {self._max_connections} connections already (tunnel.max_channels)"
            factory.counters.fail("limit", why, self._clock.seconds())
            request.refuse(OPEN_RESOURCE_SHORTAGE, "too many connections")
            return
        self._tasks.spawn(self._join(request, factory), f"a connection to {factory.remote.target}")

    def _deny(self, request: OpenRequest, code: int, asked: str, why: str) -> None:
        self._traffic.denials.note(asked, self._source)
        _log.warn("a channel was refused: {why}", why=why)
        request.refuse(code, why)

    async def _join(self, request: OpenRequest, factory: ForwardFactory) -> None:
        remote, began = factory.remote, self._clock.seconds()
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
            problem = dial_problem(error, remote.target)
            factory.counters.fail(problem.kind, problem.sentence, self._clock.seconds())
            _log.warn("forward {forward}: {why}", forward=remote.forward, why=problem.sentence)
            self._report(remote.forward, problem.sentence)
            request.refuse(OPEN_CONNECT_FAILED, problem.sentence)
            return
        factory.joined(relay, began)
        relay.attach(request.accept(relay))
        self._report(remote.forward, None)

    def stop(self) -> Deferred[None]:
        """Cut every connection and every dial under way; fires when the dials have ended."""
        for factory in self._factories.values():
            factory.abort()
        return self._tasks.stop()
