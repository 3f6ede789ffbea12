"""
The whole agent under mixed load for minutes: it holds no more at the end than at the beginning.

The agent runs in this process, so that its objects, timers and descriptors can be counted; server, targets
and load are processes of the Go peer. Transfers with checksums, chatter, short connections, half-closes and
refused dials go on all the time, keys are changed every 32 MiB, and now and then the server drops all of it.

It is compared twice: at rest, before and after, to the last object; and under load, the first third of the
samples with the last. C{PIPEOPS_SOAK_SECONDS} says how long: 1800 in full, 180 where C{CI} is set, else 45.
"""

from __future__ import annotations

import gc
import os
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.control_plane import serve_control_plane
from pipeops_agent.log.repeats import _Window
from pipeops_agent.scheduling import Tasks, sleep
from pipeops_agent.settings import Forward, Settings
from pipeops_agent.settings.model import AgentSettings
from pipeops_agent.settings.model_pipeops import PipeopsSettings, ReconnectSettings
from pipeops_agent.settings.model_server import ServerSettings
from pipeops_agent.settings.model_tunnel import TunnelSettings
from tests.agent.house import REACTOR, TOKEN, House, descriptors, free_port
from tests.agent.test_endurance import Counted, counted, live_objects
from tests.peers.building import gochisel
from tests.peers.harness import Peers, ServerPeer, Services
from tests.peers.processes import PATIENCE, Program, flags

SECONDS = float(os.environ.get("PIPEOPS_SOAK_SECONDS") or (180 if os.environ.get("CI") else 45))
DROP_EVERY = max(5.0, min(20.0, SECONDS / 12))
WARM = min(300.0, max(SECONDS / 3, 5 * DROP_EVERY))
"""Before anything is compared: caches and histories are full by then, and that no session lasts is named."""

SAMPLE_EVERY = max(0.5, min(5.0, SECONDS / 60))
LOOKS = 20
"""How often to look before it is known what there is at rest; heartbeats and polls come and go."""

MEMORY = 12 * 2**20
"""Bytes that the process may grow by from the first third to the last: what allocators do under load."""

UNDER_LOAD = 1.25
"""How much more of something there may be in the last third: how many connections are open varies."""

FEW = 40
"""And how many more in any case."""


@dataclass(frozen=True)
class Sample:
    """What there is at one moment."""

    seconds: float
    objects: int
    ours: int
    timers: int
    descriptors: int
    memory: int

    @classmethod
    def now(cls, began: float) -> Sample:
        """Look around."""
        ours = live_objects().total()  # it collects garbage first
        memory = psutil.Process().memory_info().rss
        timers = len(REACTOR.getDelayedCalls())
        return cls(REACTOR.seconds() - began, len(gc.get_objects()), ours, timers, descriptors(), memory)


FIGURES = ("objects", "ours", "timers", "descriptors", "memory")


def thirds(samples: list[Sample], name: str) -> tuple[float, float]:
    """The medians of the first and of the last third."""
    values = [getattr(sample, name) for sample in samples]
    part = max(len(values) // 3, 1)
    return statistics.median(values[:part]), statistics.median(values[-part:])


def _without_windows(count: Counted) -> Counted:
    """
    Without what the log keeps of what it has said, each with one timer: up to a bound, for up to two minutes,
    and the first record of a kind may come at any time.
    """
    windows = f"{_Window.__module__}.{_Window.__qualname__}"
    objects = Counter(count.objects)
    return Counted(count.timers - objects.pop(windows, 0), count.descriptors, objects)


class SoakTests(House):
    timeout = int(SECONDS * 1.2) + 300

    async def test_no_growth(self) -> None:
        """Objects, timers, descriptors and memory stay what they were, and no byte is wrong."""
        await self._start()
        await self._load(WARM)
        before = await self._rest(None)
        samples: list[Sample] = []
        figures = await self._load(SECONDS - WARM, samples)
        after = await self._rest(before)
        report = self._report(samples, figures)
        self.assertEqual(after.more_than(before), {}, report)
        for name in FIGURES:
            first, last = thirds(samples, name)
            allowed = first + MEMORY if name == "memory" else first * UNDER_LOAD + FEW
            self.assertLess(last, allowed, f"{name}\n{report}")
        self.assertEqual(figures["wrong"], 0, report)
        for name in ("transfers", "echoes", "short", "refused", "halves"):
            self.assertGreater(figures[name], 0, report)
        self.assertGreater(self.agent.board.traffic().connects, (SECONDS - WARM) / DROP_EVERY / 2)

    async def _start(self) -> None:
        """Server, targets, control plane and agent."""
        self.peers = Peers(REACTOR, self)
        services: Services = await self.peers.services()
        self.server: ServerPeer = await self.peers.gochisel_server(
            quiet=True, half_close=True, rekey_bytes=64 << 20
        )
        self.ports = {name: free_port() for name in ("load", "refuse", "halfclose")}
        control_plane = serve_control_plane(REACTOR, self.server, self.ports)
        self.addCleanup(control_plane.stopListening)
        settings = Settings(
            agent=AgentSettings(poll_interval=1.0),
            pipeops=PipeopsSettings(
                api_url=f"http://127.0.0.1:{control_plane.getHost().port}",
                token=TOKEN,
                reconnect=ReconnectSettings(interval=0.1, backoff=0.0, stable_after=0.0),
            ),
            tunnel=TunnelSettings(
                allow_insecure=True,
                forwards=tuple(Forward(name=name, local_addr=services[name]) for name in self.ports),
                rekey_bytes=32 << 20,
            ),
            server=ServerSettings(port=free_port()),
        )
        self.log.set_levels("info", {})
        self.start_agent(settings)
        await self.until_connected()

    async def _load(self, seconds: float, samples: list[Sample] | None = None) -> dict[str, Any]:
        """Load, drops and samples for so long; return what the load has counted."""
        addresses = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        options = flags(
            [("a", addresses["load"]), ("refused", addresses["refuse"]), ("half", addresses["halfclose"])]
        )
        program = Program.start(REACTOR, [gochisel(), "mix", *options])
        tasks = Tasks()
        tasks.spawn(self._drops(), "the server's drops")
        if samples is not None:
            tasks.spawn(self._samples(samples), "samples")
        try:
            await sleep(REACTOR, seconds)
        finally:
            await tasks.stop()
            program.transport.closeChildFD(0)  # type: ignore[union-attr]  # it runs
            await program.ended(60.0)
        (figures,) = program.seen("figures")
        return figures

    async def _drops(self) -> None:
        while True:
            await sleep(REACTOR, DROP_EVERY)
            self.server.program.order("drop")
            self.server.program.events.clear()  # they are this test's, and would be its growth

    async def _samples(self, samples: list[Sample]) -> None:
        began = REACTOR.seconds()
        while True:
            await sleep(REACTOR, SAMPLE_EVERY)
            samples.append(Sample.now(began))

    async def _rest(self, before: Counted | None) -> Counted:
        """With a tunnel and no connection: what there is mostly, or the first look within C{before}."""
        # Not more than that: the forward whose dials were refused counts as stale.
        await self.until(lambda status: status.tunnel.state == "connected", "the tunnel")
        looks: list[Counted] = []
        began = REACTOR.seconds()
        while len(looks) < LOOKS or (before is not None and REACTOR.seconds() - began < PATIENCE):
            await sleep(REACTOR, 0.1)
            looks.append(_without_windows(counted()))
            if before is not None and not looks[-1].more_than(before):
                break
        if before is not None:
            return looks[-1]
        settled = looks[len(looks) // 2 :]
        return Counted(
            timers=statistics.mode(each.timers for each in settled),
            descriptors=statistics.mode(each.descriptors for each in settled),
            objects=self._usual([each.objects for each in settled]),
        )

    def _usual(self, counts: list[Counter[str]]) -> Counter[str]:
        """How many of each there are most of the time: heartbeats and polls come and go."""
        names = set().union(*counts)
        return Counter({name: statistics.mode(each[name] for each in counts) for name in names})

    def _report(self, samples: list[Sample], figures: dict[str, Any]) -> str:
        """Print what was measured, into trial's log and for whoever reads the output."""
        lines = [f"soak: {SECONDS:.0f} s, compared from second {WARM:.0f} on, {len(samples)} samples"]
        for name in FIGURES:
            first, last = thirds(samples, name)
            most = max(getattr(sample, name) for sample in samples)
            lines.append(
                f"  {name:12} {first:14,.0f} first third {last:14,.0f} last third {most:14,.0f} most"
            )
        lines.append(f"  sessions {self.agent.board.traffic().connects}, load {figures}")
        report = "\n".join(lines)
        print(f"\n{report}")  # noqa: T201 - the figures are what a long run is for
        return report
