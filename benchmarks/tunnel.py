"""Measurements of the tunnel under load."""

from __future__ import annotations

from functools import partial
from typing import Final

from benchmarks.clients import Client, Launched
from benchmarks.lab import Lab
from benchmarks.model import Figure, Measurement, Scale, Values
from benchmarks.programs import cpu_seconds, peak_mb, resident_mb
from pipeops_agent.scheduling import sleep
from tests.peers.harness import ServerPeer
from tests.peers.processes import Event

GB: Final = 1e9
SETTLE: Final = 1.0
"""Seconds between opening channels and looking at the memory."""

_WARM_UP: Final = 1 << 20
"""Bytes that go through, checked by their SHA-256, before what is measured, which is not checked."""

_SMALL_BUFFER: Final = 64 * 1024
"""
Bytes that the kernel holds for each of very many connections, in load and service.

Where it chooses, a thousand of them use up all that TCP may have (C{tcp_mem}): it drops what comes then, on
the tunnel's own connection too, and what would be measured is that.
"""

_ALL: Final = ("agent", "go", "conch")
_WITH_TLS: Final = ("agent", "go")
_OVER_TLS: Final = ", over TLS"


async def connected(
    lab: Lab, client: Client, *, tls: bool = False, buffer: int = 0
) -> tuple[ServerPeer, Launched]:
    """
    A fresh server, a fresh client, and a tunnel between them to the load service; proven by use.

    @param buffer: as for L{Lab.services}.
    """
    services = await lab.services(buffer=buffer)
    server = await lab.server(tls=tls)
    launched = client.launch(lab, server, services["load"])
    await launched.program.wait_for("configured")
    await lab.load("both", launched.port, n=_WARM_UP)
    return server, launched


async def _transfer(lab: Lab, client: Client, scale: Scale, *, mode: str, conns: int, tls: bool) -> Values:
    """
    One transfer.

    @param mode: as the load sees it: C{down} comes from behind the client, to the server.
    """
    server, launched = await connected(lab, client, tls=tls)
    pids = {"cpu": launched.program.pid, "server_cpu": server.program.pid}
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    figures = await lab.load(mode, launched.port, n=scale.volume, c=conns, check=False)
    used = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    return {
        "rate": figures["mb_per_s"],
        **{name: seconds / (figures["bytes"] / GB) for name, seconds in used.items()},
    }


async def _round_trips(lab: Lab, client: Client, scale: Scale, *, tls: bool) -> Values:
    _, launched = await connected(lab, client, tls=tls)
    return round_trips(await lab.load("rtt", launched.port, n=scale.round_trips, s=64))


def round_trips(figures: Event) -> Values:
    """What the load says of round trips, in milliseconds."""
    return {name: figures[f"{name}_us"] / 1000 for name in ("p50", "p99")}


async def steady(
    lab: Lab,
    where: int | str,
    scale: Scale,
    mode: str,
    *,
    conns: int = 1,
    probe: bool = False,
    buffer: int = 0,
) -> Event:
    """
    Connections that move data all the time: their rates, after a warm-up.

    @param where: as for L{Lab.load}.
    @param probe: measure round trips beside them.
    @param buffer: as for L{Lab.services}.
    """
    seconds = f"{scale.steady_seconds}s"
    times = {"warm": seconds, "for": seconds}
    return await lab.load(f"steady-{mode}", where, c=conns, s=64, probe=probe, buffer=buffer, **times)


async def _beside_bulk(lab: Lab, client: Client, scale: Scale, *, mode: str) -> Values:
    """Round trips on one channel while another moves all that it can."""
    _, launched = await connected(lab, client)
    figures = await steady(lab, launched.port, scale, mode, probe=True)
    return {**round_trips(figures), "rate": figures["mb_per_s"], "count": figures["count"]}


async def _fairness(lab: Lab, client: Client, scale: Scale, *, mode: str) -> Values:
    """The rates of many channels that move all that they can."""
    _, launched = await connected(lab, client, buffer=_SMALL_BUFFER)
    pid = launched.program.pid
    before = cpu_seconds(pid)
    figures = await steady(lab, launched.port, scale, mode, conns=scale.channels, buffer=_SMALL_BUFFER)
    return {
        "fairness": figures["slowest"] / figures["fastest"] if figures["fastest"] else 0.0,
        "rate": figures["mb_per_s"],
        "peak": peak_mb(pid),
        "cpu_seconds": cpu_seconds(pid) - before,
        **{name: figures[name] for name in ("slowest", "p10", "p90", "fastest")},
    }


async def _connections(lab: Lab, client: Client, scale: Scale, *, conns: int, tls: bool) -> Values:
    _, launched = await connected(lab, client, tls=tls)
    count = scale.connections * (1 if conns == 1 else 2)
    figures = await lab.load("conn", launched.port, n=count, c=conns)
    return {"rate": figures["per_s"]}


async def _memory(lab: Lab, client: Client, scale: Scale, *, used_before: bool) -> Values:
    """
    Resident memory before the first channel, after the first, and with many open.

    @param used_before: each of them has carried much before it idles.
    """
    services = await lab.services()
    launched = client.launch(lab, await lab.server(), services["load"])
    await launched.program.wait_for("configured")
    pid = launched.program.pid
    await sleep(lab.reactor, SETTLE)
    unused = resident_mb(pid)
    await lab.load("rtt", launched.port, n=10)
    used = resident_mb(pid)
    holder = await lab.open_channels(launched.port, scale.channels, use=scale.first_use if used_before else 0)
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


def _throughput(name: str, mode: str, where: str, conns: int, *, tls: bool = False) -> Measurement:
    at_once = f"{conns} connection{'s' if conns > 1 else ''}{_OVER_TLS if tls else ''}"
    return Measurement(
        f"{name}-{conns}{'-tls' if tls else ''}",
        (
            Figure("rate", f"throughput {where}, {at_once}", "MB/s", 0, more_is_better=True),
            Figure("cpu", f"client's CPU {where}, {at_once}", "s/GB", 2),
            Figure("server_cpu", f"server's CPU meanwhile, {at_once}", "s/GB", 2),
        ),
        partial(_transfer, mode=mode, conns=conns, tls=tls),
        clients=_WITH_TLS if tls else _ALL,
    )


def _idle_round_trips(*, tls: bool = False) -> Measurement:
    title = f"round trip of 64 bytes{_OVER_TLS if tls else ''}"
    return Measurement(
        f"round-trip{'-tls' if tls else ''}",
        (Figure("p50", f"{title}, p50", "ms", 3), Figure("p99", f"{title}, p99", "ms", 3)),
        partial(_round_trips, tls=tls),
        clients=_WITH_TLS if tls else _ALL,
    )


def _busy_round_trips(name: str, mode: str, where: str) -> Measurement:
    title = f"round trip of 64 bytes beside a transfer {where}"
    return Measurement(
        f"round-trip-beside-{name}",
        (
            Figure("p50", f"{title}, p50", "ms", 2),
            Figure("p99", f"{title}, p99", "ms", 2),
            Figure("rate", f"throughput {where} meanwhile", "MB/s", 0, more_is_better=True),
        ),
        partial(_beside_bulk, mode=mode),
    )


def _fair_shares(name: str, mode: str, where: str) -> Measurement:
    return Measurement(
        f"fairness-{name}",
        (
            Figure("fairness", f"1,000 channels {where}: slowest / fastest", "", 2, more_is_better=True),
            Figure("rate", f"1,000 channels {where}: throughput", "MB/s", 0, more_is_better=True),
            Figure("peak", f"1,000 channels {where}: largest RSS", "MB", 0),
        ),
        partial(_fairness, mode=mode),
    )


def _new_connections(conns: int, *, tls: bool = False) -> Measurement:
    title = "new connections, one at a time" if conns == 1 else f"new connections, {conns} at a time"
    return Measurement(
        f"connections-{conns}{'-tls' if tls else ''}",
        (Figure("rate", title + (_OVER_TLS if tls else ""), "1/s", 0, more_is_better=True),),
        partial(_connections, conns=conns, tls=tls),
        clients=_WITH_TLS if tls else _ALL,
    )


MEASUREMENTS: Final = (
    _throughput("to-server", "down", "to the server", 1),
    _throughput("to-server", "down", "to the server", 8),
    _throughput("from-server", "up", "from the server", 1),
    _throughput("from-server", "up", "from the server", 8),
    _throughput("to-server", "down", "to the server", 1, tls=True),
    _throughput("from-server", "up", "from the server", 1, tls=True),
    _idle_round_trips(),
    _idle_round_trips(tls=True),
    _busy_round_trips("to-server", "down", "to the server"),
    _busy_round_trips("from-server", "up", "from the server"),
    _fair_shares("to-server", "down", "to the server"),
    _fair_shares("from-server", "up", "from the server"),
    _new_connections(1),
    _new_connections(32),
    _new_connections(1, tls=True),
    _new_connections(32, tls=True),
    Measurement(
        "memory",
        (
            Figure("unused", "RSS connected, before the first channel", "MB"),
            Figure("held", "RSS with 1,000 channels open", "MB"),
            Figure("added", "added by 1,000 channels, from before the first", "MB"),
            Figure("added_after_first", "added by 1,000 channels, from after the first", "MB"),
        ),
        partial(_memory, used_before=False),
    ),
    Measurement(
        "memory-used",
        (
            Figure("added_after_first", "added by 1,000 channels that have carried 1 MiB each way", "MB"),
            Figure("closed", "RSS after they were closed", "MB"),
        ),
        partial(_memory, used_before=True),
    ),
)
