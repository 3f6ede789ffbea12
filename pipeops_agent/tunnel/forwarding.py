"""
Forwarding: which target a channel leads to, and the connection that is made for it.

One L{Forward} stands for each remote of a session. The agent dials what is configured and
nothing else: any other channel is refused, counted and reported. A channel is confirmed only when
its target was reached, so that the far side learns of a dead target at once, and why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.own_sockets import OwnSockets, Place
from pipeops_agent.tunnel.denials import Source
from pipeops_agent.tunnel.dialing import Dialer
from pipeops_agent.tunnel.dialproblem import DialProblem, dial_problem
from pipeops_agent.tunnel.reading import Reading
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

Report = Callable[[str, str | None], None]
"""Called with a forward's name and None when its target was reached, or the reason when it was not."""


class Forward:
    """One remote: its dials under way, its relays, its counters."""

    def __init__(
        self,
        clock: IReactorTime,
        remote: Remote,
        counters: ForwardCounters,
        reading: Reading,
        report: Report,
        sockets: OwnSockets,
    ) -> None:
        self.clock = clock
        self.reading = reading
        self.remote = remote
        self.counters = counters
        self._report = report
        self._openings: dict[Opening, None] = {}
        self._sockets = sockets
        self._relays: dict[Relay, Place] = {}

    def __len__(self) -> int:
        """Its connections: those there are, and those that may come about."""
        return len(self._openings) + len(self._relays)

    # -- what its openings tell

    def opening_begun(self, opening: Opening) -> None:
        self._openings[opening] = None

    def opening_ended(self, opening: Opening) -> None:
        del self._openings[opening]

    def dial_failed(self, problem: DialProblem) -> None:
        """Count, log and report a target that was not reached."""
        self.counters.fail(problem.kind, problem.sentence, self.clock.seconds())
        _log.warn("forward {forward}: {why}", forward=self.remote.forward, why=problem.sentence)
        self._report(self.remote.forward, problem.sentence)

    # -- what its relays tell

    def relay_joined(self, relay: Relay, began: float) -> None:
        """The two sides of C{relay} are joined; its dial began then."""
        now = self.clock.seconds()
        host: Any = relay.transport.getHost()
        self._relays[relay] = place = (host.host, host.port)
        self._sockets.opened(place, self.remote.forward)
        self.counters.enter(relay, now, max(0.0, now - began))
        self._report(self.remote.forward, None)

    def relay_ended(self, relay: Relay) -> None:
        self._sockets.closed(self._relays.pop(relay))
        self.counters.leave(relay)

    def stop(self) -> None:
        """Cut every connection, and give up every dial."""
        for relay in tuple(self._relays):
            relay.abort()
        for opening in tuple(self._openings):
            opening.stop()


class Opening:
    """One channel that was asked for, until its target is reached or is not."""

    __slots__ = ("_began", "_dial", "_forward", "_request")

    def __init__(self, forward: Forward, request: OpenRequest) -> None:
        self._forward = forward
        self._request = request
        self._began = forward.clock.seconds()

    def begin(self, dialer: Dialer, timeout: float) -> None:
        """Dial, within C{timeout} seconds."""
        self._forward.opening_begun(self)
        self._request.abandoned = self._give_up
        remote = self._forward.remote
        self._dial = dialer.dial(remote.host, remote.port, self, timeout)

    def stop(self) -> None:
        """Give up, and say so to the far side."""
        self._give_up()
        self._request.refuse(OPEN_CONNECT_FAILED, "the tunnel is closing")

    def _give_up(self) -> None:
        self._end()
        self._dial.cancel()

    def _end(self) -> None:
        self._request.abandoned = None
        self._forward.opening_ended(self)

    # -- what the dialer tells

    def dialled(self) -> Relay:
        self._end()
        forward = self._forward
        tally, reading, counters = ChannelTally(), forward.reading, forward.counters
        if counters.canary_heads:
            return WatchedRelay(forward.clock, tally, reading, forward.relay_ended, counters, self._join)
        return Relay(forward.clock, tally, reading, forward.relay_ended, self._join)

    def _join(self, relay: Relay) -> None:
        self._forward.relay_joined(relay, self._began)
        relay.attach(self._request.accept(relay))

    def dial_failed(self, error: BaseException) -> None:
        self._end()
        problem = dial_problem(error, self._forward.remote.target)
        self._forward.dial_failed(problem)
        self._request.refuse(OPEN_CONNECT_FAILED, problem.sentence)


class Forwarder:
    """
    Answers the channel requests of one session.

    @param max_connections: how many connections there may be at once, with those whose channel is gone
        and that still have something to deliver.
    @param source: whose channels these are, for the report of what was denied.
    """

    def __init__(
        self,
        clock: IReactorTime,
        dialer: Dialer,
        remotes: tuple[Remote, ...],
        traffic: TrafficCounters,
        *,
        dial_timeout: float,
        max_connections: int,
        report: Report,
        source: Source = Source(),  # noqa: B008  # it is frozen
    ) -> None:
        self._clock = clock
        self._source = source
        self._dialer = dialer
        self._traffic = traffic
        self._dial_timeout = dial_timeout
        self._max_connections = max_connections
        self._forwards: dict[tuple[str, int], Forward] = {}
        reading = Reading()
        for remote in remotes:
            # The server names only the target: of two forwards to one target the first counts.
            counters = traffic.forward(remote.forward)
            forward = Forward(clock, remote, counters, reading, report, dialer.sockets)
            self._forwards.setdefault((remote.host, remote.port), forward)

    @property
    def connections(self) -> int:
        """How many there are, with those that are being made."""
        return sum(map(len, self._forwards.values()))

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
        forward = self._forwards.get((target.host, target.port))
        if forward is None or target.protocol != "tcp":
            why = f"{asked!r} is no configured forward"
            self._deny(request, OPEN_ADMINISTRATIVELY_PROHIBITED, asked, why)
            return
        if self.connections >= self._max_connections:
            why = f"there are {self._max_connections} connections already (tunnel.max_channels)"
            forward.counters.fail("limit", why, self._clock.seconds())
            request.refuse(OPEN_RESOURCE_SHORTAGE, "too many connections")
            return
        Opening(forward, request).begin(self._dialer, self._dial_timeout)

    def _deny(self, request: OpenRequest, code: int, asked: str, why: str) -> None:
        self._traffic.denials.note(asked, self._source)
        _log.warn("a channel was refused: {why}", why=why)
        request.refuse(code, why)

    def stop(self) -> None:
        """Cut every connection, and give up every dial under way."""
        for forward in self._forwards.values():
            forward.stop()
