"""Tests for L{pipeops_agent.clock}."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.clock import WallClock, rfc3339, utc_now


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
