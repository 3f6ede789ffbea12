"""The tunnel's counters."""

from __future__ import annotations

from datetime import UTC, datetime

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.denials import Source
from pipeops_agent.tunnel.traffic import ChannelTally, ForwardCounters, Rate, TrafficCounters, Wait


class Open:
    """An open channel."""

    def __init__(self, bytes_in: int = 0, bytes_out: int = 0, *, canary: bool = False) -> None:
        self.tally = ChannelTally()
        self.tally.bytes_in, self.tally.bytes_out, self.tally.canary = bytes_in, bytes_out, canary
        self.send_window = 65536


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class ForwardTests(SynchronousTestCase):
    """What one forward has carried."""

    def setUp(self) -> None:
        self.counters = ForwardCounters()

    def enter(self, channel: Open, now: float = 10.0, dial: float = 0.02) -> Open:
        self.counters.enter(channel, now, dial)
        return channel

    def test_open_and_over(self) -> None:
        """What open channels and those that are over have carried adds up; the end of one loses nothing."""
        first, second = self.enter(Open(10, 20)), self.enter(Open(1, 2))
        self.counters.leave(first)
        second.tally.bytes_in += 5
        snapshot = self.counters.snapshot()
        self.assertEqual((snapshot.open_channels, snapshot.total_channels), (1, 2))
        self.assertEqual((snapshot.bytes_in, snapshot.bytes_out), (16, 22))
        second.tally.bytes_in += 5
        self.assertEqual(snapshot.bytes_in, 16)

    def test_last_bytes(self) -> None:
        """The last byte is known for each way by itself, whichever channel it was on, and outlasts it."""
        first, second = self.enter(Open()), self.enter(Open())
        self.assertEqual(
            (self.counters.last_in, self.counters.last_out, self.counters.last_byte), (None,) * 3
        )
        first.tally.last_in, second.tally.last_in, second.tally.last_out = 50.0, 40.0, 45.0
        self.counters.leave(first)
        self.counters.leave(second)
        snapshot = self.counters.snapshot()
        self.assertEqual((snapshot.last_in, snapshot.last_out), (at(50), at(45)))
        self.assertEqual(self.counters.last_byte, 50.0)

    def test_dials(self) -> None:
        """The last good dial, and how long dials took, in a cumulative histogram that ends at infinity."""
        for now, seconds in ((1.0, 0.0005), (2.0, 0.03), (3.0, 60.0)):
            self.enter(Open(), now, seconds)
        snapshot = self.counters.snapshot()
        buckets = dict(snapshot.dials.buckets)
        self.assertEqual((buckets[0.001], buckets[0.025], buckets[0.05], buckets[10.0]), (1, 1, 2, 2))
        self.assertEqual(snapshot.dials.buckets[-1], (float("inf"), 3))
        self.assertAlmostEqual(snapshot.dials.seconds, 60.0305)
        self.assertEqual(snapshot.last_dial, at(3))

    def test_problems(self) -> None:
        """Failed and refused ones are counted by kind; the last reason is kept, with its time."""
        for now, kind in enumerate(("refused", "refused", "timeout", "limit")):
            self.counters.fail(kind, f"because {now}", float(now))
        snapshot = self.counters.snapshot()
        self.assertEqual((snapshot.failed_dials, snapshot.refused_channels), (3, 1))
        self.assertEqual(snapshot.problems, {"refused": 2, "timeout": 1, "limit": 1})
        self.assertEqual((snapshot.last_problem, snapshot.last_problem_at), ("because 3", at(3)))

    def test_canary(self) -> None:
        """A canary's channel is counted nowhere, open or over; that its target was reached is known."""
        canary = self.enter(Open(100, 200, canary=True), 77.0)
        canary.tally.last_in = canary.tally.last_out = 78.0
        for _ in range(2):
            snapshot = self.counters.snapshot()
            self.assertEqual((snapshot.open_channels, snapshot.total_channels), (0, 0))
            self.assertEqual((snapshot.bytes_in, snapshot.bytes_out, snapshot.last_in), (0, 0, None))
            self.assertEqual((snapshot.last_dial, self.counters.last_byte), (at(77), None))
            if self.counters.live:
                self.counters.leave(canary)


class TrafficTests(SynchronousTestCase):
    """All forwards together."""

    def test_a_forwards_counters_stay(self) -> None:
        """Every asking for a forward's counters gives the same ones: they outlive sessions."""
        traffic = TrafficCounters()
        traffic.forward("a").last_dial = 7.0
        traffic.know(["a", "b"])
        self.assertEqual(traffic.forward("a").last_dial, 7.0)
        self.assertEqual(list(traffic.snapshot().forwards), ["a", "b"])

    def test_refused(self) -> None:
        """Channels for nothing configured, and those a forward turned away, are counted together."""
        traffic = TrafficCounters()
        for _ in range(2):
            traffic.denials.note("localhost:22", Source())
        traffic.forward("a").fail("limit", "too many", 1.0)
        snapshot = traffic.snapshot()
        self.assertEqual((snapshot.refused_channels, snapshot.denied_channels), (3, 2))
        self.assertEqual(snapshot.denied, {"localhost:22": 2})

    def test_carrier(self) -> None:
        """The tunnel's own figures."""
        traffic = TrafficCounters()
        traffic.connects, traffic.carrier_bytes_in, traffic.carrier_bytes_out = 1, 100, 200
        snapshot = traffic.snapshot()
        self.assertEqual(
            (snapshot.connects, snapshot.carrier_bytes_in, snapshot.carrier_bytes_out), (1, 100, 200)
        )


class WaitTests(SynchronousTestCase):
    def test_wait(self) -> None:
        """The present wait and the sum of all; beginning or ending twice changes nothing."""
        wait = Wait()
        wait.end(1.0)
        wait.begin(2.0)
        wait.begin(3.0)
        self.assertEqual((wait.present(5.0), wait.total(5.0)), (3.0, 3.0))
        wait.end(6.0)
        self.assertEqual((wait.present(9.0), wait.total(9.0)), (0.0, 4.0))
        wait.begin(10.0)
        self.assertEqual((wait.present(11.0), wait.total(11.0)), (1.0, 5.0))


class RateTests(SynchronousTestCase):
    def test_mean_since_the_last_look(self) -> None:
        """Each look takes the mean since the one before."""
        rate = Rate(0.0, 0, 0)
        rate.look(2.0, 200, 20)
        self.assertEqual((rate.value, rate.seconds), ((100.0, 10.0), 2.0))
        rate.look(12.0, 200, 120)
        self.assertEqual((rate.value, rate.seconds), ((0.0, 10.0), 10.0))

    def test_two_who_look_at_once(self) -> None:
        """A second look within a second shows the same, and takes nothing from the next."""
        rate = Rate(0.0, 0, 0)
        rate.look(2.0, 200, 0)
        rate.look(2.5, 5000, 0)
        self.assertEqual(rate.value, (100.0, 0.0))
        rate.look(4.0, 5000, 0)
        self.assertEqual(rate.value, (2400.0, 0.0))

    def test_not_known_yet(self) -> None:
        """At its very beginning there is no rate, and what was carried before does not become one."""
        rate = Rate(5.0, 1000, 1000)
        rate.look(5.0, 1000, 1000)
        self.assertEqual((rate.value, rate.seconds), ((0.0, 0.0), 0.0))
        rate.look(6.0, 1010, 1000)
        self.assertEqual(rate.value, (10.0, 0.0))
