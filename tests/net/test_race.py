"""Tests for L{pipeops_agent.net.race}: happy eyeballs, on a clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.net.race import ATTEMPT_DELAY, interleave, race
from pipeops_agent.net.resolver import Address


class RaceTests(SynchronousTestCase):
    """L{race}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.started: list[tuple[float, Deferred[str]]] = []
        self.cancelled: list[int] = []

    def begin(self, count: int) -> Deferred[str]:
        attempts: list[Callable[[], Deferred[str]]] = [
            partial(self.attempt, number) for number in range(count)
        ]
        return race(self.clock, attempts, 0.25)

    def attempt(self, number: int) -> Deferred[str]:
        deferred: Deferred[str] = Deferred(lambda _: self.cancelled.append(number))
        self.started.append((self.clock.seconds(), deferred))
        return deferred

    def moments(self) -> list[float]:
        return [moment for moment, _ in self.started]

    def over(self) -> None:
        """No timer is left."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_dead_first(self) -> None:
        """A first address that is silent costs the delay, and is given up when the second answers."""
        racing = self.begin(3)
        self.clock.advance(0.25)
        self.started[1][1].callback("second")
        self.assertEqual(self.successResultOf(racing), "second")
        self.assertEqual((self.moments(), self.cancelled), ([0, 0.25], [0]))
        self.over()

    def test_slow_first(self) -> None:
        """The first one may still win; then the others are given up."""
        racing = self.begin(4)
        self.clock.pump([0.25, 0.25])
        self.started[0][1].callback("first")
        self.assertEqual(self.successResultOf(racing), "first")
        self.assertEqual(self.cancelled, [1, 2])
        self.over()

    def test_refused_first(self) -> None:
        """One that fails at once costs nothing: the next begins in the same moment."""
        racing = self.begin(3)
        self.started[0][1].errback(OSError("unreachable"))
        self.assertEqual(self.moments(), [0, 0])
        self.clock.advance(0.25)
        self.assertEqual(self.moments(), [0, 0, 0.25])
        self.started[2][1].callback("third")
        self.assertEqual(self.successResultOf(racing), "third")
        self.over()

    def test_older_fails(self) -> None:
        """The failure of an older attempt does not hurry the next."""
        racing = self.begin(3)
        self.clock.advance(0.25)
        self.started[0][1].errback(OSError("late"))
        self.assertEqual(len(self.started), 2)
        racing.addErrback(lambda _: None).cancel()
        self.over()

    def test_all_fail(self) -> None:
        """The last failure is told, once all have failed."""
        racing = self.begin(2)
        self.clock.advance(0.25)
        self.started[1][1].errback(OSError("second"))
        self.assertNoResult(racing)
        self.started[0][1].errback(OSError("first"))
        self.assertEqual(str(self.failureResultOf(racing, OSError).value), "first")
        self.over()

    def test_at_once(self) -> None:
        """Attempts that end before they return are no different."""
        self.assertEqual(self.successResultOf(race(self.clock, [lambda: succeed("now")], 0.25)), "now")
        failing: list[Callable[[], Deferred[str]]] = [lambda: fail(OSError("a")), lambda: fail(OSError("b"))]
        self.assertEqual(str(self.failureResultOf(race(self.clock, failing, 0.25), OSError).value), "b")
        self.over()

    def test_cancelled(self) -> None:
        """Cancelling ends every attempt under way, and begins no other."""
        racing = self.begin(3)
        self.clock.advance(0.25)
        racing.cancel()
        self.failureResultOf(racing, CancelledError)
        self.assertEqual(self.cancelled, [0, 1])
        self.clock.advance(1)
        self.assertEqual(len(self.started), 2)
        self.over()

    def test_delay(self) -> None:
        """One dead address costs at most 300 ms."""
        self.assertLessEqual(ATTEMPT_DELAY, 0.3)


def addresses(text: str) -> list[Address]:
    """A C{6} is an IPv6 address, a C{4} an IPv4 one; each is numbered."""
    return [
        IPv6Address("TCP", f"2001:db8::{number}", 1)
        if kind == "6"
        else IPv4Address("TCP", f"192.0.2.{number}", 1)
        for number, kind in enumerate(text)
    ]


class InterleaveTests(SynchronousTestCase):
    """L{interleave}."""

    def test_turns(self) -> None:
        """Families take turns, beginning with the resolver's first; what is left over follows."""
        for given_order, order in {
            "666644": [0, 4, 1, 5, 2, 3],
            "4466": [0, 2, 1, 3],
            "46": [0, 1],
            "444": [0, 1, 2],
            "": [],
        }.items():
            found = addresses(given_order)
            self.assertEqual(interleave(found), [found[number] for number in order])

    @given(st.text(alphabet="46", max_size=16))
    def test_nothing_lost(self, order: str) -> None:
        """Every address is there once; within its family the order is the resolver's."""
        found = addresses(order)
        mixed = interleave(found)
        for kind in (IPv4Address, IPv6Address):
            self.assertEqual(
                [a for a in mixed if isinstance(a, kind)], [a for a in found if isinstance(a, kind)]
            )
        self.assertEqual(len(mixed), len(found))
