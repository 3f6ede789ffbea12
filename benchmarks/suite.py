"""All measurements, and the order in which their runs take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from benchmarks import distance, idle, inventory, life, tunnel
from benchmarks.clients import Client
from benchmarks.lab import Lab
from benchmarks.model import Measurement, Results, Scale, Values
from tests.peers.processes import RealReactor

MEASUREMENTS: Final = (
    *tunnel.MEASUREMENTS,
    *distance.MEASUREMENTS,
    *idle.MEASUREMENTS,
    *life.MEASUREMENTS,
    *inventory.MEASUREMENTS,
)


async def run_once(reactor: RealReactor, measurement: Measurement, client: Client, scale: Scale) -> Values:
    """One run, from fresh processes, all of which have ended when it returns."""
    lab = Lab(reactor)
    try:
        return await measurement.run(lab, client, scale)
    finally:
        await lab.clean()


async def run_all(
    reactor: RealReactor,
    measurements: Sequence[Measurement],
    clients: Sequence[Client],
    results: Results,
    *,
    runs: int,
    scale: Scale,
    say: Callable[[str], None],
) -> None:
    """
    Run everything C{runs} times, the clients taking turns, into C{results}.

    Each client is started once before, unmeasured: compiled files and the disk's cache are there then.
    """
    (warm_up,) = (each for each in MEASUREMENTS if each.name == "start")
    for client in clients:
        if client.name in warm_up.clients:
            await run_once(reactor, warm_up, client, scale)
    for measurement in measurements:
        if obstacle := measurement.obstacle():
            say(f"{measurement.name} is left out: {obstacle}")
            continue
        taking_part = [client for client in clients if client.name in measurement.clients]
        for number in range(1, runs + 1):
            for client in taking_part:
                values = await run_once(reactor, measurement, client, scale)
                results.add(measurement, client, values)
                say(f"{measurement.name} {number}/{runs} {client.name}: {_short(measurement, values)}")


def _short(measurement: Measurement, values: Values) -> str:
    return ", ".join(
        f"{figure.key} {values[figure.key]:.{figure.digits}f} {figure.unit}"
        for figure in measurement.figures
        if figure.key in values
    )
