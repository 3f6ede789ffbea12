"""
Where the agent's processor time goes under load: C{python -m benchmarks.profile}.

A sampling profiler, py-spy, looks at the agent from outside while load is put on it. A sample counts for the
layer of the function that was running, which is told by its file and name. Calls into the kernel and into C
are no functions to it: they count for the line of Python that calls them.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import SkipTest

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from benchmarks.clients import AgentClient
from benchmarks.lab import Lab
from benchmarks.tunnel import connected
from pipeops_agent.scheduling import sleep
from tests.peers.building import gochisel
from tests.peers.processes import Event, RealReactor

SAMPLES_A_SECOND: Final = 250

_START_UP: Final = 30.0
"""Seconds more than it samples that the profiler may take."""

_LAYERS: Final = tuple(
    (layer, re.compile(pattern))
    for layer, pattern in (
        ("the kernel: send", r"untilConcludes \(twisted/python/util\.py"),
        ("the kernel: receive", r"\bdoRead \(twisted/internet/tcp\.py"),
        ("the kernel: epoll, and waiting in it", r"\bdoPoll \(twisted/internet/epollreactor\.py"),
        ("TLS", r"\((twisted/protocols/tls|OpenSSL/)"),
        ("frames and masking", r"\(pipeops_agent/tunnel/(frames|masking|randomness)\.py"),
        (
            "SSH packets: AES-GCM and what surrounds it",
            r"\((pipeops_agent/tunnel/ssh/packets\.py|cryptography/)",
        ),
        ("SSH transport and channels, relay, carrier", r"\((pipeops_agent/tunnel/|twisted/conch/)"),
        ("Twisted's reactor, transports, sockets", r"\(twisted/"),
        ("what else the agent does", r""),
    )
)
"""The first that fits the running function, written C{name (file:line)}."""

LAYERS: Final = tuple(layer for layer, _ in _LAYERS)


@dataclass(frozen=True)
class Workload:
    """
    What the agent does while it is watched.

    @ivar title: in the table.
    @ivar mode: as the load names it.
    @ivar count: its C{-n}: bytes, messages or connections, which take about a second; it is put on again
        and again.
    """

    title: str
    mode: str
    count: int


WORKLOADS: Final[Mapping[str, Workload]] = {
    "to-server": Workload("to the server", "down", 256 << 20),
    "from-server": Workload("from the server", "up", 256 << 20),
    "round-trip": Workload("round trips", "rtt", 4000),
    "connections": Workload("new connections", "conn", 1000),
}


def layer_of(function: str) -> str:
    """The layer of a function as py-spy writes it."""
    return next(layer for layer, pattern in _LAYERS if pattern.search(function))


def shares(lines: Iterable[str]) -> Counter[str]:
    """
    Count samples by layer.

    @param lines: py-spy's raw format: functions from the outermost to the running one, with semicolons
        between, a blank, and the number of samples.
    """
    counted: Counter[str] = Counter()
    for line in lines:
        stack, _, samples = line.rpartition(" ")
        counted[layer_of(stack.rpartition(";")[2])] += int(samples)
    return counted


def table(columns: Mapping[str, Counter[str]]) -> str:
    """
    A row for each layer, with its share of each column's samples.

    @param columns: samples by layer, by the workload's title.
    """
    rows = [["", *columns], ["---", *["---:"] * len(columns)]]
    rows += [
        [layer, *(_percent(samples, layer) for samples in columns.values())]
        for layer in LAYERS
        if any(samples[layer] for samples in columns.values())
    ]
    rows.append(["samples", *(str(samples.total()) for samples in columns.values())])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _percent(samples: Counter[str], layer: str) -> str:
    return f"{100 * samples[layer] / max(samples.total(), 1):.0f} %"


def profiler() -> str:
    """
    The path of py-spy.

    @raise SkipTest: it is not installed.
    """
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise SkipTest("py-spy is not installed (it comes with the extra named test)")
    return found


async def watch(
    reactor: RealReactor, workload: Workload, seconds: float, samples: Path, *, tls: bool = False
) -> None:
    """
    Run a fresh agent under C{workload} for C{seconds}, and write what was running to C{samples}.

    @param samples: the file's absolute path; its format is py-spy's raw one.
    @param tls: the carrier is encrypted as well.
    """
    lab = Lab(reactor)
    try:
        _, launched = await connected(lab, AgentClient(), tls=tls)
        stop: list[None] = []
        loading = Deferred.fromCoroutine(_load(lab, launched.port, workload, stop))
        await sleep(reactor, 1.0)
        options = ["--format", "raw", "--rate", str(SAMPLES_A_SECOND), "--duration", f"{seconds:.0f}"]
        options += ["--pid", str(launched.program.pid), "--output", str(samples)]
        spying = lab.start(_no_event, profiler(), "record", *options)
        status = await spying.ended(seconds + _START_UP)
        stop.append(None)
        await loading
        if status != 0:
            raise RuntimeError(f"py-spy ended with status {status}: may this user look into other processes?")
    finally:
        await lab.clean()


async def _load(lab: Lab, port: int, workload: Workload, stop: Sequence[None]) -> None:
    """Put the load on, again and again, until there is something in C{stop}."""
    while not stop:
        await lab.load(workload.mode, port, n=workload.count, s=64, check=False)


def _no_event(line: str) -> Event | None:
    return None


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=(__doc__ or "").strip())
    parser.add_argument("--seconds", type=int, default=6, help="of each workload (default 6)")
    parser.add_argument("--only", action="append", choices=WORKLOADS, help="this workload; may be repeated")
    parser.add_argument("--tls", action="store_true", help="the carrier over TLS")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument(
        "--stacks", type=Path, metavar="DIRECTORY", help="keep all stacks there, for flame graphs"
    )
    return parser.parse_args(arguments)


async def watch_all(reactor: Any, options: argparse.Namespace, directory: Path) -> None:
    """
    Do what the command line asks for.

    @param directory: for the stacks, a file for each workload.
    """
    columns = {}
    for name, workload in WORKLOADS.items():
        if options.only and name not in options.only:
            continue
        samples = directory / f"{name}.txt"
        await watch(reactor, workload, options.seconds, samples, tls=options.tls)
        with samples.open(encoding="utf-8") as lines:
            columns[workload.title] = shares(lines)
    shown = table(columns)
    print(shown)
    if options.markdown:
        options.markdown.write_text(shown, encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Run to the end of the process."""
    options = parse(arguments)
    try:
        gochisel()
        profiler()
    except SkipTest as reason:
        sys.exit(f"nothing can be measured: {reason}")
    with tempfile.TemporaryDirectory(prefix="pipeops-profile-") as room:
        directory = (options.stacks or Path(room)).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        react(lambda reactor: Deferred.fromCoroutine(watch_all(reactor, options, directory)))


if __name__ == "__main__":
    main(sys.argv[1:])
