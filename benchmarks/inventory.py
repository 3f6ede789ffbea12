"""
The cluster as the agent keeps it, beside client-go's shared informers: a real API server, many objects.

They are made once for all runs, by POST, and nothing runs them. Each run reads all of them in a new process,
and then hears of a thousand changes a second. Ours is L{benchmarks.inventory_reader}.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, Final, cast
from unittest import SkipTest

import treq
from twisted.web.client import Agent

from benchmarks.clients import AgentClient, Client
from benchmarks.idle import SETTLE
from benchmarks.lab import Lab
from benchmarks.model import Figure, Measurement, Scale, Values
from benchmarks.programs import cpu_seconds, peak_mb, resident_mb
from pipeops_agent.scheduling import DeadlineExceeded, bounded, sleep
from tests.peers.building import goinformer
from tests.peers.kubernetes import KubeCluster, api_server
from tests.peers.processes import Program, json_lines

RATE: Final = 1000
"""Changes a second."""

FILLING: Final = 900.0
"""Seconds in which all objects must have been made."""

READING: Final = 120.0
"""Seconds in which they must have been read, and those in which all changes must have been made at most."""

_PODS: Final = "pipeops_cluster_pods_total"
_STATE: Final = "pipeops_cluster_list_state{"

QUIET: Final = 2.0
"""Seconds without anything to do before the changes begin."""

LATE: Final = 20.0
"""Seconds after the last change until what was not heard of counts as missed: a server may be behind."""


def obstacle() -> str:
    """Why this can't be measured here; empty: it can."""
    try:
        goinformer()
        api_server()
    except (SkipTest, RuntimeError) as error:
        return str(error)
    return ""


class _Filled:
    """The API server with all that is to be read; made once."""

    kube: KubeCluster | None = None


async def filled(lab: Lab, scale: Scale) -> KubeCluster:
    """The API server, with all that is to be read."""
    if _Filled.kube is None:
        kube = api_server()
        counts = (f"-pods={scale.pods}", f"-nodes={scale.nodes}")
        await _go(lab, "fill", f"-kubeconfig={kube.kubeconfig}", *counts).wait_for("filled", timeout=FILLING)
        _Filled.kube = kube
    return _Filled.kube


def _go(lab: Lab, *arguments: str, network: str = "") -> Program:
    return lab.start(json_lines, goinformer(), *arguments, stop_signal=None, network=network)


def _reader(lab: Lab, client: Client, kube: KubeCluster) -> Program:
    """Whoever keeps the objects."""
    if client.name == "agent":
        command = (sys.executable, "-m", "benchmarks.inventory_reader", kube.kubeconfig)
        return lab.start(json_lines, *command, stop_signal=None)
    form = ("-protobuf",) if client.name == "informer-protobuf" else ()
    return _go(lab, "watch", f"-kubeconfig={kube.kubeconfig}", *form)


async def _inventory(lab: Lab, client: Client, scale: Scale) -> Values:
    kube = await filled(lab, scale)
    reader = _reader(lab, client, kube)
    read = await reader.wait_for("synced", timeout=READING)
    await sleep(lab.reactor, QUIET)
    if read["pods"] < scale.pods or read["nodes"] < scale.nodes:  # there may be more, of a test's
        raise RuntimeError(f"{client.name} has read {read['pods']} pods and {read['nodes']} nodes")
    peak = peak_mb(reader.pid)
    options = (f"-pods={scale.pods}", f"-rate={RATE}", f"-for={scale.changing_seconds}s")
    changing = _go(lab, "change", *options, network=f"/run/netns/{kube.network}")
    done = await changing.wait_for("done", timeout=scale.changing_seconds + READING)
    with suppress(DeadlineExceeded):
        await reader.wait_for("heard", changes=done["changes"], timeout=LATE)
    changed_peak = peak_mb(reader.pid)
    await reader.stop()
    (heard,) = reader.seen("changed")
    values = {
        "seconds": read["seconds"],
        "cpu": read["cpu"],
        "peak": peak,
        "missed": done["changes"] - heard["changes"],
        "rate": done["changes"] / done["seconds"],
        "change_cpu": 1e6 * heard["cpu"] / done["changes"],
        "change_peak": changed_peak,
    }
    for name in ("lag_p99", "lag_max"):
        if name in heard:
            values |= {name: heard[name], f"reading_{name}": read[name]}
    return values


async def _whole_agent(lab: Lab, client: Client, scale: Scale) -> Values:
    """The agent itself, connected, with all its lists, then with nothing to do."""
    kube = await filled(lab, scale)
    services = await lab.services()
    agent = AgentClient(kubeconfig=kube.kubeconfig)
    launched = agent.launch(lab, await lab.server(), services["load"])
    await launched.program.wait_for("configured")
    await bounded(lab.reactor, READING, _all_kept(lab, launched.web_port, scale), "reading all lists")
    kept = lab.reactor.seconds() - launched.began
    pid = launched.program.pid
    await sleep(lab.reactor, SETTLE)
    began, cpu = lab.reactor.seconds(), cpu_seconds(pid)
    await sleep(lab.reactor, scale.idle_seconds)
    share = 100 * (cpu_seconds(pid) - cpu) / (lab.reactor.seconds() - began)
    return {"kept": kept, "peak": peak_mb(pid), "rss": resident_mb(pid), "cpu": share}


async def _all_kept(lab: Lab, port: int, scale: Scale) -> None:
    """Ask for the agent's metrics until they show every pod, and no list that is not live."""
    agent = Agent(cast(Any, lab.reactor))
    while True:
        text = await treq.text_content(await treq.get(f"http://127.0.0.1:{port}/metrics", agent=agent))
        series = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        states = {name: value for name, value in series.items() if name.startswith(_STATE)}
        others = [name for name, value in states.items() if 'state="live"' not in name and float(value)]
        if states and not others and float(series.get(_PODS, 0)) >= scale.pods:
            return
        await sleep(lab.reactor, 0.1)


MEASUREMENTS: Final = (
    Measurement(
        "inventory",
        (
            Figure("seconds", "pods and nodes read and kept", "s", 2),
            Figure("cpu", "processor time for that", "s", 2),
            Figure("peak", "largest RSS", "MB", 0),
            Figure("reading_lag_max", "latest timer meanwhile", "ms", 1),
            Figure("rate", "pods changed a second", "1/s", 0, more_is_better=True),
            Figure("missed", "changes missed", "", 0),
            Figure("change_cpu", "processor time for a change", "µs", 0),
            Figure("change_peak", "largest RSS after the changes", "MB", 0),
            Figure("lag_p99", "timers' lateness meanwhile, p99", "ms", 1),
        ),
        _inventory,
        clients=("agent", "informer", "informer-protobuf"),
        obstacle=obstacle,
    ),
    Measurement(
        "cluster",
        (
            Figure("kept", "start of the process to all lists live", "s", 2),
            Figure("peak", "largest RSS", "MB", 0),
            Figure("rss", "RSS idle, with the cluster", "MB", 0),
            Figure("cpu", "CPU idle, with the cluster", "% of a core", 2),
        ),
        _whole_agent,
        clients=("agent",),
        obstacle=obstacle,
    ),
)
