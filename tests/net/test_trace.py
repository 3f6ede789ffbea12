"""The steps of an attempt to connect."""

from __future__ import annotations

from datetime import UTC, datetime

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.net import Trace
from pipeops_agent.status import Step

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


class TraceTests(SynchronousTestCase):
    """L{Trace}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.trace = Trace(self.clock, lambda: NOON)

    def fail_in_step(self, error: Exception, seconds: float) -> None:
        with self.trace.step("tcp"):
            self.clock.advance(seconds)
            raise error

    def test_steps_are_timed_in_order(self) -> None:
        """Each step has its name and how long it took by the monotonic clock."""
        with self.trace.step("dns"):
            self.clock.advance(0.25)
        with self.trace.step("tcp"):
            self.clock.advance(1)
        self.assertEqual(self.trace.steps, (Step(name="dns", seconds=0.25), Step(name="tcp", seconds=1)))
        self.assertEqual(self.trace.attempt().began, NOON)
        self.assertIsNone(self.trace.attempt().error)

    def test_failure_is_noted_and_goes_on(self) -> None:
        """An exception passes through; its explanation stays with the step and the attempt."""
        self.assertRaises(Refused, self.fail_in_step, Refused(), 2)
        self.assertEqual(
            self.trace.steps, (Step(name="tcp", seconds=2, error="the peer refuses connections"),)
        )
        self.assertEqual(self.trace.attempt().error, "the peer refuses connections")

    def test_cancelled(self) -> None:
        """A step that was cancelled says so."""
        self.assertRaises(CancelledError, self.fail_in_step, CancelledError(), 0)
        self.assertEqual(self.trace.attempt().error, "cancelled")

    def test_own_error(self) -> None:
        """Whoever knows better names the attempt's error."""
        self.assertEqual(self.trace.attempt("wrong key").error, "wrong key")
