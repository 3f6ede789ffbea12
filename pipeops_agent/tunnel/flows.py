"""
How data flows at this moment: per forward, and for the ten busiest channels.

Made from the channels' tallies when somebody asks, and only then: nothing is sampled while nobody looks.
"""

from __future__ import annotations

from heapq import nlargest
from typing import Final

from pipeops_agent.figures import ChannelFlow, Flow, FlowStatus
from pipeops_agent.tunnel.traffic import ChannelTally, ForwardCounters, Rate, Tallied, TrafficCounters, moment

BUSIEST: Final = 10
"""How many channels are shown one by one."""


def channel_flows(traffic: TrafficCounters, now: float) -> FlowStatus:
    """
    The present flow.

    @param now: the reactor's seconds.
    """
    channels = [
        (name, channel)
        for name, counters in traffic.forwards.items()
        for channel in counters.live
        if not channel.tally.canary
    ]
    for _, channel in channels:
        _look(channel.tally, now)
    busiest = nlargest(BUSIEST, channels, key=lambda pair: _busyness(pair[1].tally))
    return FlowStatus(
        at=moment(now),
        forwards={name: _forward_flow(counters, now) for name, counters in traffic.forwards.items()},
        busiest=tuple(_channel_flow(name, channel, now) for name, channel in busiest),
    )


def waiting(counters: ForwardCounters, now: float) -> tuple[tuple[int, float], tuple[int, float]]:
    """How many channels wait, and for how many seconds the longest has: in, and out."""
    tallies = [channel.tally for channel in counters.live]
    pauses_in = [tally.wait_in.present(now) for tally in tallies if tally.wait_in.since is not None]
    pauses_out = [tally.wait_out.present(now) for tally in tallies if tally.wait_out.since is not None]
    return (
        (len(pauses_in), max(pauses_in, default=0.0)),
        (len(pauses_out), max(pauses_out, default=0.0)),
    )


def _look(tally: ChannelTally, now: float) -> Rate:
    if tally.rate is None:
        tally.rate = Rate(tally.opened_at, 0, 0)
    tally.rate.look(now, tally.bytes_in, tally.bytes_out)
    return tally.rate


def _busyness(tally: ChannelTally) -> tuple[float, int]:
    """By its rate; among those at rest by what it has carried."""
    rate = 0.0 if tally.rate is None else sum(tally.rate.value)
    return rate, tally.bytes_in + tally.bytes_out


def _forward_flow(counters: ForwardCounters, now: float) -> Flow:
    bytes_in, bytes_out = counters.bytes_in, counters.bytes_out
    if counters.rate is None:
        counters.rate = Rate(now, bytes_in, bytes_out)
    rate = counters.rate
    rate.look(now, bytes_in, bytes_out)
    (paused_in, longest_in), (paused_out, longest_out) = waiting(counters, now)
    return Flow(
        open_channels=counters.open,
        rate_in=rate.value[0],
        rate_out=rate.value[1],
        rate_seconds=rate.seconds,
        paused_in=paused_in,
        paused_out=paused_out,
        longest_pause_in=longest_in,
        longest_pause_out=longest_out,
    )


def _channel_flow(name: str, channel: Tallied, now: float) -> ChannelFlow:
    tally = channel.tally
    rate = _look(tally, now)
    return ChannelFlow(
        forward=name,
        opened=moment(tally.opened_at),
        age=max(0.0, now - tally.opened_at),
        dial_seconds=tally.dial_seconds,
        bytes_in=tally.bytes_in,
        bytes_out=tally.bytes_out,
        rate_in=rate.value[0],
        rate_out=rate.value[1],
        rate_seconds=rate.seconds,
        send_window=channel.send_window,
        paused_in=tally.wait_in.since is not None,
        paused_out=tally.wait_out.since is not None,
        paused_seconds_in=tally.wait_in.total(now),
        paused_seconds_out=tally.wait_out.total(now),
    )
