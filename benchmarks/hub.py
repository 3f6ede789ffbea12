"""
C{/ws} beside a hub on Go's gorilla: C{python -m benchmarks.hub}.

Both have the same clients, a program in Go (C{tests/peers/gohub}), a hundred that read and one that never
does, and take turns. A message has 200 bytes. In a burst they are sent as fast as they are taken; in the
steady load at 2,000 a second, which is 200,000 deliveries. Processor time is that of the hub alone; a latency
is from before a message is made until a client has read it. At last a thousand clients do nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from benchmarks.hub_server import CHANNEL, TOKEN
from benchmarks.programs import peak_mb, resident_mb, spawn
from pipeops_agent.scheduling import sleep
from tests.peers.building import gohub
from tests.peers.processes import Event, Program, RealReactor, json_lines

CLIENTS: Final = 100
IDLE: Final = 1000
RATE: Final = 2000
SUBSCRIBE: Final = f'{{"type":"subscribe","data":{{"channels":["{CHANNEL}"]}}}}'
_PATIENCE: Final = 120.0

Figures = Mapping[str, float]

_ROWS: Final = (
    ("deliveries/s, in a burst", "rate", "{:,.0f}"),
    ("processor time for a delivery, in a burst (µs)", "burst_cpu", "{:.2f}"),
    ("processor time for a delivery at 2,000 messages/s (µs)", "steady_cpu", "{:.2f}"),
    ("latency at 2,000 messages/s: median (ms)", "p50", "{:.1f}"),
    ("… 99 of 100 within (ms)", "p99", "{:.1f}"),
    ("memory at most, with a client that never reads (MB)", "peak", "{:.0f}"),
    ("memory for a client that does nothing (KB)", "idle", "{:.1f}"),
)


async def start(reactor: RealReactor, which: str, directory: Path) -> tuple[Program, int]:
    """Start a hub; return it and its port."""
    ours = [sys.executable, "-m", "benchmarks.hub_server"]
    program = spawn(reactor, ours if which == "agent" else [gohub(), "hub"], json_lines, directory)
    return program, int((await program.wait_for("listening", timeout=_PATIENCE))["port"])


async def connect(reactor: RealReactor, port: int, directory: Path, *options: str) -> Program:
    """Start clients of a hub; they are all there when this returns."""
    where = f"-url=ws://127.0.0.1:{port}/ws"
    arguments = [gohub(), "readers", where, f"-token={TOKEN}", f"-subscribe={SUBSCRIBE}", *options]
    program = spawn(reactor, arguments, json_lines, directory)
    await program.wait_for("ready", timeout=_PATIENCE)
    await sleep(reactor, 0.5)
    return program


async def load(hub: Program, clients: Program, do: str, **how: float) -> tuple[Event, Event]:
    """Let the hub send; return what it and its clients have to say of it."""
    number = len(hub.seen("done")) + 1
    hub.order(do, **how)
    done = await hub.wait_for("done", count=number, timeout=_PATIENCE)
    clients.order("report", messages=done["messages"])
    report = await clients.wait_for("report", count=number, timeout=_PATIENCE)
    if report["least"] != done["messages"]:
        raise RuntimeError(f"a client got {report['least']} messages of {done['messages']}")
    return done, report


async def measure(reactor: RealReactor, which: str, *, messages: int, seconds: float) -> Figures:
    """One run of one hub."""
    with tempfile.TemporaryDirectory() as room:
        directory = Path(room)
        hub, port = await start(reactor, which, directory)
        clients = await connect(reactor, port, directory, f"-clients={CLIENTS}", "-stuck=1")
        # What is allocated once; and so much that whoever reads nothing takes no more.
        await load(hub, clients, "burst", messages=4 * messages)
        done, report = await load(hub, clients, "burst", messages=messages)
        rate = report["deliveries"] / ((report["last"] - done["began"]) / 1e9)
        burst_cpu = done["cpu"] / report["deliveries"] * 1e6
        done, report = await load(hub, clients, "steady", rate=RATE, seconds=seconds)
        figures = {
            "rate": rate,
            "burst_cpu": burst_cpu,
            "steady_cpu": done["cpu"] / report["deliveries"] * 1e6,
            "p50": report["p50"] * 1e3,
            "p99": report["p99"] * 1e3,
            "peak": peak_mb(hub.pid),
        }
        await clients.stop()
        await hub.stop()
        hub, port = await start(reactor, which, directory)
        before = resident_mb(hub.pid)
        clients = await connect(reactor, port, directory, f"-clients={IDLE}")
        await sleep(reactor, 1.0)
        idle = (resident_mb(hub.pid) - before) * 1e3 / IDLE
        await clients.stop()
        await hub.stop()
        return {**figures, "idle": idle}


def table(runs: Mapping[str, Sequence[Figures]]) -> str:
    """Medians, and the least and greatest value, of each hub; and the median of the ratios."""

    def cell(which: str, name: str, form: str) -> str:
        values = [run[name] for run in runs[which]]
        spread = f" ({form.format(min(values))} to {form.format(max(values))})" if len(values) > 1 else ""
        return form.format(statistics.median(values)) + spread

    lines = ["| 100 clients, 200 bytes | agent | gorilla hub | agent / gorilla |", "|---|---|---|---|"]
    for title, name, form in _ROWS:
        pairs = zip(runs["agent"], runs["gorilla"], strict=True)
        ratio = statistics.median(ours[name] / theirs[name] for ours, theirs in pairs)
        cells = [cell(which, name, form) for which in ("agent", "gorilla")]
        lines.append(f"| {title} | {' | '.join(cells)} | {ratio:.2f} |")
    return "\n".join(lines)


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """The hubs in turn."""
    runs: dict[str, list[Figures]] = {"agent": [], "gorilla": []}
    messages, seconds = (500, 1.0) if options.quick else (5000, 5.0)
    for number in range(1 if options.quick else options.runs):
        for which, figures in runs.items():
            figures.append(await measure(reactor, which, messages=messages, seconds=seconds))
            print(number + 1, which, dict(figures[-1]), file=sys.stderr, flush=True)
    print(table(runs))


def main(arguments: Sequence[str]) -> None:
    """Run to the end of the process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hub", description=(__doc__ or "").strip())
    parser.add_argument("--quick", action="store_true", help="one short run of each: does it work?")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args(arguments)
    react(lambda reactor: Deferred.fromCoroutine(run(reactor, options)))


if __name__ == "__main__":
    main(sys.argv[1:])
