"""Tests for L{pipeops_agent.clock}."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.clock import WallClock, describe_skew, rfc3339, steady_seconds, utc_now


class ClockTests(SynchronousTestCase):
    """The time of day."""

    def test_now(self) -> None:
        """The system's time is in UTC, and says so."""
        wall: WallClock = utc_now
        before = datetime.now(UTC)
        now = wall()
        self.assertTrue(before <= now <= datetime.now(UTC))
        self.assertEqual(now.utcoffset(), timedelta(0))

    def test_rfc3339(self) -> None:
        """A moment is written in UTC to the second, wherever it was taken."""
        moment = datetime(2025, 10, 15, 8, 0, 0, 999_999, tzinfo=UTC)
        self.assertEqual(rfc3339(moment), "2025-10-15T08:00:00Z")
        elsewhere = moment.astimezone(timezone(timedelta(hours=5, minutes=30)))
        self.assertEqual(rfc3339(elsewhere), "2025-10-15T08:00:00Z")

    def test_no_zone(self) -> None:
        """A time without a zone is refused: it would be taken for the machine's own."""
        with self.assertRaises(ValueError):
            rfc3339(datetime(2025, 10, 15, 8, 0, 0))  # noqa: DTZ001 - what is tested


class SkewTests(SynchronousTestCase):
    """L{describe_skew}."""

    def test_words(self) -> None:
        """Which way, by how much; nothing where it is unknown or not worth saying."""
        self.assertEqual(describe_skew(90.4), "this machine's clock is 90 s behind the control plane's")
        self.assertEqual(describe_skew(-31), "this machine's clock is 31 s ahead of the control plane's")
        for skew in (None, 0.0, 30.0, -30.0):
            self.assertEqual(describe_skew(skew), "")


class SteadyTests(SynchronousTestCase):
    """The clock that the agent's reactor runs on."""

    def test_counts_on_whatever_the_wall_clock_does(self) -> None:
        """It begins at the wall clock's time; steps of that clock, either way, do not touch it."""
        wall, monotonic = 1_700_000_000.0, 50.0
        seconds = steady_seconds(lambda: wall, lambda: monotonic)
        self.assertEqual(seconds(), 1_700_000_000.0)
        wall -= 3600
        monotonic += 5
        self.assertEqual(seconds(), 1_700_000_005.0)
        wall += 7200
        self.assertEqual(seconds(), 1_700_000_005.0)

    def test_real_clocks(self) -> None:
        """By default it agrees with the wall clock of this machine, and goes forward."""
        seconds = steady_seconds()
        first = seconds()
        self.assertLess(abs(first - time.time()), 1)
        self.assertGreaterEqual(seconds(), first)
