"""Tests for what wrong tokens cost."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.access.guesses import FIRST, FORGET, MAX_CLIENTS, MOST, WAITING, WAITING_IN_ALL, Guesses
from pipeops_agent.access.limits import TooMany


class GuessesTests(SynchronousTestCase):
    """Later and later, for each client by itself."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.guesses = Guesses(self.clock)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def wrong(self, client: str = "a") -> Deferred[None]:
        return Deferred.fromCoroutine(self.guesses.wrong(client))

    def cost(self, client: str = "a") -> float:
        """The seconds that one more wrong token waits."""
        began = self.clock.seconds()
        waiting = self.wrong(client)
        while not waiting.called:
            self.clock.advance(FIRST)
        self.successResultOf(waiting)
        return self.clock.seconds() - began

    def test_grows(self) -> None:
        """Each costs twice as much as the one before, up to a limit."""
        self.assertEqual(
            [self.cost() for _ in range(8)],
            [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST, 16 * FIRST, MOST, MOST, MOST],
        )

    def test_each_for_itself(self) -> None:
        """Another client is not slowed down."""
        for _ in range(5):
            self.cost("a")
        self.assertEqual(self.cost("b"), FIRST)

    def test_forgotten(self) -> None:
        """After a quiet time it begins anew."""
        for _ in range(5):
            self.cost()
        self.clock.advance(FORGET)
        self.assertEqual(self.cost(), FIRST)

    def test_waiting(self) -> None:
        """Of one client only some wait; more are refused at once, and make the next no cheaper."""
        waiting = [self.wrong() for _ in range(WAITING)]
        error = self.failureResultOf(self.wrong(), TooMany).value
        self.assertEqual(error.retry_after, FIRST * 2**WAITING)
        self.clock.advance(MOST)
        for one in waiting:
            self.successResultOf(one)
        self.assertEqual(self.cost(), MOST)

    def test_waiting_in_all(self) -> None:
        """Of all clients together only so many wait: each holds a connection."""
        waiting = [self.wrong(str(number)) for number in range(WAITING_IN_ALL)]
        self.failureResultOf(self.wrong("another"), TooMany)
        self.clock.advance(FIRST)
        for one in waiting:
            self.successResultOf(one)
        self.assertEqual(self.cost("another"), 2 * FIRST)

    def test_cancelled(self) -> None:
        """Who goes away while he waits leaves nothing behind but the count."""
        for _ in range(WAITING * 3):
            waiting = self.wrong()
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.cost(), MOST)

    def test_bounded(self) -> None:
        """Clients without end do not make the agent grow."""
        for number in range(MAX_CLIENTS + 50):
            waiting = self.wrong(str(number))
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        self.assertEqual(len(self.guesses), MAX_CLIENTS)
