"""Families of metrics that are made anew at each scrape."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


def gauge(name: str, documentation: str, value: float | None) -> Metric:
    """A gauge of one series; without a value, the family alone."""
    return GaugeMetricFamily(name, documentation, value=value)


def counter(name: str, documentation: str, value: float) -> Metric:
    """A counter of one series; C{_total} is added to its name."""
    return CounterMetricFamily(name, documentation, value=value)


def one_of(name: str, documentation: str, states: Iterable[str], present: str) -> Metric:
    """One series per state: 1 for the present one, also where it is none of those listed."""
    family = GaugeMetricFamily(name, documentation, labels=("state",))
    for state in dict.fromkeys((*states, present)):
        family.add_metric([state], float(state == present))
    return family


class Labelled:
    """A gauge or a counter whose series have labels, filled piece by piece."""

    def __init__(
        self, kind: type[GaugeMetricFamily | CounterMetricFamily], name: str, text: str, *labels: str
    ):
        self.family = kind(name, text, labels=labels)

    def add(self, value: float | None, *labels: str) -> None:
        """One series; None: it is not known, and left out."""
        if value is not None:
            self.family.add_metric(labels, value)
