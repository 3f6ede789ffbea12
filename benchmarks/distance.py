"""Measurements over a long link: whether windows fill it, and whether buffers stay small."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from benchmarks.clients import Client
from benchmarks.lab import Lab
from benchmarks.model import Figure, Measurement, Scale, Values
from benchmarks.place import Distance, no_link
from benchmarks.programs import forget_peak, peak_mb, resident_mb
from benchmarks.tunnel import steady

RATE: Final = 50e6
"""Bytes per second that the link carries each way: 10 MB are on the way when the round trip takes 200 ms."""

_DIRECTIONS: Final = (("to", "down"), ("from", "up"))
"""From the client's side, and as the load calls them."""


async def _over_a_link(lab: Lab, client: Client, scale: Scale, *, distance: Distance) -> Values:
    """
    One channel that moves all that it can, in each direction, and round trips beside it.

    The same load on a plain TCP connection over the same link says what could be had.
    """
    await lab.move_apart(distance)
    services = await lab.services()
    server = await lab.server()
    launched = client.launch(lab, server, services["load"])
    await launched.program.wait_for("configured")
    await lab.load("rtt", launched.port, n=2)
    pids = {"": launched.program.pid, "server_": server.program.pid}
    values: dict[str, float] = {}
    for name, mode in _DIRECTIONS:
        before = {whose: resident_mb(pid) for whose, pid in pids.items()}
        for pid in pids.values():
            forget_peak(pid)
        figures = await steady(lab, launched.port, scale, mode, probe=True)
        values[f"{name}_rate"] = figures["mb_per_s"]
        values[f"{name}_p50"] = figures["p50_us"] / 1000
        values[f"{name}_p99"] = figures["p99_us"] / 1000
        for whose, pid in pids.items():
            values[f"{name}_{whose}peak"] = peak_mb(pid) - before[whose]
        values[f"{name}_raw"] = (await steady(lab, services["load"], scale, mode))["mb_per_s"]
    return values


def _figures(link: str) -> Iterator[Figure]:
    for name, where in (("to", "to the server"), ("from", "from the server")):
        yield Figure(f"{name}_rate", f"{link}: throughput {where}", "MB/s", 1, more_is_better=True)
        yield Figure(f"{name}_raw", f"{link}: TCP without a tunnel {where}", "MB/s", 1, more_is_better=True)
        yield Figure(f"{name}_peak", f"{link}: memory added at most, {where}", "MB")
        yield Figure(f"{name}_p50", f"{link}: round trip beside it, p50, {where}", "ms", 0)


def _long_link(round_trip_ms: int, loss_percent: int) -> Measurement:
    title = f"{round_trip_ms} ms" + (f", {loss_percent} % lost" if loss_percent else "")
    return Measurement(
        f"link-{round_trip_ms}" + (f"-loss-{loss_percent}" if loss_percent else ""),
        tuple(_figures(title)),
        partial(_over_a_link, distance=Distance(round_trip_ms / 1000, loss_percent / 100, RATE)),
        clients=("agent", "go"),
        obstacle=no_link,
    )


MEASUREMENTS: Final = (_long_link(100, 0), _long_link(200, 0), _long_link(100, 1), _long_link(200, 1))
