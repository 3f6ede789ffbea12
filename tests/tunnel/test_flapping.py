"""Flapping: it is named, it begins once, and it ends."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.events import Event
from pipeops_agent.tunnel.flapping import MANY, MAX_REMEMBERED, WINDOW, Flapping
from tests.tunnel.manager_case import DISABLED, ManagerCase, Rig
from tests.tunnel.scripted import make_order

STABLE = 30.0


class FlappingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.said: list[str | None] = []
        self.flapping = Flapping(self.clock, lambda: STABLE, self.said.append)

    def lose(self, times: int = 1, *, every: float = 10.0, lasted: float = 2.0) -> None:
        """So many sessions come up and end."""
        for _ in range(times):
            self.clock.advance(every)
            self.flapping.connected()
            self.flapping.lost(lasted, "the ping was not answered")

    def test_begins(self) -> None:
        """The fourth short session within five minutes makes it flapping, said once; the sentence goes on."""
        self.lose(MANY - 1)
        self.assertEqual((self.said, self.flapping.sentence), ([], None))
        self.lose()
        sentence = "flapping: 4 connections in 1 minute, the last ended because of: the ping was not answered"
        self.assertEqual(self.said, [sentence])
        self.lose(6)
        self.assertEqual(len(self.said), 1)
        self.assertIn("10 connections in 2 minutes", self.flapping.sentence or "")
        self.flapping.forget()

    def test_seldom(self) -> None:
        """Losses that are far apart are none, nor are those of sessions that had lasted."""
        self.lose(20, every=WINDOW / (MANY - 1) + 1)
        self.lose(20, lasted=STABLE)
        self.assertEqual((self.said, self.clock.getDelayedCalls()), ([], []))

    def test_ends_with_a_session_that_lasts(self) -> None:
        """A session that has lasted ends it; what was before does not count any more."""
        self.lose(MANY)
        self.flapping.connected()
        self.clock.advance(STABLE - 1)
        self.assertIsNotNone(self.flapping.sentence)
        self.clock.advance(1)
        self.assertEqual((self.said[1:], self.flapping.sentence), ([None], None))
        self.lose(MANY - 1)
        self.assertEqual((len(self.said), self.clock.getDelayedCalls()), (2, []))

    def test_ends_with_silence(self) -> None:
        """Where nothing is connected any more it is no flapping either, after a while."""
        self.lose(MANY)
        self.clock.advance(WINDOW)
        self.assertEqual((self.said[1:], self.clock.getDelayedCalls()), ([None], []))

    def test_bounded(self) -> None:
        """However many there are, only so many are remembered."""
        self.lose(10 * MAX_REMEMBERED, every=0.1)
        self.assertIn(f"{MAX_REMEMBERED} connections", self.flapping.sentence or "")
        self.flapping.forget()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ManagerTests(ManagerCase):
    def flap(self, rig: Rig, times: int) -> None:
        for _ in range(times):
            rig.answer().accept().lose("the server closed the connection")
            rig.clock.advance(30)

    def test_named(self) -> None:
        """The status names it, one record and one event begin it, and one of each end it."""
        rig = self.rig()
        events: list[Event] = []
        self.addCleanup(
            rig.hub.subscribe(lambda event: events.append(event) if event.event == "flapping" else None)
        )
        warnings, infos = self.logged(LogLevel.warn), self.logged(LogLevel.info)
        rig.manager.obey(make_order(8000))
        self.flap(rig, MANY + 2)
        self.assertIn("flapping: 6 connections in 3 minutes, the last ended because of:", rig.tunnel.message)
        self.assertEqual(rig.tunnel.flapping, rig.tunnel.message.split("; now:")[0])
        self.assertEqual(len([each for each in warnings if "flapping" in each]), 1)
        rig.answer().accept()
        rig.clock.advance(30)
        self.assertEqual(
            (rig.tunnel.flapping, rig.tunnel.message), (None, "connected to wss://tunnel.example:443/")
        )
        self.assertEqual(
            [each for each in infos if "flapping" in each], ["the tunnel is not flapping any more"]
        )
        self.assertEqual([event.data["flapping"] for event in events], [True, False])

    def test_not_wanted(self) -> None:
        """Where no tunnel is wanted any more it is over, and nothing is left on the clock."""
        rig = self.rig()
        rig.manager.obey(make_order(8000))
        self.flap(rig, MANY)
        self.assertIsNotNone(rig.tunnel.flapping)
        rig.manager.obey(DISABLED)
        self.assertEqual((rig.tunnel.flapping, rig.clock.getDelayedCalls()), (None, []))
