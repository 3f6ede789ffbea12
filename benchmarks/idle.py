"""Measurements of a client that has nothing to do: memory, processor time, bytes on the wire."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from benchmarks.clients import TOKEN, Client, python_program, start_agent
from benchmarks.lab import Lab
from benchmarks.model import Figure, Measurement, Scale, Values
from benchmarks.programs import cpu_seconds, resident_mb
from benchmarks.relay import SEGMENT_HEADERS, CountingRelay, Snapshot
from pipeops_agent.scheduling import sleep
from tests.peers.harness import free_port
from tests.peers.processes import Event, Program

SETTLE: Final = 6.0
"""Seconds after the tunnel is up, more than one poll interval: what a start costs is over."""


async def _idle(lab: Lab, client: Client, scale: Scale) -> Values:
    return await _idle_agent(lab, scale) if client.name == "agent" else await _idle_client(lab, client, scale)


async def _idle_agent(lab: Lab, scale: Scale) -> Values:
    """
    Two agents with the defaults, each with a sandbox.

    One has TLS, as agents run: its memory and CPU count. One has none: it shows what the bytes are.
    """
    agent, deployed = await _agent_with_sandbox(lab, tls=True)
    _, plain = await _agent_with_sandbox(lab, tls=False)
    await sleep(lab.reactor, min(SETTLE, scale.idle_seconds))
    began, cpu = lab.reactor.seconds(), cpu_seconds(agent.pid)
    before = deployed.snapshot(), plain.snapshot()
    await sleep(lab.reactor, scale.idle_seconds)
    seconds, cpu = lab.reactor.seconds() - began, cpu_seconds(agent.pid) - cpu
    on_the_wire, clear = deployed.snapshot().since(before[0]), plain.snapshot().since(before[1])
    tls = on_the_wire.payload.get("tls", 0)
    return {
        "rss": resident_mb(agent.pid),
        "cpu": 100 * cpu / seconds,
        "http": clear.payload.get("http", 0) / seconds,
        "carrier": clear.payload.get("carrier", 0) / seconds,
        "tls": tls / seconds,
        "wire": (tls + on_the_wire.segments * SEGMENT_HEADERS) / seconds,
        **_messages(clear, seconds),
    }


async def _idle_client(lab: Lab, client: Client, scale: Scale) -> Values:
    """A client with a tunnel and nothing else."""
    services = await lab.services()
    server = await lab.server()
    relay = _relay(lab, server.port)
    behind = replace(server, url=f"ws://127.0.0.1:{relay.port}")
    program = client.launch(lab, behind, services["load"]).program
    await program.wait_for("configured")
    await sleep(lab.reactor, min(SETTLE, scale.idle_seconds))
    began, cpu, before = lab.reactor.seconds(), cpu_seconds(program.pid), relay.snapshot()
    await sleep(lab.reactor, scale.idle_seconds)
    seconds, cpu = lab.reactor.seconds() - began, cpu_seconds(program.pid) - cpu
    passed = relay.snapshot().since(before)
    return {
        "rss": resident_mb(program.pid),
        "cpu": 100 * cpu / seconds,
        "carrier": passed.payload.get("carrier", 0) / seconds,
        **_messages(passed, seconds),
    }


async def _agent_with_sandbox(lab: Lab, *, tls: bool) -> tuple[Program, CountingRelay]:
    """An agent whose tunnel is up, and the relay through which everything goes that it sends."""
    port, directory = free_port(), lab.directory / ("tls" if tls else "plain")
    sandbox = _start_sandbox(lab, port, directory, tls=tls)
    url = (await sandbox.wait_for("listening"))["url"]
    relay = _relay(lab, port)
    program, _ = start_agent(
        lab,
        f"{urlsplit(url).scheme}://127.0.0.1:{relay.port}",
        {"allow_insecure": not tls},
        ca_file=str(directory / "ca.pem") if tls else "",
    )
    await program.wait_for("configured")
    return program, relay


def _start_sandbox(lab: Lab, port: int, directory: Path, *, tls: bool) -> Program:
    directory.mkdir(mode=0o700)
    token = directory / "token"
    token.write_text(TOKEN, encoding="utf-8")
    options = ["--port", str(port), "--tls-dir", str(directory), "--token-file", str(token)]
    return lab.start(_sandbox_lines, *python_program("pipeops-sandbox", *options, *(["--tls"] * tls)))


def _relay(lab: Lab, port: int) -> CountingRelay:
    relay = CountingRelay(lab.reactor, port)
    lab.addCleanup(relay.stop)
    return relay


def _sandbox_lines(line: str) -> Event | None:
    _, _, said = line.partition("the sandbox is ready at ")
    return {"event": "listening", "url": said.split()[0]} if said else None


def _messages(passed: Snapshot, seconds: float) -> Values:
    """What the bytes are made of: per message its size, and its share of the bytes per second."""
    parts: dict[str, float] = {}
    for name, (size, times) in sorted(passed.messages.items()):
        if times:
            parts[f"{name}: bytes each"] = size / times
            parts[f"{name}: bytes/s"] = size / seconds
    return parts


MEASUREMENTS: Final = (
    Measurement(
        "idle",
        (
            Figure("rss", "RSS idle", "MB"),
            Figure("cpu", "CPU idle", "% of a core", 2),
            Figure("http", "HTTP, idle, without TLS", "B/s", 0),
            Figure("carrier", "tunnel, idle, without TLS", "B/s", 0),
            Figure("tls", "both, idle, with TLS", "B/s", 0),
            Figure("wire", "both, idle, with TLS, TCP and IP", "B/s", 0),
        ),
        _idle,
        clients=("agent", "go"),
    ),
)
