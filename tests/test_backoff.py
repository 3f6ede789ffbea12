"""Tests for L{pipeops_agent.backoff}."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.backoff import Backoff, Spacing


class ClockCase(SynchronousTestCase):
    """Has a clock."""

    def setUp(self) -> None:
        self.clock = Clock()


class BackoffTests(ClockCase):
    """How long to wait."""

    def backoff(self, random: Callable[[], float] = lambda: 1.0, **options: float) -> Backoff:
        return Backoff(self.clock, interval=5, step=5, random=random, **options)

    def test_bounds(self) -> None:
        """After n failures the bound is the interval and 2^n - 1 steps, up to the cap."""
        backoff = self.backoff(cap=100)
        self.assertEqual(backoff.bound(), 5)
        self.assertEqual([backoff.failed() for _ in range(6)], [10, 20, 40, 80, 100, 100])
        self.assertEqual(backoff.failures, 6)

    def test_default_cap(self) -> None:
        """By default nobody waits longer than 30 s."""
        backoff = self.backoff()
        self.assertEqual([backoff.failed() for _ in range(4)], [10, 20, 30, 30])

    def test_jitter(self) -> None:
        """The wait is anything from nothing to the bound."""
        values = [0.0, 0.5, 0.25]
        backoff = self.backoff(lambda: values.pop(0))
        self.assertEqual([backoff.failed() for _ in range(3)], [0, 10, 7.5])

    def test_long_outage(self) -> None:
        """Weeks of failures overflow nothing."""
        backoff = self.backoff()
        for _ in range(5000):
            self.assertLessEqual(backoff.failed(), 30)
        self.assertEqual(backoff.failures, 5000)

    def test_unstable_success(self) -> None:
        """A success that does not last counts for nothing."""
        backoff = self.backoff(stable_after=30)
        backoff.failed()
        backoff.succeeded()
        self.clock.advance(29.9)
        self.assertEqual(backoff.failures, 1)
        self.assertEqual(backoff.failed(), 20)

    def test_stable_success(self) -> None:
        """A success that has lasted resets the count, before the next failure shows it."""
        backoff = self.backoff(stable_after=30)
        backoff.failed()
        backoff.failed()
        backoff.succeeded()
        self.clock.advance(30)
        self.assertEqual(backoff.failures, 0)
        self.assertEqual(backoff.bound(), 5)
        self.assertEqual(backoff.failed(), 10)
        self.assertEqual(backoff.failures, 1)

    def test_later_successes(self) -> None:
        """What counts is how long it has been well, not when it was last said."""
        backoff = self.backoff(stable_after=30)
        backoff.failed()
        for _ in range(4):
            backoff.succeeded()
            self.clock.advance(10)
        self.assertEqual(backoff.failures, 0)

    def test_interrupted_success(self) -> None:
        """Two good times with a failure between them are not added up."""
        backoff = self.backoff(stable_after=30)
        for _ in range(2):
            backoff.succeeded()
            self.clock.advance(20)
            backoff.failed()
        self.assertEqual(backoff.failures, 2)

    def test_fast_phase(self) -> None:
        """After a success that lasted, attempts begin 2 s apart at most; later the waits grow as ever."""
        backoff = self.backoff(fast_for=90)
        backoff.succeeded()
        self.clock.advance(30)
        self.assertFalse(backoff.fast)
        self.assertEqual(backoff.failed(), 0.5)
        self.assertTrue(backoff.fast)
        for took, wait in ((0.0, 2.0), (0.5, 1.5), (2.0, 0.0), (10.0, 0.0)):
            self.assertEqual(backoff.failed(took=took), wait)
            self.assertEqual(backoff.failures, 1)
        self.clock.advance(89.9)
        self.assertEqual(backoff.failed(), 2.0)
        self.clock.advance(0.1)
        self.assertFalse(backoff.fast)
        self.assertEqual([backoff.failed(took=5.0) for _ in range(3)], [20, 30, 30])

    def test_fast_phase_has_jitter(self) -> None:
        """The first attempt comes within half a second, the others 1 to 2 s after each other."""
        backoff = self.backoff(lambda: 0.0, fast_for=90)
        backoff.succeeded()
        self.clock.advance(30)
        self.assertEqual([backoff.failed(), backoff.failed(), backoff.failed(took=0.25)], [0.0, 1.0, 0.75])

    def test_fast_phase_of_the_quick(self) -> None:
        """Where the waits are set to be shorter anyway, they are no longer in a fast phase."""
        backoff = Backoff(self.clock, interval=0.1, step=0.0, fast_for=90, random=lambda: 1.0)
        backoff.succeeded()
        self.clock.advance(30)
        self.assertEqual([backoff.failed(), backoff.failed()], [0.1, 0.1])

    def test_fast_phase_has_an_end(self) -> None:
        """A short success within it, or a clock that is set back, does not prolong it."""
        backoff = self.backoff(fast_for=90)
        backoff.succeeded()
        self.clock.advance(30)
        backoff.failed()
        self.clock.advance(60)
        backoff.succeeded()
        self.clock.advance(20)
        self.assertEqual(backoff.failed(), 2.0)
        self.clock.advance(10)
        self.assertEqual(backoff.failed(), 20)
        self.clock.rightNow -= 1000
        self.assertFalse(backoff.fast)

    def test_no_fast_phase(self) -> None:
        """There is none after a success that did not last, whatever counts as that; nor unasked."""
        for fast_for, stable_after, lasted in ((90, 30, 29), (90, 0, 1.9), (0, 30, 1000)):
            backoff = self.backoff(fast_for=fast_for, stable_after=stable_after)
            backoff.succeeded()
            self.clock.advance(lasted)
            self.assertEqual(backoff.failed(), 10)
            self.assertFalse(backoff.fast)

    def test_of_no_use(self) -> None:
        """A failure that does not mend soon is waited for as ever, in a fast phase too."""
        backoff = self.backoff(fast_for=90)
        backoff.succeeded()
        self.clock.advance(30)
        self.assertEqual([backoff.failed(soon=False) for _ in range(3)], [10, 20, 30])
        self.assertEqual(backoff.failed(), 2.0)

    @given(st.floats(0, 1, exclude_max=True), st.integers(0, 100))
    def test_never_out_of_bounds(self, chance: float, failures: int) -> None:
        """No wait is negative, above the cap, or above what the formula allows."""
        backoff = Backoff(Clock(), interval=5, step=2, random=lambda: chance)
        for n in range(1, failures + 1):
            self.assertTrue(0 <= backoff.failed() <= min(30, 5 + 2 * (2**n - 1)))


class SpacingTests(ClockCase):
    """Not too often."""

    def test_spacing(self) -> None:
        """The first time is allowed, the next when the seconds have passed since the last that was."""
        spacing = Spacing(self.clock, 60)
        allowed = []
        for _ in range(5):
            allowed.append(spacing.allows())
            self.clock.advance(30)
        self.assertEqual(allowed, [True, False, True, False, True])

    def test_clock_set_back(self) -> None:
        """A clock that is set back does not shut the door for an hour."""
        spacing = Spacing(self.clock, 60)
        self.assertTrue(spacing.allows())
        self.clock.rightNow -= 3600
        self.assertTrue(spacing.allows())
