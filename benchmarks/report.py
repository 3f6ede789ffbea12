"""Results for people (a Markdown table) and for programs (JSON)."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

import pipeops_agent
from benchmarks.clients import Client
from benchmarks.model import Figure, Measurement, Results

CONGESTION_CONTROL: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")
"""It decides what a link that loses packets can carry."""


def table(results: Results, measurements: Sequence[Measurement], clients: Sequence[Client]) -> str:
    """
    A row for each figure: median (least-greatest) by client, and the agent's ratio to each other client.

    A ratio is the median of the runs' ratios, not the ratio of the medians. Who took no part has no column.
    """
    first, *others = [
        client
        for client in clients
        if any(results.values.get(each.name, {}).get(client.name) for each in measurements)
    ] or clients
    heads = ["", "unit", first.title]
    for other in others:
        heads += [other.title, f"{first.title} / {other.title}"]
    rows = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for measurement in measurements:
        for figure in measurement.figures:
            row = [figure.title, figure.unit, _cell(results.series(measurement, first.name, figure), figure)]
            for other in others:
                ratio = results.ratio(measurement, figure, first.name, other.name)
                row.append(_cell(results.series(measurement, other.name, figure), figure))
                row.append("" if ratio is None else f"{ratio:.2f}")
            if any(row[2:]):
                rows.append(row)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(values: Sequence[float], figure: Figure) -> str:
    if not values:
        return ""
    middle, least, most = (
        f"{value:,.{figure.digits}f}" for value in (median(values), min(values), max(values))
    )
    return f"{middle} ({least}-{most})" if len(values) > 1 else middle


def raw(results: Results, runs: int) -> str:
    """All values as JSON, with what they were measured on."""
    document = {"machine": dict(machine()), "runs": runs, "values": results.values}
    return json.dumps(document, indent=1) + "\n"


def sources_digest() -> str:
    """A short hash of the agent's own source files: which version it is that was measured."""
    digest = hashlib.sha256()
    for path in sorted(Path(pipeops_agent.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def machine() -> Iterator[tuple[str, str]]:
    """What the figures depend on."""
    yield "agent", f"{pipeops_agent.__version__} ({sources_digest()})"
    yield "cores", str(os.cpu_count())
    yield "processor", _processor()
    yield "kernel", platform.release()
    yield "Python", platform.python_version()
    for name in ("Twisted", "autobahn", "cryptography", "msgspec"):
        yield name, version(name)
    yield "Go", _says(shutil.which("go"), "version")
    yield "chisel", _says(os.environ.get("CHISEL"), "--version")
    yield "TCP's congestion control", CONGESTION_CONTROL.read_text(encoding="utf-8").strip()
    yield "load average", " ".join(f"{load:.2f}" for load in os.getloadavg())


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _says(program: str | None, question: str) -> str:
    if not program:
        return "none"
    return subprocess.run(
        [program, question], capture_output=True, text=True, timeout=30, check=True
    ).stdout.strip()
