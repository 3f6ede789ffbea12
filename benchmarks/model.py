"""What a measurement is, and what comes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Final, TypeAlias

from benchmarks.clients import Client
from benchmarks.lab import Lab

Values: TypeAlias = Mapping[str, float]
"""By figure; what is no figure of the measurement goes into the file of raw results only."""


@dataclass(frozen=True)
class Scale:
    """
    How much of everything.

    @ivar volume: bytes of one transfer.
    @ivar round_trips: messages there and back.
    @ivar connections: short connections, one at a time; twice as many at 32.
    @ivar channels: idle ones, for memory; moving ones, for fairness.
    @ivar first_use: bytes that each channel carries in each direction before it idles.
    @ivar busy_channels: open at a stop.
    @ivar idle_seconds: for which an idle client is watched.
    @ivar steady_seconds: for which a steady load is measured, after as long a warm-up.
    @ivar pods: in the cluster that is kept; C{nodes} likewise.
    @ivar changing_seconds: for which a thousand of the pods are changed each second.
    """

    volume: int
    round_trips: int
    connections: int
    channels: int
    first_use: int
    busy_channels: int
    idle_seconds: float
    steady_seconds: float
    pods: int
    nodes: int
    changing_seconds: float


FULL: Final = Scale(512 << 20, 5000, 1500, 1000, 1 << 20, 500, 30.0, 5.0, 30_000, 1000, 60.0)
QUICK: Final = Scale(64 << 20, 500, 200, 1000, 64 << 10, 500, 20.0, 2.0, 3000, 100, 5.0)
TINY: Final = Scale(1 << 20, 20, 20, 10, 64 << 10, 5, 0.5, 0.3, 50, 2, 0.5)
"""For the test that everything runs: its figures mean nothing."""


@dataclass(frozen=True)
class Figure:
    """
    One line of the table.

    @ivar more_is_better: how a ratio is to be read.
    """

    key: str
    title: str
    unit: str
    digits: int = 1
    more_is_better: bool = False


@dataclass(frozen=True)
class Measurement:
    """
    One run of it gives all its figures, for one client, from a fresh process.

    @ivar clients: the names of those for which it makes sense.
    @ivar obstacle: says why it can't be measured here; empty: it can.
    """

    name: str
    figures: tuple[Figure, ...]
    run: Callable[[Lab, Client, Scale], Awaitable[Values]]
    clients: tuple[str, ...] = ("agent", "go", "conch")
    obstacle: Callable[[], str] = str


@dataclass
class Results:
    """All values, in the order of the runs, by measurement, client and figure."""

    values: dict[str, dict[str, list[Values]]] = field(default_factory=dict)

    def add(self, measurement: Measurement, client: Client, values: Values) -> None:
        """Keep what one run gave."""
        self.values.setdefault(measurement.name, {}).setdefault(client.name, []).append(values)

    def series(self, measurement: Measurement, client: str, figure: Figure) -> list[float]:
        """The figure's values for the client of that name, one for each run; empty where there are none."""
        runs = self.values.get(measurement.name, {}).get(client, [])
        return [values[figure.key] for values in runs if figure.key in values]

    def ratio(self, measurement: Measurement, figure: Figure, one: str, other: str) -> float | None:
        """
        The median of C{one}'s value over C{other}'s, run by run.

        Both values of a run were measured right after one another: what else the machine did that
        minute hardly matters.
        """
        pairs = zip(
            self.series(measurement, one, figure), self.series(measurement, other, figure), strict=False
        )
        ratios = [mine / theirs for mine, theirs in pairs if theirs]
        return median(ratios) if ratios else None
