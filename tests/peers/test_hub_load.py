"""The hub under load beside gorilla's, with real clients: what no client loses, processor time, memory."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import TestCase

from benchmarks import hub
from benchmarks.programs import forget_peak, peak_mb, resident_mb
from pipeops_agent.realtime import CHUNK
from pipeops_agent.realtime.events import EVENT_BYTES
from tests.peers.building import gohub
from tests.peers.processes import Program, real_reactor

MB = 1e6

STUCK = 20
BOUND = (EVENT_BYTES + STUCK * 2 * CHUNK) / MB + 6
"""Megabytes by which the process may grow: the ring, 128 KiB for each client that reads nothing, and some."""


class LoadTests(TestCase):
    """One hub, many clients."""

    timeout = 240

    async def start(self, which: str, *options: str) -> tuple[Program, Program]:
        gohub()
        directory = Path.cwd()
        program, port = await hub.start(real_reactor(), which, directory)
        self.addCleanup(program.stop)
        clients = await hub.connect(real_reactor(), port, directory, *options)
        self.addCleanup(clients.stop)
        return program, clients

    async def test_stuck(self) -> None:
        """Clients that read nothing cost nobody a message, and the agent no more memory than is stated."""
        program, clients = await self.start("agent", "-clients=10", f"-stuck={STUCK}")
        await hub.load(program, clients, "burst", messages=2000)
        forget_peak(program.pid)
        before = resident_mb(program.pid)
        for _ in range(3):
            _, report = await hub.load(program, clients, "burst", messages=10_000)
            self.assertEqual(report["least"], 10_000)
        self.assertLess(peak_mb(program.pid) - before, BOUND)

    async def test_processor_time(self) -> None:
        """A delivery takes at most three times gorilla's processor time, measured one after the other."""
        taken: dict[str, float] = {}
        for which in ("agent", "gorilla"):
            program, clients = await self.start(which, "-clients=100")
            await hub.load(program, clients, "burst", messages=200)
            done, report = await hub.load(program, clients, "burst", messages=2000)
            taken[which] = done["cpu"] / report["deliveries"]
            await clients.stop()
            await program.stop()
        self.assertLess(taken["agent"], 3 * taken["gorilla"], taken)

    async def test_idle(self) -> None:
        """A client that does nothing takes at most 30 KB."""
        program, clients = await self.start("agent", "-clients=50")
        before = resident_mb(program.pid)
        port = program.seen("listening")[0]["port"]
        more = await hub.connect(real_reactor(), port, Path.cwd(), "-clients=500")
        self.addCleanup(more.stop)
        self.assertLess((resident_mb(program.pid) - before) * 1e3 / 500, 30)
        self.assertEqual(clients.status, None)
