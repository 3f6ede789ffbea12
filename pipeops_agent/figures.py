"""
The tunnel's figures: what changes with every packet, worked out when the L{StatusBoard} is asked for it.

Frozen values, as everything that the board shows; L{pipeops_agent.tunnel} fills them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec


class CanaryResult(msgspec.Struct, frozen=True, kw_only=True):
    """
    What became of the agent's attempts to reach itself through a forward, from the far side.

    @ivar rtt: seconds from the request to the answer, of the last one that succeeded.
    @ivar error: why the last one did not; None: it did.
    """

    last_success: datetime | None = None
    rtt: float | None = None
    error: str | None = None
    tried: int = 0
    failed: int = 0


class DialTimes(msgspec.Struct, frozen=True, kw_only=True):
    """
    How long it took to reach a local target, as a histogram.

    @ivar buckets: upper end in seconds (the last is infinite), and how many dials took no longer.
    @ivar seconds: all of them together.
    """

    buckets: tuple[tuple[float, int], ...] = ()
    seconds: float = 0.0


class ForwardTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """
    The counters of one forward since the agent's start. C{in} is from the control plane to the local target.

    The agent's own canaries are not among the channels and bytes.

    @ivar confirmed: when the server that listens for it last answered: its configuration, or a ping.
    @ivar last_dial: when the local target was last reached.
    @ivar last_in: when a byte last came from the control plane.
    @ivar last_out: when a byte last came from the local target.
    @ivar failed_dials: how often the local target was not reached.
    @ivar refused_channels: channels that were not let in: there were too many.
    @ivar problems: both of these, by kind (L{pipeops_agent.tunnel.traffic.DIAL_PROBLEMS}).
    @ivar last_problem: the reason of the last one, in a sentence.
    @ivar canary: None: there was none.
    """

    open_channels: int = 0
    total_channels: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    confirmed: datetime | None = None
    last_dial: datetime | None = None
    last_in: datetime | None = None
    last_out: datetime | None = None
    failed_dials: int = 0
    refused_channels: int = 0
    problems: Mapping[str, int] = {}
    last_problem: str | None = None
    last_problem_at: datetime | None = None
    dials: DialTimes = DialTimes()
    canary: CanaryResult | None = None


class TunnelTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """
    The tunnel's counters since the agent's start.

    @ivar refused_channels: those denied, and those that a forward did not let in.
    @ivar denied_channels: channels refused because their target is no configured forward.
    @ivar denied: the same, by what was asked for; what is beyond a bounded number of names is C{other}.
    """

    forwards: Mapping[str, ForwardTraffic] = {}
    refused_channels: int = 0
    denied_channels: int = 0
    denied: Mapping[str, int] = {}
    connects: int = 0
    carrier_bytes_in: int = 0
    carrier_bytes_out: int = 0


class DeniedDials(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one session has asked for in vain since the last report: the event C{dial_denied}.

    @ivar targets: how often, by what was asked for.
    @ivar count: the sum of these.
    @ivar total: of all sessions, since the agent's start.
    """

    server: str
    session: int
    targets: Mapping[str, int]
    count: int
    total: int


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """
    How data flows through one forward now. Rates are bytes per second.

    @ivar rate_seconds: what the rates are means over: since somebody last asked; 0: not known yet.
    @ivar paused_in: channels that wait for their local socket.
    @ivar paused_out: channels that wait for the peer's window or for the carrier.
    @ivar longest_pause_in: seconds that the one of them has waited that waits longest.
    """

    open_channels: int = 0
    rate_in: float = 0.0
    rate_out: float = 0.0
    rate_seconds: float = 0.0
    paused_in: int = 0
    paused_out: int = 0
    longest_pause_in: float = 0.0
    longest_pause_out: float = 0.0


class ChannelFlow(msgspec.Struct, frozen=True, kw_only=True):
    """
    One open channel. Rates are bytes per second; times are seconds.

    @ivar dial_seconds: how long it took to reach its target.
    @ivar rate_seconds: what the rates are means over: since somebody last asked, or since its opening.
    @ivar send_window: how many bytes more the peer takes.
    @ivar paused_in: it waits for its local socket now; C{paused_seconds_in}: so it did, in all.
    @ivar paused_out: it waits for the peer's window or the carrier now; C{paused_seconds_out} likewise.
    """

    forward: str
    opened: datetime | None
    age: float
    dial_seconds: float
    bytes_in: int
    bytes_out: int
    rate_in: float
    rate_out: float
    rate_seconds: float
    send_window: int
    paused_in: bool
    paused_out: bool
    paused_seconds_in: float
    paused_seconds_out: float


class FlowStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The flow through the tunnel at one moment: per forward, and for the ten busiest channels."""

    at: datetime | None = None
    forwards: Mapping[str, Flow] = {}
    busiest: tuple[ChannelFlow, ...] = ()
