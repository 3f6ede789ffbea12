"""Tests for L{pipeops_agent.web.api.runtime}: figures, rates, and an hour of them."""

from __future__ import annotations

import os

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.figures import ForwardTraffic, TunnelTraffic
from pipeops_agent.web.api.runtime import INTERVAL, SAMPLES, Connections, Runtime, this_process
from tests.web.api.case import ApiCase


class RuntimeCase(ApiCase):
    def start(self) -> None:
        self.runtime.startService()
        self.addCleanup(self.runtime.stopService)

    def use(self, cpu_seconds: float, carried: int) -> None:
        """The process has used so much, in all, and two forwards have carried so much together."""
        self.process = msgspec.structs.replace(self.process, cpu_seconds=cpu_seconds)
        half = ForwardTraffic(bytes_in=carried // 2, bytes_out=carried)
        traffic = TunnelTraffic(forwards={"a": half, "b": half})
        self.board.read_traffic_from(lambda: traffic)


class NowTests(RuntimeCase):
    """The figures of a moment."""

    def test_before_the_first_sample(self) -> None:
        """What is known at once is there; rates are 0, and say that they are none."""
        answer = self.get("/api/metrics/runtime").json
        collector = answer.pop("garbage_collector")
        self.assertEqual(len(collector["collections"]), 3)
        self.assertGreater(answer["file_descriptors"].pop("limit"), 0)
        self.assertEqual(
            answer,
            {
                "time": "2024-01-15T10:30:00Z",
                "uptime": "0s",
                "cpu": {"seconds": 1.5, "percent": 0.0},
                "memory": {"resident": 50_000_000, "virtual": 200_000_000},
                "file_descriptors": {"open": 20},
                "threads": 3,
                "reactor_lag": 0.25,
                "bandwidth": {"bytes_in": 0, "bytes_out": 0, "rate_in": 0.0, "rate_out": 0.0},
                "connections": {"websocket": 0, "sse": 0},
                "rate_seconds": 0.0,
            },
        )

    def test_rates(self) -> None:
        """Rates are means since a sample, however often somebody asks."""
        self.use(1.0, 1000)
        self.start()
        self.clock.advance(10)
        self.use(2.0, 3000)
        for _ in range(2):
            answer = self.get("/api/metrics/runtime").json
            self.assertEqual((answer["cpu"]["percent"], answer["rate_seconds"]), (10.0, 10.0))
            self.assertEqual(
                (answer["bandwidth"]["rate_in"], answer["bandwidth"]["rate_out"]), (200.0, 400.0)
            )

    def test_right_after_a_sample(self) -> None:
        """The last sample is too young to tell a rate by; the one before it does."""
        self.use(1.0, 0)
        self.start()
        self.clock.advance(INTERVAL)
        self.clock.advance(1)
        self.use(2.6, 0)
        answer = self.get("/api/metrics/runtime").json
        self.assertEqual((answer["cpu"]["percent"], answer["rate_seconds"]), (10.0, INTERVAL + 1))

    def test_connections(self) -> None:
        """Those who stay connected are counted at the moment of the question."""
        counts = [Connections(websocket=2, sse=1)]
        runtime = Runtime(
            self.clock, self.wall, self.board, lambda: 0.0, lambda: self.process, connections=counts.pop
        )
        self.assertEqual(runtime.now().connections, Connections(websocket=2, sse=1))

    def test_counter_that_went_back(self) -> None:
        """No rate is negative."""
        self.use(5.0, 5000)
        self.start()
        self.clock.advance(10)
        self.use(1.0, 0)
        answer = self.get("/api/metrics/runtime").json
        self.assertEqual((answer["cpu"]["percent"], answer["bandwidth"]["rate_in"]), (0.0, 0.0))


class HistoryTests(RuntimeCase):
    """The last hour."""

    def test_samples(self) -> None:
        """One at the start, then one each interval; oldest first; each as the figures of a moment are."""
        self.start()
        for seconds in (1, 2):
            self.use(seconds, 0)
            self.clock.advance(INTERVAL)
        answer = self.get("/api/metrics/history").json
        self.assertEqual(answer["interval"], INTERVAL)
        self.assertEqual([each["uptime"] for each in answer["samples"]], ["0s", "15s", "30s"])
        self.assertEqual(set(answer["samples"][0]), set(self.get("/api/metrics/runtime").json))

    def test_bounded(self) -> None:
        """An hour is kept, and no more."""
        self.start()
        self.clock.pump([INTERVAL] * (SAMPLES + 10))
        samples = self.get("/api/metrics/history").json["samples"]
        self.assertEqual(len(samples), SAMPLES)
        self.assertEqual(samples[0]["uptime"], f"{11 * INTERVAL:.0f}s")
        self.assertEqual(SAMPLES * INTERVAL, 3600)

    def test_nothing_yet(self) -> None:
        """Before the start there is no sample."""
        self.assertEqual(self.get("/api/metrics/history").json, {"interval": INTERVAL, "samples": []})


class ThisProcessTests(SynchronousTestCase):
    """What the system says."""

    def test_this_process(self) -> None:
        """Figures of this very process: a pipe is two descriptors more."""
        read = this_process()
        before = read()
        ends = os.pipe()
        after = read()
        for end in ends:
            os.close(end)
        self.assertEqual(after.descriptors, before.descriptors + 2)
        self.assertGreater(before.resident, 10_000_000)
        self.assertGreaterEqual(before.virtual, before.resident)
        self.assertGreater(before.cpu_seconds, 0)
        self.assertGreaterEqual(before.threads, 1)
