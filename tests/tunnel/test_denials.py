"""Denied dials: counted by name, told in time, bounded."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.figures import DeniedDials
from pipeops_agent.tunnel.denials import (
    MAX_NAME,
    MAX_NAMES,
    MAX_SOURCES,
    OTHER,
    WINDOW,
    DenialReporter,
    Denials,
    Source,
)

HERE = Source("wss://tunnel.example:443/", 3)


class DenialsTests(SynchronousTestCase):
    """What is counted."""

    def test_by_name(self) -> None:
        """Each target is counted by itself."""
        denials = Denials()
        for asked in ("localhost:22", "localhost:22", "socks"):
            denials.note(asked, HERE)
        self.assertEqual((denials.total, denials.names), (3, {"localhost:22": 2, "socks": 1}))

    def test_bounded(self) -> None:
        """Names beyond a number are counted together, names beyond a length are cut; none gets lost."""
        denials = Denials()
        for number in range(MAX_NAMES + 500):
            denials.note(f"host-{number}:1", HERE)
        denials.note("host-0:1", HERE)
        self.assertEqual(len(denials.names), MAX_NAMES + 1)
        self.assertEqual((denials.names[OTHER], denials.names["host-0:1"]), (500, 2))
        self.assertEqual(sum(denials.names.values()), denials.total)
        long = Denials()
        long.note("x" * 5000, HERE)
        self.assertEqual([len(name) for name in long.names], [MAX_NAME])

    def test_without_a_listener(self) -> None:
        """While nobody is told nothing is kept but the counts."""
        denials = Denials()
        denials.note("localhost:22", HERE)
        self.assertEqual(denials.take(), [])


class ReporterTests(SynchronousTestCase):
    """What is told, and when."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.denials = Denials()
        self.told: list[DeniedDials] = []
        self.reporter = DenialReporter(self.clock, self.denials, self.told.append)
        self.reporter.start()

    def test_the_first_at_once(self) -> None:
        """The first is told at once: what was asked for, by which session."""
        self.denials.note("localhost:22", HERE)
        (told,) = self.told
        self.assertEqual((told.server, told.session), (HERE.server, 3))
        self.assertEqual((told.targets, told.count, told.total), ({"localhost:22": 1}, 1, 1))
        self.clock.advance(WINDOW)
        self.assertEqual((len(self.told), self.clock.getDelayedCalls()), (1, []))

    def test_a_flood(self) -> None:
        """Ten thousand in one window are two events, whose counts are right; a lasting flood is one each."""
        for number in range(10_000):
            self.denials.note(f"localhost:{number % 3}", HERE)
        self.assertEqual(len(self.told), 1)
        self.clock.advance(WINDOW)
        self.assertEqual([told.count for told in self.told], [1, 9_999])
        self.assertEqual(self.told[1].targets, {f"localhost:{n}": 3_333 for n in range(3)})
        self.denials.note("localhost:0", HERE)
        self.assertEqual(len(self.told), 2)
        self.clock.advance(WINDOW)
        self.assertEqual((self.told[2].count, self.told[2].total), (1, 10_001))
        self.clock.advance(WINDOW)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.denials.note("localhost:0", HERE)
        self.assertEqual(len(self.told), 4)

    def test_sessions_apart(self) -> None:
        """Two sessions are told of apart; more than a few within one window are not."""
        self.denials.note("a:1", HERE)
        for number in range(MAX_SOURCES + 20):
            self.denials.note("a:1", Source("wss://other.example/", number))
        self.clock.advance(WINDOW)
        self.assertEqual(len(self.told) - 1, MAX_SOURCES)
        self.assertEqual(sum(told.count for told in self.told), MAX_SOURCES + 21)

    def test_stop(self) -> None:
        """Stopping tells what has not been told, leaves no timer, and tells nothing more."""
        self.denials.note("a:1", HERE)
        self.denials.note("b:1", HERE)
        self.reporter.stop()
        self.assertEqual([told.targets for told in self.told], [{"a:1": 1}, {"b:1": 1}])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.denials.note("c:1", HERE)
        self.assertEqual((len(self.told), self.denials.total), (2, 3))
