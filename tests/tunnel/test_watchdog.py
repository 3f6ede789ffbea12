"""The watchdog above all retries: when it barks, when it does not, and what the manager does then."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.events import Event
from pipeops_agent.tunnel.line import CLOSE_TIMEOUT
from pipeops_agent.tunnel.watchdog import SPREAD, TICK, Watchdog
from tests.tunnel.manager_case import DISABLED, IDLE, ManagerCase, Rig
from tests.tunnel.scripted import make_order

LIMIT = 300.0
LATEST = LIMIT * (1 + SPREAD) + TICK
"""Seconds by which a watchdog of the default limit has barked."""


def pass_time(clock: Clock, seconds: float, step: float = TICK) -> None:
    """Let time pass as a process sees it that runs all the time."""
    clock.pump([step] * round(seconds / step))


class WatchdogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.barks: list[float] = []
        self.watchdog = Watchdog(self.clock, self.barks.append, lambda: 0.0)

    def test_barks(self) -> None:
        """Not fed for the limit it barks, and again after as long."""
        self.watchdog.watch(LIMIT)
        pass_time(self.clock, LIMIT - TICK)
        self.assertEqual(self.barks, [])
        pass_time(self.clock, TICK)
        self.assertEqual(self.barks, [LIMIT])
        pass_time(self.clock, LIMIT)
        self.assertEqual(self.barks, [LIMIT, LIMIT])

    def test_fed(self) -> None:
        """Fed in time it keeps quiet."""
        self.watchdog.watch(LIMIT)
        for _ in range(10):
            pass_time(self.clock, LIMIT - TICK)
            self.watchdog.fed()
        self.assertEqual(self.barks, [])

    def test_watched_further(self) -> None:
        """To be told the same again is no food; to be told another limit begins anew."""
        self.watchdog.watch(LIMIT)
        for _ in range(round(LIMIT / TICK)):
            self.watchdog.watch(LIMIT)
            self.clock.advance(TICK)
        self.assertEqual(len(self.barks), 1)
        self.watchdog.watch(20.0)
        pass_time(self.clock, 20)
        self.assertEqual(len(self.barks), 2)

    def test_off(self) -> None:
        """With 0 it does not watch, and leaves nothing on the clock; fed meanwhile does nothing."""
        self.watchdog.watch(LIMIT)
        self.watchdog.watch(0.0)
        self.watchdog.fed()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_clock_that_jumps(self) -> None:
        """A clock set forward, or a machine that slept, counts as two ticks at most; set back, as nothing."""
        self.watchdog.watch(LIMIT)
        self.clock.advance(10 * LIMIT)
        self.assertEqual(self.barks, [])
        self.clock.rightNow -= 5 * LIMIT
        self.clock.advance(5 * LIMIT)
        pass_time(self.clock, LIMIT - 4 * TICK)
        self.assertEqual(self.barks, [])
        pass_time(self.clock, 4 * TICK)
        self.assertEqual(len(self.barks), 1)

    def test_spread(self) -> None:
        """Those of a fleet do not bark at one time."""
        late = Watchdog(self.clock, self.barks.append, lambda: 1.0)
        late.watch(LIMIT)
        pass_time(self.clock, LIMIT * (1 + SPREAD) - TICK)
        self.assertEqual(self.barks, [])
        pass_time(self.clock, TICK)
        self.assertEqual(len(self.barks), 1)

    def test_a_bark_that_fails(self) -> None:
        """Whatever comes of a bark, the watch goes on."""
        heard: list[float] = []

        def fail(quiet: float) -> None:
            heard.append(quiet)
            raise ZeroDivisionError

        watchdog = Watchdog(self.clock, fail, lambda: 0.0)
        watchdog.watch(20.0)
        for _ in range(4):
            try:
                pass_time(self.clock, 20)
            except ZeroDivisionError:
                continue
        self.assertGreater(len(heard), 1)


class RebuildTests(ManagerCase):
    def events(self, rig: Rig) -> list[Event]:
        """The rebuilds from now on."""
        events: list[Event] = []
        self.addCleanup(
            rig.hub.subscribe(lambda event: events.append(event) if event.event == "rebuilt" else None)
        )
        return events

    def test_an_attempt_that_never_ends(self) -> None:
        """
        An attempt that neither fires nor can be cancelled: everything is made anew, the opener too, and tried
        at once; one record and one event say why, and what was known.
        """
        rig = self.rig()
        warnings, events = self.logged(LogLevel.warn), self.events(rig)
        rig.opener.stuck = True
        rig.manager.obey(make_order(8000))
        stuck = rig.answer()
        rig.opener.stuck = False
        pass_time(rig.clock, LATEST)
        self.assertEqual((rig.openers_made, rig.tunnel.rebuilds, len(events)), (2, 1, 1))
        self.assertEqual(warnings[1:], ["an attempt to connect did not end within 1.5 s"])
        self.assertIn("no answer of the server for 330 s, in the state connecting", warnings[0])
        self.assertIn("the last contact: none yet", warnings[0])
        fresh = rig.opener.last
        self.assertIsNot(fresh, stuck)
        fresh.accept()
        self.assertEqual(rig.state, "connected")
        late = stuck.accept()
        self.assertFalse(late.alive)
        self.assertEqual((rig.state, rig.forwards["a"]), ("connected", "listening"))

    def test_a_session_that_proves_nothing(self) -> None:
        """A session whose pings are not answered, and whose deadlines do not act, is cut, without a word."""
        rig = self.rig()
        session = rig.connect(8000)
        session.slow = True
        for _ in range(10):
            pass_time(rig.clock, LIMIT - TICK)
            rig.manager.pinged()
        self.assertTrue(session.alive)
        contact = rig.tunnel.contact
        pass_time(rig.clock, LATEST)
        self.assertFalse(session.alive)
        self.assertEqual((rig.tunnel.contact, rig.answer().ports), (contact, [8000]))
        rig.answer().accept()
        self.assertEqual(rig.state, "connected")

    def test_a_machine_that_is_stuck(self) -> None:
        """
        A line whose machine raises when it is told to let go is left behind, and said; the next one works,
        and the one before opens nothing any more.
        """
        rig = self.rig()
        rig.manager.obey(make_order(8000))

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        line, disable = rig.manager._lines.main, rig.manager._lines.main.disable
        self.patch(line, "disable", fail)
        pass_time(rig.clock, LATEST)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        rig.opener.last.accept()
        self.assertEqual(rig.state, "connected")
        rig.opener.attempts[0].fail()
        rig.clock.advance(30)
        self.assertEqual((line.state, len(rig.opener.attempts)), ("waiting", 2))
        disable("the end of the test")

    def test_a_session_that_can_not_be_cut(self) -> None:
        """A session that raises when it is cut keeps nothing from being made anew."""
        rig = self.rig()
        session = rig.connect(8000)
        session.slow = True

        def fail(why: str) -> None:
            raise ZeroDivisionError

        self.patch(session, "abort", fail)
        openers = len(rig.opener.attempts)
        pass_time(rig.clock, LATEST)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertGreater(len(rig.opener.attempts), openers)
        rig.opener.last.accept()
        self.assertEqual(rig.state, "connected")

    def test_a_long_outage(self) -> None:
        """In a long outage there is one rebuild after the other; each outage has its records once."""
        rig = self.rig()
        warnings, errors = self.logged(LogLevel.warn), self.logged(LogLevel.error)
        rig.manager.obey(make_order(8000))

        def outage(seconds: float) -> None:
            for _ in range(round(seconds)):
                for attempt in rig.opener.pending:
                    attempt.fail("no answer")
                rig.clock.advance(1)

        outage(4 * LATEST)
        self.assertEqual(rig.tunnel.rebuilds, 4)
        said = [each for each in warnings if "the watchdog" in each]
        self.assertEqual((len(said), len(warnings), len(errors)), (1, 2, 1))
        self.assertIn("['no answer']", said[0])
        rig.clock.advance(30)
        rig.answer().accept().lose()
        outage(LATEST + TICK)
        self.assertEqual(len([each for each in warnings if "the watchdog" in each]), 2)

    def test_a_refusal_is_an_answer(self) -> None:
        """A server that refuses all ports lives: to make everything anew would not help."""
        rig = self.rig()
        rig.manager.obey(make_order(8000))
        for _ in range(round(2 * LATEST / TICK)):
            for attempt in rig.opener.pending:
                attempt.refuse(8000)
            rig.clock.advance(TICK)
        self.assertEqual(rig.tunnel.rebuilds, 0)
        self.assertIsNotNone(rig.tunnel.contact)

    def test_where_no_tunnel_is_wanted(self) -> None:
        """It keeps quiet where none is wanted, none can be had, or it sleeps; no timer is left of it."""
        quiet: list[Callable[[Rig], None]] = [
            lambda rig: rig.manager.obey(DISABLED),
            lambda rig: rig.manager.obey(IDLE),
            lambda rig: rig.manager.obey(make_order()),
        ]
        for act in quiet:
            rig = self.rig()
            rig.manager.obey(make_order(8000))
            act(rig)
            pass_time(rig.clock, LATEST)
            self.assertEqual((rig.tunnel.rebuilds, rig.clock.getDelayedCalls()), (0, []))
        asleep = self.rig(inactivity_policy="always", inactivity_timeout=40.0)
        asleep.connect(8000)
        pass_time(asleep.clock, LATEST)
        self.assertEqual((asleep.state, asleep.tunnel.rebuilds), ("idle", 0))

    def test_off(self) -> None:
        """With C{tunnel.watchdog: 0} nothing is ever made anew."""
        rig = self.rig(watchdog=0.0)
        rig.manager.obey(make_order(8000))
        pass_time(rig.clock, 3 * LATEST)
        self.assertEqual((rig.tunnel.rebuilds, len(rig.opener.attempts)), (0, 1))

    def test_never_less_than_a_ping_may_take(self) -> None:
        """A limit below the time that an answer to a ping may take would break tunnels that live."""
        rig = self.rig(watchdog=1.0, ping_interval=100.0, ping_timeout=20.0)
        session = rig.connect(8000)
        pass_time(rig.clock, 195)
        self.assertTrue(session.alive)
        pass_time(rig.clock, 50)
        self.assertFalse(session.alive)

    def test_a_stop_right_after(self) -> None:
        """A stop waits for what the rebuild has left behind, in bounded time."""
        rig = self.rig()
        rig.opener.stuck = True
        rig.manager.obey(make_order(8000))
        pass_time(rig.clock, LATEST - TICK)
        while rig.tunnel.rebuilds == 0:
            rig.clock.advance(1)
        stopped = rig.manager.stopService()
        rig.clock.pump([CLOSE_TIMEOUT / 2] * 4)
        self.successResultOf(stopped)
        for attempt in rig.opener.pending:
            attempt.fail()
