"""Measurements of the tunnel under load."""

from __future__ import annotations

from functools import partial
from typing import Final

from benchmarks.clients import Client, Launched
from benchmarks.lab import Lab
from benchmarks.model import Figure, Measurement, Scale, Values
from benchmarks.programs import cpu_seconds, resident_mb
from pipeops_agent.scheduling import sleep
from tests.peers.harness import ServerPeer

GB: Final = 1e9
SETTLE: Final = 1.0
"""Seconds between opening channels and looking at the memory."""

_WARM_UP: Final = 1 << 20
"""Bytes that go through, checked by their SHA-256, before what is measured, which is not checked."""


async def connected(lab: Lab, client: Client) -> tuple[ServerPeer, Launched]:
    """A fresh server, a fresh client, and a tunnel between them to the load service; proven by use."""
    services = await lab.services()
    server = await lab.server()
    launched = client.launch(lab, server, services["load"])
    await launched.program.wait_for("configured")
    await lab.load("both", launched.port, n=_WARM_UP)
    return server, launched


async def _transfer(lab: Lab, client: Client, scale: Scale, *, mode: str, conns: int) -> Values:
    """
    One transfer.

    @param mode: as the load sees it: C{down} comes from behind the client, to the server.
    """
    server, launched = await connected(lab, client)
    pids = {"cpu": launched.program.pid, "server_cpu": server.program.pid}
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    figures = await lab.load(mode, launched.port, n=scale.volume, c=conns, check=False)
    used = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    return {
        "rate": figures["mb_per_s"],
        **{name: seconds / (figures["bytes"] / GB) for name, seconds in used.items()},
    }


async def _round_trips(lab: Lab, client: Client, scale: Scale) -> Values:
    _, launched = await connected(lab, client)
    figures = await lab.load("rtt", launched.port, n=scale.round_trips, s=64)
    return {name: figures[f"{name}_us"] / 1000 for name in ("p50", "p99")}


async def _connections(lab: Lab, client: Client, scale: Scale, *, conns: int) -> Values:
    _, launched = await connected(lab, client)
    count = scale.connections * (1 if conns == 1 else 2)
    figures = await lab.load("conn", launched.port, n=count, c=conns)
    return {"rate": figures["per_s"]}


async def _memory(lab: Lab, client: Client, scale: Scale) -> Values:
    """Resident memory before the first channel, after the first, and with many open."""
    services = await lab.services()
    launched = client.launch(lab, await lab.server(), services["load"])
    await launched.program.wait_for("configured")
    pid = launched.program.pid
    await sleep(lab.reactor, SETTLE)
    unused = resident_mb(pid)
    await lab.load("rtt", launched.port, n=10)
    used = resident_mb(pid)
    holder = await lab.open_channels(launched.port, scale.channels)
    await sleep(lab.reactor, SETTLE)
    held = resident_mb(pid)
    await lab.close_channels(holder)
    await sleep(lab.reactor, SETTLE)
    return {
        "unused": unused,
        "held": held,
        "added": held - unused,
        "added_after_first": held - used,
        "closed": resident_mb(pid),
    }


def _throughput(name: str, mode: str, where: str, conns: int) -> Measurement:
    at_once = f"{conns} connection{'s' if conns > 1 else ''}"
    return Measurement(
        f"{name}-{conns}",
        (
            Figure("rate", f"throughput {where}, {at_once}", "MB/s", 0, more_is_better=True),
            Figure("cpu", f"client's CPU {where}, {at_once}", "s/GB", 2),
            Figure("server_cpu", f"server's CPU meanwhile, {at_once}", "s/GB", 2),
        ),
        partial(_transfer, mode=mode, conns=conns),
    )


def _new_connections(conns: int) -> Measurement:
    title = "new connections, one at a time" if conns == 1 else f"new connections, {conns} at a time"
    figure = Figure("rate", title, "1/s", 0, more_is_better=True)
    return Measurement(f"connections-{conns}", (figure,), partial(_connections, conns=conns))


MEASUREMENTS: Final = (
    _throughput("to-server", "down", "to the server", 1),
    _throughput("to-server", "down", "to the server", 8),
    _throughput("from-server", "up", "from the server", 1),
    _throughput("from-server", "up", "from the server", 8),
    Measurement(
        "round-trip",
        (
            Figure("p50", "round trip of 64 bytes, p50", "ms", 3),
            Figure("p99", "round trip of 64 bytes, p99", "ms", 3),
        ),
        _round_trips,
    ),
    _new_connections(1),
    _new_connections(32),
    Measurement(
        "memory",
        (
            Figure("unused", "RSS connected, before the first channel", "MB"),
            Figure("held", "RSS with 1,000 channels open", "MB"),
            Figure("added", "added by 1,000 channels, from before the first", "MB"),
            Figure("added_after_first", "added by 1,000 channels, from after the first", "MB"),
        ),
        _memory,
    ),
)
