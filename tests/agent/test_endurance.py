"""
What was done a thousand times leaves no more behind than what was done once.

Timers, descriptors, and live objects of the package are counted after one reconnect and one refused
connection, and again after many; memory must not grow. An ordinary run makes 100 reconnects and 2,500
connections; with C{PIPEOPS_ENDURANCE=1} it makes 10,000 connections, which takes half a minute more.
"""

from __future__ import annotations

import gc
import os
import statistics
from collections import Counter
from dataclasses import dataclass

import psutil
from twisted.internet.defer import Deferred, gatherResults

from pipeops_agent.realtime.journal import Entry
from pipeops_agent.scheduling import bounded, sleep
from pipeops_agent.status import Attempt, Step
from pipeops_agent.web.api.runtime import Collector, RuntimeFigures
from tests.agent.house import REACTOR, House, descriptors, dial

LONG = os.environ.get("PIPEOPS_ENDURANCE") == "1"
RECONNECTS = 100
CONNECTIONS = 10_000 if LONG else 2_500
AT_ONCE = 25

HISTORY = {Attempt, Step, Entry, Collector, RuntimeFigures}
"""Kept by intent, up to a bound: attempts; events and log records for clients; the last hour's figures."""

SAMPLES = 15
LOOKS = 100
"""How often to look, before and after: calls to the control plane come and go, with timers of their own."""

BETWEEN = 0.03
"""Seconds between two looks."""

MEMORY = 6 * 2**20
"""Bytes that the process may grow by: the allocator's own ups and downs."""


def live_objects() -> Counter[str]:
    """How many objects there are of each of the package's classes."""
    gc.collect()
    kinds: Counter[str] = Counter()
    for one in gc.get_objects():
        kind = type(one)
        module = str(kind.__module__)  # a few of the libraries' classes have something else there
        if module.startswith("pipeops_agent.") and kind not in HISTORY:
            kinds[f"{module}.{kind.__qualname__}"] += 1
    return kinds


@dataclass(frozen=True)
class Counted:
    """Everything that may leak."""

    timers: int
    descriptors: int
    objects: Counter[str]

    def more_than(self, before: Counted) -> dict[str, int]:
        """Of what there is more than C{before}, and how much."""
        more = Counter({"timers": self.timers, "descriptors": self.descriptors}) + self.objects
        return dict(
            more - (Counter({"timers": before.timers, "descriptors": before.descriptors}) + before.objects)
        )


def counted() -> Counted:
    """What there is now."""
    return Counted(len(REACTOR.getDelayedCalls()), descriptors(), live_objects())


class EnduranceTests(House):
    timeout = 600 if LONG else 120

    async def test_many(self) -> None:
        """Reconnects, then connections to a target that refuses: everything is as after the first."""
        self.start_sandbox()
        self.start_agent()
        await self.until_connected()
        for _ in range(25):  # until the history is full, and everything has been used once
            await self.reconnect()
        await self.refused(AT_ONCE * 4)
        before = await self.at_rest()
        memory = psutil.Process().memory_info().rss
        for _ in range(RECONNECTS):
            await self.reconnect()
        await self.refused(CONNECTIONS)
        await self.same_as(before)
        grown = psutil.Process().memory_info().rss - memory
        self.assertLess(grown, MEMORY)
        traffic = self.agent.board.traffic()
        self.assertEqual(traffic.connects, 1 + 25 + RECONNECTS)
        self.assertEqual(traffic.forwards["kubelet-metrics"].failed_dials, AT_ONCE * 4 + CONNECTIONS)
        self.assertEqual(self.known.registrations, 1)

    async def reconnect(self) -> None:
        self.sandbox.chisel.drop_sessions("dropped by the test")
        await self.until(lambda status: status.tunnel.state != "connected", "the loss")
        await self.until_connected()

    async def refused(self, count: int) -> None:
        """Connect so often to a forward whose target refuses."""
        port = self.known.ports["kubelet"]
        for _ in range(count // AT_ONCE):
            await gatherResults([Deferred.fromCoroutine(self._one_refused(port)) for _ in range(AT_ONCE)])

    async def _one_refused(self, port: int) -> None:
        user = await dial(port)
        await bounded(REACTOR, 20.0, user.gone, "the refusal")

    async def at_rest(self) -> Counted:
        """What there is most of the time: heartbeats and polls come and go meanwhile."""
        samples = []
        for _ in range(SAMPLES):
            samples.append(counted())
            await sleep(REACTOR, BETWEEN)
        return Counted(
            timers=statistics.mode(each.timers for each in samples),
            descriptors=statistics.mode(each.descriptors for each in samples),
            objects=min((each.objects for each in samples), key=Counter.total),
        )

    async def same_as(self, before: Counted) -> None:
        """There is a moment at which there is no more than C{before}."""
        now = counted()
        for _ in range(LOOKS):
            if not now.more_than(before):
                return
            await sleep(REACTOR, BETWEEN)
            now = counted()
        self.assertEqual(now.more_than(before), {})
