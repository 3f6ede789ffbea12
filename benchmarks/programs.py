"""Programs under measurement: how they are started, and what the kernel says of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.peers.building import gochisel
from tests.peers.processes import Parser, Program, RealReactor

ROOT: Final = Path(__file__).resolve().parents[1]
"""The checkout: programs in Python run from it, installed or not."""

MB: Final = 1e6

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def spawn(
    reactor: RealReactor,
    arguments: Sequence[str],
    parse: Parser,
    directory: Path,
    *,
    network: str = "",
    environ: Mapping[str, str] | None = None,
    stop_signal: str | None = "TERM",
) -> Program:
    """
    Start C{arguments} in C{directory}; it dies with this process, however that ends.

    @param network: the file of the network namespace to run in; empty: this process's own.
    @param stop_signal: as for L{Program.start}.
    @param environ: all of its environment besides C{PATH}, C{HOME} and C{PYTHONPATH}.
    """
    program = Program(reactor, parse, stop_signal)
    leash = gochisel()
    where = [f"-net={network}"] if network else []
    reactor.spawnProcess(
        program,
        leash,
        [leash, "leash", *where, *arguments],
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(directory),
            "PYTHONPATH": str(ROOT),
            **(environ or {}),
        },
        path=str(directory),
    )
    return program


def cpu_seconds(pid: int) -> float:
    """Processor time that the process has used, all threads, user and system, in steps of 10 ms."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / _TICKS


def resident_mb(pid: int) -> float:
    """The process's resident set, in megabytes (10^6 bytes); exact, unlike the one in C{status}."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024 / MB
    raise RuntimeError("smaps_rollup has no Rss line")


def peak_mb(pid: int) -> float:
    """The largest resident set since L{forget_peak}, in megabytes (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / MB
    raise RuntimeError("status has no VmHWM line")


def forget_peak(pid: int) -> None:
    """Let L{peak_mb} begin anew: proc(5) has the meaning of the number."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
