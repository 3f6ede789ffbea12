"""Tests for L{pipeops_agent.log.repeats}."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.log.record import Record
from pipeops_agent.log.repeats import MAX_VARIANTS, MAX_WINDOWS, Repeats

START = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)


class RepeatsTests(SynchronousTestCase):
    """The same is said once, then counted."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.written: list[Record] = []
        self.repeats = Repeats(
            self.clock, lambda: START + timedelta(seconds=self.clock.seconds()), self.written.append
        )
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.repeats.close)

    def offer(self, text: str, kind: str = "kind") -> None:
        self.repeats.offer(kind, text, lambda: {"time": "then", "msg": text, "traceback": "tb"})

    @property
    def texts(self) -> list[str]:
        return [record["msg"] for record in self.written]

    def test_first_is_written_at_once(self) -> None:
        """The first of its kind is written as it is."""
        self.offer("refused")
        self.assertEqual(self.written, [{"time": "then", "msg": "refused", "traceback": "tb"}])

    def test_repeats_are_counted(self) -> None:
        """Seventeen more within the window are one line at its end, with its time and no traceback."""
        for _ in range(18):
            self.offer("refused")
            self.clock.advance(1)
        self.assertEqual(self.texts, ["refused"])
        self.clock.advance(42)
        self.assertEqual(
            self.written[1:],
            [
                {
                    "time": "2024-01-15T10:31:00.000Z",
                    "msg": "refused (repeated 17 times in 60 s)",
                    "repeated": 17,
                }
            ],
        )

    def test_once_is_no_repeat(self) -> None:
        """What happened once leaves no line and no timer when the window ends."""
        self.offer("refused")
        self.clock.advance(60)
        self.assertEqual(self.texts, ["refused"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lasting(self) -> None:
        """A failure that lasts is one line per window."""
        for _ in range(180):
            self.offer("refused")
            self.clock.advance(1)
        self.assertEqual(
            self.texts,
            [
                "refused",
                "refused (repeated 59 times in 60 s)",
                "refused (repeated 60 times in 60 s)",
                "refused (repeated 60 times in 60 s)",
            ],
        )

    def test_new_after_silence(self) -> None:
        """After a window in which it did not happen it is news again, and written at once."""
        self.offer("refused")
        self.clock.advance(60)
        self.offer("refused")
        self.assertEqual(self.texts, ["refused", "refused"])

    def test_numbers_make_no_difference(self) -> None:
        """Attempts and ports change from one failure to the next; it is the same failure."""
        self.offer("attempt 1 failed on port 40001")
        self.offer("attempt 2 failed on port 40002")
        self.assertEqual(self.texts, ["attempt 1 failed on port 40001"])

    def test_variants(self) -> None:
        """Three forwards that are refused are three lines."""
        for name in ("kubernetes", "kubelet", "agent", "kubelet"):
            self.offer(f"forward {name} was refused")
        self.assertEqual(len(self.written), 3)

    def test_variants_are_counted_apart(self) -> None:
        """The count stands with the text that was repeated, not with the one that was shown last."""
        for name in ("kubelet", "agent", "kubelet", "kubelet", "agent"):
            self.offer(f"forward {name} was refused")
        self.clock.advance(60)
        self.assertEqual(
            self.texts[2:],
            [
                "forward kubelet was refused (repeated 2 times in 60 s)",
                "forward agent was refused (repeated once in 60 s)",
            ],
        )

    def test_variants_are_bounded(self) -> None:
        """A text that a peer varies at will is counted after a few."""
        for number in range(100):
            self.offer("refused " + chr(ord("a") + number % 26) * (number + 1))
        self.assertEqual(len(self.written), MAX_VARIANTS)
        self.clock.advance(60)
        self.assertIn(f"repeated {100 - MAX_VARIANTS} times", self.texts[-1])

    def test_kinds_are_apart(self) -> None:
        """One kind's window does not hide another kind."""
        self.offer("refused", "tunnel")
        self.offer("refused", "heartbeat")
        self.assertEqual(self.texts, ["refused", "refused"])

    def test_kinds_are_bounded(self) -> None:
        """The oldest window closes early, with its count, when there are too many."""
        for number in range(MAX_WINDOWS):
            self.offer("refused", f"kind {number}")
        self.offer("refused", "kind 0")
        self.written.clear()
        self.offer("refused", "one more")
        self.assertEqual(self.texts, ["refused (repeated once in 0 s)", "refused"])
        for number in range(1000):
            self.offer("refused", f"other {number}")
        self.assertLessEqual(len(self.clock.getDelayedCalls()), MAX_WINDOWS)

    def test_swallowed_are_not_made(self) -> None:
        """What is swallowed costs no formatting."""
        self.offer("refused")
        self.repeats.offer("kind", "refused", lambda: self.fail("was made"))

    def test_close(self) -> None:
        """Closing says what was counted, leaves no timer, and lets everything pass from then on."""
        self.offer("refused")
        self.offer("refused")
        self.repeats.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.offer("refused")
        self.offer("refused")
        self.assertEqual(self.texts, ["refused", "refused (repeated once in 0 s)", "refused", "refused"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
