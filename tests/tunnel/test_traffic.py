"""The tunnel's counters."""

from __future__ import annotations

from datetime import UTC, datetime

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.status import ForwardTraffic
from pipeops_agent.tunnel.traffic import TrafficCounters


class TrafficTests(SynchronousTestCase):
    def test_snapshot(self) -> None:
        """A snapshot has the figures of the moment it is taken, and stays as it is."""
        traffic = TrafficCounters()
        counters = traffic.forward("a")
        counters.opened, counters.open = 3, 1
        counters.bytes_in, counters.bytes_out, counters.failed_dials = 10, 20, 2
        counters.last_byte, counters.last_dial = 1_700_000_000.0, None
        traffic.connects, traffic.carrier_bytes_in, traffic.carrier_bytes_out = 1, 100, 200
        snapshot = traffic.snapshot()
        counters.bytes_in += 5
        self.assertEqual(
            snapshot.forwards,
            {
                "a": ForwardTraffic(
                    open_channels=1,
                    total_channels=3,
                    bytes_in=10,
                    bytes_out=20,
                    failed_dials=2,
                    last_byte=datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
                    last_dial=None,
                )
            },
        )
        self.assertEqual(
            (snapshot.connects, snapshot.carrier_bytes_in, snapshot.carrier_bytes_out), (1, 100, 200)
        )

    def test_a_forwards_counters_stay(self) -> None:
        """Every asking for a forward's counters gives the same ones: they outlive sessions."""
        traffic = TrafficCounters()
        traffic.forward("a").bytes_in = 7
        traffic.know(["a", "b"])
        self.assertEqual(traffic.forward("a").bytes_in, 7)
        self.assertEqual(list(traffic.snapshot().forwards), ["a", "b"])

    def test_refused(self) -> None:
        """Channels for nothing configured, and those a forward turned away, are counted together."""
        traffic = TrafficCounters()
        traffic.refused = 2
        traffic.forward("a").refused = 3
        self.assertEqual(traffic.snapshot().refused_channels, 5)
