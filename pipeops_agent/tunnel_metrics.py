"""The tunnel's metrics. Labels are the configured forwards' names and our own words: never a peer's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import get_args

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from pipeops_agent.figures import FlowStatus, ForwardTraffic, TunnelTraffic
from pipeops_agent.metric_families import Labelled, counter, gauge, one_of
from pipeops_agent.status import TUNNEL_STATES, AgentStatus, Attempt, ForwardState


def tunnel_metrics(status: AgentStatus, traffic: TunnelTraffic, flows: FlowStatus) -> Iterator[Metric]:
    """Everything about the tunnel, at this moment."""
    yield from _tunnel(status, traffic)
    yield from _last_failure(status.tunnel.attempts)
    yield from _forwards(status, traffic)
    yield from _proofs(traffic)
    yield from _flows(flows)
    yield from _canaries(traffic)
    yield _dials(traffic)


def _tunnel(status: AgentStatus, traffic: TunnelTraffic) -> Iterator[Metric]:
    yield one_of("pipeops_tunnel_state", "The tunnel's state: 1 for it.", TUNNEL_STATES, status.tunnel.state)
    yield gauge(
        "pipeops_tunnel_round_trip_seconds", "How long the last ping took to be answered.", status.tunnel.rtt
    )
    contact = status.tunnel.contact
    yield gauge(
        "pipeops_tunnel_last_contact_timestamp_seconds",
        "When the tunnel's server last answered a ping or a configuration, in Unix time.",
        None if contact is None else contact.timestamp(),
    )
    yield gauge(
        "pipeops_tunnel_flapping",
        "1 while the tunnel's connections end again and again soon after they came up.",
        float(status.tunnel.flapping is not None),
    )
    yield counter(
        "pipeops_tunnel_watchdog_rebuilds",
        "Times that the watchdog has made everything of the tunnel anew.",
        status.tunnel.rebuilds,
    )
    yield counter("pipeops_tunnel_connects", "Times that the tunnel was connected.", traffic.connects)
    yield counter(
        "pipeops_tunnel_refused_channels",
        "Channels refused: their target is no configured forward, or there were too many.",
        traffic.refused_channels,
    )
    yield counter(
        "pipeops_tunnel_denied_channels",
        "Channels refused because their target is no configured forward.",
        traffic.denied_channels,
    )
    carrier = Labelled(
        CounterMetricFamily,
        "pipeops_tunnel_carrier_bytes",
        "Bytes on the tunnel's connection, as sent: in is from the server.",
        "direction",
    )
    carrier.add(traffic.carrier_bytes_in, "in")
    carrier.add(traffic.carrier_bytes_out, "out")
    yield carrier.family


def _last_failure(attempts: tuple[Attempt, ...]) -> Iterator[Metric]:
    """The last attempt that failed, of those that are remembered: when, and how long each step took."""
    failed = next((each for each in reversed(attempts) if each.outcome in ("failed", "refused")), None)
    yield gauge(
        "pipeops_tunnel_failed_attempt_timestamp_seconds",
        "When the last attempt to connect that failed began, in Unix time.",
        None if failed is None else failed.began.timestamp(),
    )
    steps = Labelled(
        GaugeMetricFamily,
        "pipeops_tunnel_failed_attempt_step_seconds",
        "How long the steps of that attempt took; the one that failed is the last.",
        "step",
        "failed",
    )
    seconds: dict[tuple[str, str], float] = {}
    for step in () if failed is None else failed.steps:
        labels = step.name, "false" if step.error is None else "true"
        seconds[labels] = seconds.get(labels, 0.0) + step.seconds  # a step may have been made twice
    for labels, total in seconds.items():
        steps.add(total, *labels)
    yield steps.family


def _forwards(status: AgentStatus, traffic: TunnelTraffic) -> Iterator[Metric]:
    state = Labelled(
        GaugeMetricFamily,
        "pipeops_tunnel_forward_state",
        "The forward's state: 1 for it.",
        "forward",
        "state",
    )
    port = Labelled(
        GaugeMetricFamily, "pipeops_tunnel_forward_port", "The forward's port on the server.", "forward"
    )
    for forward in status.tunnel.forwards:
        port.add(forward.remote_port, forward.name)
        for name in get_args(ForwardState):
            state.add(float(forward.state == name), forward.name, name)
    open_channels = Labelled(
        GaugeMetricFamily, "pipeops_tunnel_forward_open_channels", "Channels that are open.", "forward"
    )
    channels = Labelled(
        CounterMetricFamily, "pipeops_tunnel_forward_channels", "Channels opened so far.", "forward"
    )
    refused = Labelled(
        CounterMetricFamily,
        "pipeops_tunnel_forward_refused_channels",
        "Channels that were not let in: there were too many.",
        "forward",
    )
    problems = Labelled(
        CounterMetricFamily,
        "pipeops_tunnel_forward_failed_dials",
        "Times that the local target was not reached, by reason.",
        "forward",
        "reason",
    )
    carried = Labelled(
        CounterMetricFamily,
        "pipeops_tunnel_forward_bytes",
        "Bytes carried: in is from the control plane to the local target.",
        "forward",
        "direction",
    )
    for name, counts in traffic.forwards.items():
        open_channels.add(counts.open_channels, name)
        channels.add(counts.total_channels, name)
        carried.add(counts.bytes_in, name, "in")
        carried.add(counts.bytes_out, name, "out")
        refused.add(counts.refused_channels, name)
        for reason, count in counts.problems.items():
            if reason != "limit":
                problems.add(count, name, reason)
    yield from (each.family for each in (state, port, open_channels, channels, refused, problems, carried))


def _proofs(traffic: TunnelTraffic) -> Iterator[Metric]:
    """Proof of life: what was last seen of each forward."""
    confirmed = Labelled(
        GaugeMetricFamily,
        "pipeops_tunnel_forward_confirmed_timestamp_seconds",
        "When the server that listens for the forward last answered, in Unix time.",
        "forward",
    )
    dialled = Labelled(
        GaugeMetricFamily,
        "pipeops_tunnel_forward_reached_timestamp_seconds",
        "When the local target was last reached, in Unix time.",
        "forward",
    )
    passed = Labelled(
        GaugeMetricFamily,
        "pipeops_tunnel_forward_last_byte_timestamp_seconds",
        "When a byte last passed, in Unix time: in is from the control plane to the local target.",
        "forward",
        "direction",
    )
    for name, counts in traffic.forwards.items():
        confirmed.add(_unix(counts.confirmed), name)
        dialled.add(_unix(counts.last_dial), name)
        passed.add(_unix(counts.last_in), name, "in")
        passed.add(_unix(counts.last_out), name, "out")
    yield from (each.family for each in (confirmed, dialled, passed))


def _flows(flows: FlowStatus) -> Iterator[Metric]:
    paused = Labelled(
        GaugeMetricFamily,
        "pipeops_tunnel_forward_paused_channels",
        "Channels that wait: in for the local socket, out for the peer's window or the carrier.",
        "forward",
        "direction",
    )
    longest = Labelled(
        GaugeMetricFamily,
        "pipeops_tunnel_forward_longest_pause_seconds",
        "How long the one of them has waited that waits longest.",
        "forward",
        "direction",
    )
    for name, flow in flows.forwards.items():
        paused.add(flow.paused_in, name, "in")
        paused.add(flow.paused_out, name, "out")
        longest.add(flow.longest_pause_in, name, "in")
        longest.add(flow.longest_pause_out, name, "out")
    yield from (paused.family, longest.family)


def _canaries(traffic: TunnelTraffic) -> Iterator[Metric]:
    succeeded = Labelled(
        GaugeMetricFamily,
        "pipeops_tunnel_canary_last_success_timestamp_seconds",
        "When a canary last came back through the forward, in Unix time.",
        "forward",
    )
    rtt = Labelled(
        GaugeMetricFamily,
        "pipeops_tunnel_canary_round_trip_seconds",
        "How long that one took.",
        "forward",
    )
    tried = Labelled(
        CounterMetricFamily, "pipeops_tunnel_canary_attempts", "Canaries sent through the forward.", "forward"
    )
    failed = Labelled(
        CounterMetricFamily, "pipeops_tunnel_canary_failures", "Canaries that did not come back.", "forward"
    )
    for name, counts in traffic.forwards.items():
        canary = counts.canary
        if canary is not None:
            succeeded.add(_unix(canary.last_success), name)
            rtt.add(canary.rtt, name)
            tried.add(canary.tried, name)
            failed.add(canary.failed, name)
    yield from (each.family for each in (succeeded, rtt, tried, failed))


def _dials(traffic: TunnelTraffic) -> Metric:
    family = HistogramMetricFamily(
        "pipeops_tunnel_forward_dial_seconds",
        "How long it took to reach the local target.",
        labels=("forward",),
    )
    for name, counts in traffic.forwards.items():
        if counts.dials.buckets:
            family.add_metric([name], _buckets(counts), counts.dials.seconds)
    return family


def _buckets(counts: ForwardTraffic) -> list[tuple[str, float]]:
    return [
        ("+Inf" if upper == float("inf") else repr(upper), count) for upper, count in counts.dials.buckets
    ]


def _unix(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
