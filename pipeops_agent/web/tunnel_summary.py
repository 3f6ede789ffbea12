"""The tunnel for C{--status}: read from the agent's metrics, which ask for no token, and told to a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from pipeops_agent.log.render import printable
from pipeops_agent.settings.durations import format_duration

_FORWARD: Final = "pipeops_tunnel_forward_"
_CANARY: Final = "pipeops_tunnel_canary_"
_ATTEMPT: Final = "pipeops_tunnel_failed_attempt_"

Series = Mapping[str, Mapping[tuple[str, ...], float]]
"""By name and by the values of the labels, in the order of the labels' names."""


def tunnel_summary(metrics: str, now: float) -> list[str]:
    """
    What an operator wants to know of the tunnel, in lines.

    @param metrics: in Prometheus' text format.
    @param now: the agent's time, in Unix seconds.
    @raise ValueError: these are no metrics.
    """
    series: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            series.setdefault(sample.name, {})[labels] = sample.value
    state = _present(series, "pipeops_tunnel_state", ())
    if state is None:
        return []
    lines = [f"tunnel: {state}"]
    names = [name for name, state in series.get(f"{_FORWARD}state", {}) if state == "configured"]
    width = max(map(len, names), default=0)
    for name in names:
        about = ", ".join(_about(series, name, now))
        lines.append(
            f"  {printable(name):<{width}}  {_present(series, f'{_FORWARD}state', (name,))}: {about}"
        )
    lines += _denied(series)
    lines += _last_failure(series, now)
    return lines


def _present(series: Series, name: str, labels: tuple[str, ...]) -> str | None:
    """The state, the label after C{labels}, whose series is 1."""
    for found, value in series.get(name, {}).items():
        if value == 1 and found[: len(labels)] == labels:
            return printable(found[-1])
    return None


def _about(series: Series, name: str, now: float) -> Iterator[str]:
    def value(metric: str, *labels: str) -> float | None:
        return series.get(metric, {}).get(labels or (name,))

    port = value(f"{_FORWARD}port")
    yield "no port" if port is None else f"port {port:.0f}"
    confirmed = value(f"{_FORWARD}confirmed_timestamp_seconds")
    if confirmed is not None:
        yield f"server heard {_ago(confirmed, now)}"
    reached = value(f"{_FORWARD}reached_timestamp_seconds")
    yield "target never reached" if reached is None else f"target reached {_ago(reached, now)}"
    yield f"{value(f'{_FORWARD}open_channels') or 0:.0f} open"
    problems = {
        labels[1]: count
        for labels, count in series.get(f"{_FORWARD}failed_dials_total", {}).items()
        if labels[0] == name
    }
    if problems:
        yield "failed dials: " + " ".join(f"{printable(why)} {count:.0f}" for why, count in problems.items())
    failures = value(f"{_CANARY}failures_total")
    back = value(f"{_CANARY}last_success_timestamp_seconds")
    if failures is not None:
        yield f"canary {'never back' if back is None else f'back {_ago(back, now)}'}, {failures:.0f} lost"


def _denied(series: Series) -> Iterator[str]:
    denied = series.get("pipeops_tunnel_denied_channels_total", {}).get((), 0)
    if denied:
        yield f"denied dials to what is no forward: {denied:.0f}"


def _last_failure(series: Series, now: float) -> Iterator[str]:
    began = series.get(f"{_ATTEMPT}timestamp_seconds", {}).get(())
    if began is None:
        return
    steps = [
        f"{printable(step)} {seconds:.3f} s{' FAILED' if failed == 'true' else ''}"
        for (failed, step), seconds in series.get(f"{_ATTEMPT}step_seconds", {}).items()
    ]
    yield f"last failed attempt to connect, {_ago(began, now)}: {', '.join(steps) or 'no step'}"


def _ago(then: float, now: float) -> str:
    return f"{format_duration(float(max(0, round(now - then))))} ago"
