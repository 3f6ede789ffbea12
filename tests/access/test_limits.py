"""Tests for how much a client may ask for."""

from __future__ import annotations

from typing import get_args

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.access.limits import BURST, MAX_CLIENTS, Busy, Kind, Limits, TooMany
from pipeops_agent.access.origins import Origin
from pipeops_agent.settings.model_server import ClientLimits, LimitsSettings, TotalLimits, TunnelLimits


def client(name: str = "10.0.0.7") -> Origin:
    return Origin(name=name, client=name)


TUNNEL = Origin(name="tunnel:a", client="tunnel:a", tunnel=True, near=True)


class LimitsCase(SynchronousTestCase):
    """Limits that are small enough to be reached."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.settings = LimitsSettings(
            client=ClientLimits(requests=5, connections=2, subscriptions=2, commands=2, log_streams=2),
            tunnel=TunnelLimits(requests=10, connections=3, subscriptions=3, commands=3, log_streams=3),
            total=TotalLimits(requests=20, commands=4, log_streams=4),
        )
        self.limits = Limits(self.clock, lambda: self.settings)


class RequestTests(LimitsCase):
    """How often."""

    def admitted(self, origin: Origin, most: int = 1000) -> int:
        """How many requests of C{origin} are admitted now."""
        for count in range(most):
            try:
                self.limits.request(origin)
            except TooMany:
                return count
        return most

    def test_rate(self) -> None:
        """So many at once, and then at the pace of the setting."""
        self.assertEqual(self.admitted(client()), 5 * BURST)
        error = self.assertRaises(TooMany, self.limits.request, client())
        self.assertNotIsInstance(error, Busy)
        self.assertAlmostEqual(error.retry_after, 0.2)
        self.clock.advance(error.retry_after + 0.001)
        self.assertEqual(self.admitted(client()), 1)
        self.clock.advance(100)
        self.assertEqual(self.admitted(client()), 5 * BURST)

    def test_each_for_itself(self) -> None:
        """One client's requests are not another's; the tunnel has limits of its own."""
        self.admitted(client("10.0.0.1"))
        self.assertEqual(self.admitted(client("10.0.0.2")), 5 * BURST)
        self.assertEqual(self.admitted(TUNNEL), 10 * BURST)

    def test_total(self) -> None:
        """All together have a limit too, and what it refuses is not counted for the client."""
        admitted = sum(self.admitted(client(f"10.0.0.{number}")) for number in range(10))
        self.assertEqual(admitted, 20 * BURST)
        error = self.assertRaises(Busy, self.limits.request, client("10.0.1.1"))
        self.clock.advance(error.retry_after + 0.001)
        self.limits.request(client("10.0.1.1"))

    def test_many_clients(self) -> None:
        """Clients without end do not make the agent grow; those of now are the ones that are counted."""
        self.settings = LimitsSettings(total=TotalLimits(requests=1_000_000))
        for number in range(MAX_CLIENTS + 10):
            self.limits.request(client(f"c{number}"))
        self.assertEqual(len(self.limits._buckets), MAX_CLIENTS)

    def test_changed(self) -> None:
        """A changed setting holds from the next request on."""
        self.admitted(client())
        self.settings = LimitsSettings()
        self.clock.advance(0.05)
        self.limits.request(client())
        self.limits.request(client())


class HoldTests(LimitsCase):
    """How many at one time."""

    def test_client(self) -> None:
        """One client has so many places of each kind, and gets them back."""
        for kind in get_args(Kind):
            places = [self.limits.hold(kind, client()) for _ in range(2)]
            error = self.assertRaises(TooMany, self.limits.hold, kind, client())
            self.assertNotIsInstance(error, Busy)
            self.assertIn("2", error.sentence)
            self.limits.hold(kind, client("10.0.0.8")).release()
            places.pop().release()
            self.limits.hold(kind, client())

    def test_total(self) -> None:
        """All together have so many; connections and subscriptions are counted by who has them."""
        kinds: tuple[Kind, ...] = ("commands", "log_streams")
        for kind in kinds:
            for number in range(4):
                self.limits.hold(kind, client(f"c{number}"))
            self.assertRaises(Busy, self.limits.hold, kind, client("another"))
            self.assertEqual(self.limits.held(kind), 4)
        for number in range(50):
            self.limits.hold("connections", client(f"c{number}"))
            self.limits.hold("subscriptions", client(f"c{number}"))

    def test_tunnel(self) -> None:
        """What comes through the tunnel has limits of its own."""
        for _ in range(3):
            self.limits.hold("commands", TUNNEL)
        self.assertRaises(TooMany, self.limits.hold, "commands", TUNNEL)

    def test_released_once(self) -> None:
        """A place that is given back twice is given back once."""
        first = self.limits.hold("commands", client())
        self.limits.hold("commands", client())
        first.release()
        first.release()
        self.assertEqual(self.limits.held("commands"), 1)

    def test_with(self) -> None:
        """A place is given back at the end of a block, however that ends."""

        def fails() -> None:
            with self.limits.hold("commands", client()):
                raise KeyError

        self.assertRaises(KeyError, fails)
        self.assertEqual(self.limits.held("commands"), 0)
        self.assertEqual(len(self.limits._held), 0)
