"""Pings with a deadline."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.keepalive import Keepalive


class KeepaliveTests(SynchronousTestCase):
    """A keepalive with an interval of 10 s and a timeout of 5 s."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.sent: list[float] = []
        self.dead: list[str] = []
        self.heard = 0.0
        self.keepalive = Keepalive(
            self.clock,
            "SSH",
            interval=10,
            timeout=5,
            send=lambda: self.sent.append(self.clock.seconds()),
            heard=lambda: self.heard,
            dead=self.dead.append,
        )
        self.keepalive.start()

    def test_pace(self) -> None:
        """One ping per interval, however long the answer took; the round trip is measured."""
        self.clock.advance(10)
        for _ in range(3):
            self.clock.advance(2)
            self.keepalive.answered()
            self.assertEqual(self.keepalive.rtt, 2)
            self.clock.advance(8)
        self.assertEqual(self.sent, [10, 20, 30, 40])

    def test_silence_is_death(self) -> None:
        """Without an answer the peer is dead after interval and timeout, said once."""
        self.clock.advance(10)
        self.clock.advance(4.9)
        self.assertEqual(self.dead, [])
        self.clock.advance(0.1)
        self.assertEqual(self.dead, ["no answer to a SSH ping within 5 s"])
        self.clock.pump([1] * 60)
        self.assertEqual(len(self.dead), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_other_bytes_move_the_deadline(self) -> None:
        """While bytes come, the answer may be late."""
        self.clock.advance(10)
        self.heard = 14.0
        self.clock.advance(5)
        self.assertEqual(self.dead, [])
        self.clock.advance(3.9)
        self.assertEqual(self.dead, [])
        self.clock.advance(0.2)
        self.assertEqual(len(self.dead), 1)

    def test_but_not_for_ever(self) -> None:
        """A peer that sends bytes and never answers is dead after four timeouts."""
        self.clock.advance(10)
        for _ in range(19):
            self.clock.advance(1)
            self.heard = self.clock.seconds()
        self.assertEqual(self.dead, [])
        self.clock.advance(1)
        self.assertEqual(len(self.dead), 1)

    def test_stop(self) -> None:
        """Stopping leaves no timer, with and without a ping under way; answers are ignored then."""
        self.clock.advance(10)
        self.keepalive.stop()
        self.keepalive.answered()
        self.keepalive.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.dead, [])

    def test_clock_set_on(self) -> None:
        """A clock set on ten minutes is no silence: a new deadline is set, and the jump is no round trip."""
        self.clock.advance(10)
        self.clock.advance(600)
        self.assertEqual(self.dead, [])
        self.clock.advance(1)
        self.keepalive.answered()
        self.assertLess(self.keepalive.rtt or 0.0, 10)
        self.clock.advance(9)
        self.assertEqual(len(self.sent), 2)

    def test_clock_set_on_and_dead(self) -> None:
        """A peer that is dead all the same is found so one timeout later; no two pings at once."""
        self.clock.advance(10)
        self.clock.advance(600)
        self.clock.advance(4.9)
        self.assertEqual(self.dead, [])
        self.clock.advance(0.1)
        self.assertEqual(len(self.dead), 1)
        self.assertEqual((len(self.sent), self.clock.getDelayedCalls()), (1, []))

    def test_clock_set_on_between_pings(self) -> None:
        """Between two pings a jump only brings the next one forward: one, not sixty."""
        self.clock.advance(10)
        self.keepalive.answered()
        self.clock.advance(600)
        self.assertEqual(len(self.sent), 2)
        self.keepalive.answered()
        self.clock.advance(9)
        self.assertEqual(len(self.sent), 2)

    def test_clock_set_back(self) -> None:
        """A clock set back with a ping under way makes no negative round trip, and no long wait after it."""
        self.clock.advance(10)
        self.clock.rightNow -= 600
        self.keepalive.answered()
        self.assertEqual(self.keepalive.rtt, 0.0)
        self.clock.advance(10)
        self.assertEqual(len(self.sent), 2)

    def test_answer_to_nothing(self) -> None:
        """An answer that was not asked for changes nothing."""
        self.keepalive.answered()
        self.assertIsNone(self.keepalive.rtt)
        self.clock.advance(10)
        self.assertEqual(len(self.sent), 1)
