"""The tunnel's policy: what is opened, kept, closed and shown, and when."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pipeops_agent.errors import ExitStatus, FatalError
from pipeops_agent.events import EventHub
from pipeops_agent.orders import Allocation, ServerAddress, TunnelOrder
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_pipeops import ReconnectSettings
from pipeops_agent.settings.model_tunnel import Forward, TunnelSettings
from pipeops_agent.status import StatusBoard
from pipeops_agent.tunnel.line import CLOSE_TIMEOUT, LONG_WAIT
from pipeops_agent.tunnel.manager import MAX_ATTEMPTS_SHOWN, WAKE_SPACING, TunnelManager
from pipeops_agent.tunnel.traffic import TrafficCounters
from tests.tunnel.scripted import Attempt, ScriptedOpener, ScriptedSession, make_order, make_server, wall_of

FORWARDS = tuple(
    Forward(name=name, local_addr=f"localhost:{port}") for name, port in [("a", 1), ("b", 2), ("c", 3)]
)
FIRST_WAIT = 10.0
"""The seconds to the second attempt, with the default settings and the longest jitter."""

IDLE = TunnelOrder("idle")
DISABLED = TunnelOrder("disabled")


class Rig:
    """A manager with a clock, a board, and a server whose every answer is the test's."""

    def __init__(self, reconnect: ReconnectSettings | None = None, **tunnel: Any) -> None:
        self.clock = Clock()
        self.board = StatusBoard(EventHub(self.wall), self.wall)
        self.opener = ScriptedOpener(self.clock)
        self.counters = TrafficCounters()
        self.settings = TunnelSettings(**{"forwards": FORWARDS, **tunnel})
        self.fatal: list[FatalError] = []
        self.states: list[str] = []
        self.manager = TunnelManager(
            self.clock,
            self.settings,
            reconnect or ReconnectSettings(),
            board=self.board,
            wall=self.wall,
            opener=self.opener,
            counters=self.counters,
            on_fatal=self.fatal.append,
            random=lambda: 1.0,
        )

    def wall(self) -> Any:
        return wall_of(self.clock)

    @property
    def tunnel(self) -> Any:
        return self.board.now.tunnel

    @property
    def state(self) -> str:
        return self.board.now.tunnel.state

    @property
    def forwards(self) -> dict[str, str]:
        """The state of each forward."""
        return {forward.name: forward.state for forward in self.tunnel.forwards}

    def answer(self) -> Attempt:
        """The one attempt that waits for an answer."""
        (pending,) = self.opener.pending
        return pending

    def connect(self, *ports: int, order: TunnelOrder | None = None) -> ScriptedSession:
        """Have a session to these ports."""
        self.manager.obey(order or make_order(*(ports or (8000, 8001, 8002))))
        return self.answer().accept()


class ManagerCase(SynchronousTestCase):
    """Starts managers; at the end of each test stops them, and sees that nothing is left of them."""

    def rig(self, reconnect: ReconnectSettings | None = None, **tunnel: Any) -> Rig:
        rig = Rig(reconnect, **tunnel)
        rig.manager.startService()
        self.addCleanup(self.stop, rig)
        return rig

    def stop(self, rig: Rig) -> None:
        """Stop the manager; afterwards there is no timer, no attempt and no session."""
        if rig.manager.running:
            stopped = rig.manager.stopService()
            rig.clock.pump([CLOSE_TIMEOUT / 2] * 6)
            self.successResultOf(stopped)
        self.assertEqual(rig.clock.getDelayedCalls(), [])
        self.assertEqual(rig.opener.pending, [])
        self.assertEqual(rig.state, "disabled")

    def logged(self, level: LogLevel) -> list[str]:
        """What has been logged at C{level} from now on."""
        lines: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event["log_level"] is level and event["log_namespace"] == "tunnel":
                lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return lines


class OrderTests(ManagerCase):
    def test_before_the_first_order(self) -> None:
        """A started manager without an order is disabled, connects to nothing, and shows the forwards."""
        rig = self.rig()
        self.assertEqual((rig.state, rig.tunnel.message), ("disabled", "not asked for yet"))
        self.assertEqual(rig.forwards, {"a": "configured", "b": "configured", "c": "configured"})
        self.assertEqual(rig.opener.attempts, [])

    def test_an_order_before_the_start(self) -> None:
        """An order that comes before the start is obeyed at the start."""
        rig = Rig()
        rig.manager.obey(make_order(8000))
        self.assertEqual(rig.opener.attempts, [])
        rig.manager.startService()
        self.addCleanup(self.stop, rig)
        self.assertEqual(rig.answer().ports, [8000])

    def test_connect(self) -> None:
        """A wanted tunnel is opened with all allocated forwards; the status follows every step."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001))
        self.assertEqual((rig.state, rig.tunnel.server), ("connecting", "wss://tunnel.example:443/"))
        self.assertEqual(rig.forwards, {"a": "allocated", "b": "allocated", "c": "configured"})
        rig.clock.advance(2)
        self.assertEqual(rig.answer().ports, [8000, 8001])
        rig.answer().accept()
        self.assertEqual((rig.state, rig.tunnel.rtt), ("connected", 0.02))
        self.assertEqual(rig.tunnel.since, rig.wall())
        self.assertEqual(rig.forwards, {"a": "listening", "b": "listening", "c": "configured"})
        self.assertEqual(rig.board.traffic().connects, 1)

    def test_unchanged(self) -> None:
        """The same order again, or with its allocations in another order, leaves the session alone."""
        rig = self.rig()
        session = rig.connect(8000, 8001)
        rig.manager.obey(make_order(8000, 8001))
        order = make_order(8000, 8001)
        rig.manager.obey(TunnelOrder("wanted", order.server, tuple(reversed(order.allocations))))
        rig.manager.reconfigure(rig.settings)
        self.assertTrue(session.alive)
        self.assertEqual(len(rig.opener.attempts), 1)

    def test_switched_off(self) -> None:
        """With tunnel.enabled off no order opens a tunnel, and the status says why."""
        rig = self.rig(enabled=False)
        rig.manager.obey(make_order(8000))
        self.assertEqual((rig.state, rig.tunnel.message), ("disabled", "switched off in the settings"))
        self.assertEqual(rig.opener.attempts, [])

    def test_disabled_closes_at_once(self) -> None:
        """The order disabled closes a tunnel in use, and ends an attempt under way."""
        rig = self.rig()
        session = rig.connect(8000)
        rig.manager.obey(DISABLED)
        self.assertFalse(session.alive)
        self.assertEqual(rig.state, "disabled")
        rig.manager.obey(make_order(8000))
        attempt = rig.answer()
        rig.manager.obey(DISABLED)
        self.assertTrue(attempt.cancelled)
        self.assertEqual(rig.state, "disabled")

    def test_closing_is_shown(self) -> None:
        """While a session takes its time to close, the state is closing; a new wish waits for its end."""
        rig = self.rig()
        session = rig.connect(8000)
        session.slow = True
        rig.manager.obey(DISABLED)
        self.assertEqual(rig.state, "closing")
        rig.manager.obey(make_order(8000))
        self.assertEqual((rig.state, rig.opener.pending), ("closing", []))
        session.finish()
        self.assertEqual((rig.state, rig.answer().ports), ("connecting", [8000]))

    def test_a_session_that_does_not_close(self) -> None:
        """A session that does not end is left behind after a while, and said; its late end is nobody's."""
        rig = self.rig()
        warnings = self.logged(LogLevel.warn)
        left_behind = rig.connect(8000)
        left_behind.slow = True
        rig.manager.obey(DISABLED)
        rig.clock.advance(CLOSE_TIMEOUT)
        self.assertEqual(rig.state, "disabled")
        self.assertEqual(warnings, ["a session did not end within 1.5 s"])
        rig.connect(8000)
        left_behind.finish()
        self.assertEqual(rig.state, "connected")

    def test_none_left(self) -> None:
        """Without a port for any forward there is no tunnel, and an error, once; the next order is heard."""
        rig = self.rig()
        errors = self.logged(LogLevel.error)
        session = rig.connect(8000)
        for _ in range(3):
            rig.manager.obey(TunnelOrder("wanted", make_server(), ()))
        self.assertFalse(session.alive)
        self.assertEqual(rig.state, "waiting")
        self.assertEqual(
            errors,
            ["there can be no tunnel: none of the configured forwards has a port on the tunnel server"],
        )
        self.assertEqual(rig.clock.getDelayedCalls(), [])
        rig.connect(8000)
        self.assertEqual(rig.state, "connected")

    def test_unencrypted_server(self) -> None:
        """A ws:// server is never connected to unless it is allowed; an error says so, once."""
        rig = self.rig()
        errors = self.logged(LogLevel.error)
        for port in (8000, 8001, 8001):
            rig.manager.obey(make_order(port, server=make_server(address=ServerAddress("h", tls=False))))
        self.assertEqual((rig.state, rig.opener.attempts), ("waiting", []))
        self.assertEqual(len(errors), 1)
        self.assertIn("ws://h:443/ is refused", errors[0])

    def test_skipped_allocations_are_said_once(self) -> None:
        """An allocation without a forward is a warning, once, however often it comes."""
        rig = self.rig()
        warnings = self.logged(LogLevel.warn)
        for port in (8000, 8001, 8000, 8001):
            rig.manager.obey(
                TunnelOrder("wanted", make_server(), (Allocation("x", 1), Allocation("a", port)))
            )
        self.assertEqual(len(warnings), 1)
        self.assertIn("'x' (port 1) is the name of no configured forward", warnings[0])


class RebuildTests(ManagerCase):
    def test_same_ports_break_then_make(self) -> None:
        """Other credentials, another fingerprint, another path: the old session ends, then the new begins."""
        for server in [
            make_server(credentials=("user", Secret("pass"))),
            make_server(fingerprint="B" * 43 + "="),
            make_server(address=ServerAddress("TUNNEL.example", path="/other")),
        ]:
            rig = self.rig()
            session = rig.connect(8000)
            session.slow = True
            rig.manager.obey(make_order(8000, server=server))
            self.assertEqual((rig.state, rig.opener.pending), ("closing", []))
            session.finish()
            self.assertEqual((rig.state, rig.answer().server), ("connecting", server))

    def test_a_shared_port_breaks_first(self) -> None:
        """A port of both is enough: the second session could not have it."""
        rig = self.rig()
        session = rig.connect(8000, 8001)
        rig.manager.obey(make_order(8000, 9001))
        self.assertFalse(session.alive)
        self.assertEqual(rig.answer().ports, [8000, 9001])

    def test_other_ports_make_before_break(self) -> None:
        """Other ports: the old session serves until the new one is up, and is closed then."""
        rig = self.rig()
        old = rig.connect(8000)
        rig.manager.obey(make_order(9000))
        self.assertTrue(old.alive)
        self.assertEqual((rig.state, rig.answer().ports), ("connected", [9000]))
        self.assertIn("its successor is connecting", rig.tunnel.message)
        new = rig.answer().accept()
        self.assertFalse(old.alive)
        self.assertTrue(new.alive)
        self.assertEqual((rig.state, rig.tunnel.forwards[0].remote_port), ("connected", 9000))

    def test_another_server_makes_before_break(self) -> None:
        """Another server, the same ports: the old session serves until the new one is up."""
        rig = self.rig()
        old = rig.connect(8000)
        rig.manager.obey(make_order(8000, server=make_server("other.example")))
        self.assertTrue(old.alive)
        rig.answer().accept()
        self.assertFalse(old.alive)
        self.assertEqual(rig.tunnel.server, "wss://other.example:443/")

    def test_the_other_server_is_away(self) -> None:
        """While the other server can't be reached the old session stays, and the new one is tried further."""
        rig = self.rig()
        old = rig.connect(8000)
        rig.manager.obey(make_order(8000, server=make_server("other.example")))
        for _ in range(3):
            rig.answer().fail()
            self.assertEqual(rig.state, "connected")
            self.assertIn("its successor is waiting: connection refused", rig.tunnel.message)
            rig.clock.advance(30)
        self.assertTrue(old.alive)

    def test_lost_while_the_next_is_made(self) -> None:
        """An old session that is lost meanwhile is not opened again: only the new one is tried."""
        rig = self.rig()
        old = rig.connect(8000)
        rig.manager.obey(make_order(9000))
        old.lose()
        self.assertEqual((rig.state, rig.answer().ports), ("connecting", [9000]))
        rig.answer().accept()
        self.assertEqual(rig.state, "connected")

    def test_change_of_mind(self) -> None:
        """The old order again, while its successor is being made: the session is kept, the successor not."""
        rig = self.rig()
        old = rig.connect(8000)
        rig.manager.obey(make_order(9000))
        attempt = rig.answer()
        rig.manager.obey(make_order(8000))
        self.assertTrue(attempt.cancelled)
        self.assertTrue(old.alive)
        self.assertEqual((rig.state, len(rig.opener.attempts)), ("connected", 2))

    def test_the_third_order(self) -> None:
        """A third order, while the second is being made, takes the second's place; the first still serves."""
        rig = self.rig()
        old = rig.connect(8000)
        rig.manager.obey(make_order(9000))
        rig.manager.obey(make_order(9001))
        self.assertEqual((rig.answer().ports, old.alive), ([9001], True))

    def test_the_same_server_by_another_name(self) -> None:
        """A new server that refuses the ports that we hold ourselves is the old one: break, then make."""
        rig = self.rig()
        old = rig.connect(8000, 8001)
        rig.manager.obey(make_order(8000, 8001, server=make_server("alias.example")))
        rig.answer().refuse(8000)
        self.assertEqual(rig.answer().ports, [8001])
        old.slow = True
        rig.answer().refuse(8001)
        self.assertEqual((rig.opener.pending, old.alive), ([], True))
        old.finish()
        self.assertEqual(rig.answer().ports, [8000, 8001])
        rig.answer().accept()
        self.assertEqual(rig.forwards, {"a": "listening", "b": "listening", "c": "configured"})

    def test_live_forwards(self) -> None:
        """Forwards changed in the settings: another target is a rebuild, a forward without a port is not."""
        rig = self.rig()
        session = rig.connect(8000)
        extra = Forward(name="d", local_addr="localhost:4")
        rig.manager.reconfigure(msgspec.structs.replace(rig.settings, forwards=(*FORWARDS, extra)))
        self.assertTrue(session.alive)
        self.assertEqual(rig.forwards["d"], "configured")
        moved = Forward(name="a", local_addr="localhost:99")
        rig.manager.reconfigure(msgspec.structs.replace(rig.settings, forwards=(moved,)))
        self.assertFalse(session.alive)
        self.assertEqual(rig.answer().remotes[0].target, "localhost:99")

    def test_an_attempt_to_the_wrong_target(self) -> None:
        """A changed order ends the attempt under way before the next begins."""
        rig = self.rig()
        rig.manager.obey(make_order(8000))
        first = rig.answer()
        rig.manager.obey(make_order(9000))
        self.assertTrue(first.cancelled)
        self.assertEqual(rig.answer().ports, [9000])


class ReconnectTests(ManagerCase):
    def test_backoff(self) -> None:
        """Failures are followed by growing waits, up to 30 s; the message says which failure and how long."""
        rig = self.rig()
        rig.manager.obey(make_order(8000))
        for wait in [FIRST_WAIT, 20, 30, 30]:
            rig.answer().fail()
            self.assertEqual(rig.state, "waiting")
            self.assertEqual(rig.tunnel.message, f"connection refused; the next attempt is in {wait:.1f} s")
            rig.clock.advance(wait - 0.25)
            self.assertEqual(rig.opener.pending, [])
            rig.clock.advance(0.25)
            self.assertEqual(rig.state, "connecting")

    def test_a_short_success_counts_for_nothing(self) -> None:
        """A session lost before tunnel.stable_after continues the row; one that lasted begins it anew."""
        rig = self.rig(stable_after=30.0)
        rig.manager.obey(make_order(8000))
        rig.answer().fail()
        rig.clock.advance(FIRST_WAIT)
        session = rig.answer().accept()
        rig.clock.advance(29)
        session.lose("ping timeout")
        self.assertIn("ping timeout; the next attempt is in 20.0 s", rig.tunnel.message)
        rig.clock.advance(20)
        session = rig.answer().accept()
        rig.clock.advance(30)
        session.lose()
        self.assertIn("the next attempt is in 10.0 s", rig.tunnel.message)

    def test_lost(self) -> None:
        """A lost session makes its forwards allocated again, and is opened again."""
        rig = self.rig()
        rig.connect(8000).lose()
        self.assertEqual((rig.state, rig.forwards["a"]), ("waiting", "allocated"))
        self.assertIsNone(rig.tunnel.rtt)
        rig.clock.advance(FIRST_WAIT)
        rig.answer().accept()
        self.assertEqual((rig.state, rig.forwards["a"]), ("connected", "listening"))
        self.assertEqual(rig.counters.connects, 2)

    def test_hopeless(self) -> None:
        """A failure that won't mend itself is tried again, but seldom; a new order is tried at once."""
        rig = self.rig()
        rig.manager.obey(make_order(8000))
        rig.answer().fail("wrong host key", retryable=False)
        rig.clock.advance(LONG_WAIT - 1)
        self.assertEqual(rig.opener.pending, [])
        rig.manager.obey(make_order(8000, server=make_server(fingerprint="B" * 43 + "=")))
        self.assertEqual(rig.state, "connecting")

    def test_wake(self) -> None:
        """Waking makes the waiting attempt now; again only after a while; and does nothing to a session."""
        rig = self.rig()
        rig.manager.wake()
        rig.manager.obey(make_order(8000))
        for _ in range(4):
            rig.answer().fail()
            rig.clock.advance(30)
        rig.answer().fail()
        rig.manager.wake()
        rig.answer().fail()
        rig.manager.wake()
        self.assertEqual(rig.opener.pending, [])
        rig.clock.advance(WAKE_SPACING)
        session = rig.answer().accept()
        rig.manager.wake()
        self.assertTrue(session.alive)

    def test_unexpected_error(self) -> None:
        """A defect in the opener is logged with its traceback, and counts as a failure."""
        rig = self.rig()
        rig.manager.obey(make_order(8000))
        rig.answer().answer.errback(ZeroDivisionError())
        self.assertEqual(rig.state, "waiting")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_repeated_failures_are_said_once(self) -> None:
        """The same failure again is logged at debug only; another one, and the end of the row, are said."""
        rig = self.rig()
        warnings, infos = self.logged(LogLevel.warn), self.logged(LogLevel.info)
        rig.manager.obey(make_order(8000))
        for _ in range(5):
            rig.answer().fail()
            rig.clock.advance(30)
        self.assertEqual(len(warnings), 1)
        self.assertEqual(len(infos), 1)
        rig.answer().fail("timed out")
        rig.clock.advance(30)
        self.assertEqual(len(warnings), 2)
        rig.answer().accept()
        self.assertEqual(
            infos[-1],
            "the tunnel is connected: connected to wss://tunnel.example:443/ (connecting for 0.0 s)",
        )

    def test_max_attempts(self) -> None:
        """After max_attempts failures in a row an error is logged, once, and the attempts go on."""
        rig = self.rig(ReconnectSettings(max_attempts=3))
        errors = self.logged(LogLevel.error)
        rig.manager.obey(make_order(8000))
        for _ in range(6):
            rig.answer().fail()
            rig.clock.advance(30)
        self.assertEqual(
            errors, ["the tunnel has failed 3 times in a row, and is tried further: connection refused"]
        )
        self.assertEqual(rig.state, "connecting")

    def test_reconnect_off(self) -> None:
        """With reconnect.enabled off the first lost connection ends the process with 69, said once."""
        rig = self.rig(ReconnectSettings(enabled=False))
        rig.connect(8000).lose("ping timeout")
        rig.clock.advance(FIRST_WAIT)
        rig.answer().fail()
        self.assertEqual([error.status for error in rig.fatal], [ExitStatus.UNAVAILABLE])
        self.assertIn("ping timeout", rig.fatal[0].sentence)

    def test_reconnect_off_and_nothing_lost(self) -> None:
        """Neither a refused port, nor a failed successor, nor a loss while idle, is a lost connection."""
        rig = self.rig(ReconnectSettings(enabled=False))
        rig.manager.obey(make_order(8000, 8001))
        rig.answer().refuse(8001)
        session = rig.answer().accept()
        rig.manager.obey(make_order(9000))
        rig.answer().fail()
        rig.manager.obey(IDLE)
        session.lose()
        self.assertEqual((rig.state, rig.fatal), ("idle", []))

    def test_attempts_are_kept(self) -> None:
        """The status keeps the last 20 attempts, each with its steps and its error."""
        rig = self.rig()
        rig.manager.obey(make_order(8000))
        for number in range(MAX_ATTEMPTS_SHOWN + 4):
            rig.answer().fail(f"failure {number}")
            rig.clock.advance(30)
        rig.answer().accept()
        attempts = rig.tunnel.attempts
        self.assertEqual(len(attempts), MAX_ATTEMPTS_SHOWN)
        self.assertEqual([attempt.error for attempt in attempts[-2:]], ["failure 23", None])
        self.assertEqual([step.name for step in attempts[-1].steps], ["tcp"])


class RefusedTests(ManagerCase):
    def test_the_others_are_opened(self) -> None:
        """Without the refused forward the others are had at once; it is retried in a session of its own."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001, 8002))
        rig.answer().refuse(8001, reason="cannot listen on 8001")
        self.assertEqual(rig.answer().ports, [8000, 8002])
        main = rig.answer().accept()
        self.assertEqual(rig.state, "connected")
        self.assertEqual(rig.forwards, {"a": "listening", "b": "refused", "c": "listening"})
        self.assertEqual(rig.tunnel.forwards[1].message, "cannot listen on 8001")
        rig.clock.advance(FIRST_WAIT)
        self.assertEqual(rig.answer().ports, [8001])
        rig.answer().refuse(8001)
        rig.clock.advance(19.75)
        self.assertEqual(rig.opener.pending, [])
        rig.clock.advance(0.25)
        extra = rig.answer().accept()
        self.assertEqual(rig.forwards["b"], "listening")
        self.assertTrue(main.alive)
        extra.lose()
        self.assertEqual(rig.forwards["b"], "allocated")

    def test_one_after_the_other(self) -> None:
        """Chisel names one port at a time: each named one is left out, until the rest is had."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001, 8002))
        rig.answer().refuse(8000)
        rig.answer().refuse(8001)
        rig.answer().accept()
        self.assertEqual(rig.forwards, {"a": "refused", "b": "refused", "c": "listening"})
        rig.clock.advance(FIRST_WAIT)
        self.assertEqual(rig.answer().ports, [8000, 8001])
        rig.answer().refuse(8001)
        rig.answer().accept()
        self.assertEqual(rig.forwards, {"a": "listening", "b": "refused", "c": "listening"})
        rig.clock.advance(FIRST_WAIT)
        self.assertEqual(rig.answer().ports, [8001])

    def test_all_refused(self) -> None:
        """Where no forward can be had there is no session; all are asked for again after the backoff."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001))
        rig.answer().refuse(8000)
        rig.answer().refuse(8001)
        self.assertEqual((rig.state, rig.opener.pending), ("waiting", []))
        self.assertEqual(rig.forwards, {"a": "refused", "b": "refused", "c": "configured"})
        rig.clock.advance(FIRST_WAIT)
        self.assertEqual(rig.answer().ports, [8000, 8001])

    def test_nothing_named(self) -> None:
        """A refusal that names no port: one forward is tried alone, another one in the next round."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001, 8002))
        rig.answer().refuse(reason="no")
        self.assertEqual(rig.answer().ports, [8000])
        rig.answer().refuse(7777, reason="no")
        self.assertEqual(rig.state, "waiting")
        rig.clock.advance(FIRST_WAIT)
        rig.answer().refuse(reason="no")
        self.assertEqual(rig.answer().ports, [8001])
        rig.answer().accept()
        self.assertEqual(rig.forwards, {"a": "refused", "b": "listening", "c": "refused"})
        rig.clock.advance(FIRST_WAIT)
        self.assertEqual(rig.answer().ports, [8000, 8002])

    def test_main_lost(self) -> None:
        """A lost session takes none of the others with it, and asks again for what it carried alone."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001))
        rig.answer().refuse(8001)
        main = rig.answer().accept()
        rig.clock.advance(FIRST_WAIT)
        extra = rig.answer().accept()
        main.lose()
        self.assertEqual(rig.state, "connected")
        self.assertEqual(rig.forwards, {"a": "allocated", "b": "listening", "c": "configured"})
        rig.clock.advance(FIRST_WAIT)
        self.assertEqual(rig.answer().ports, [8000])
        self.assertTrue(extra.alive)

    def test_all_lost(self) -> None:
        """When no session is left, all forwards are asked for in one again."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001))
        rig.answer().refuse(8001)
        main = rig.answer().accept()
        rig.clock.advance(FIRST_WAIT)
        extra = rig.answer().accept()
        main.lose()
        extra.lose()
        self.assertEqual(rig.state, "waiting")
        rig.clock.advance(FIRST_WAIT)
        self.assertEqual(rig.answer().ports, [8000, 8001])
        rig.clock.advance(60)
        rig.answer().accept()
        self.assertEqual(rig.forwards, {"a": "listening", "b": "listening", "c": "configured"})

    def test_main_lost_before_the_refused_is_had(self) -> None:
        """A session lost while the refused forward is still waited for: both are asked for together."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001))
        rig.answer().refuse(8001)
        rig.answer().accept().lose()
        rig.clock.advance(FIRST_WAIT)
        self.assertEqual(rig.answer().ports, [8000, 8001])

    def test_another_port_ends_the_refusal(self) -> None:
        """Another port for the refused forward: the refusal of the old one is forgotten."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001))
        rig.answer().refuse(8001)
        rig.answer().accept()
        rig.manager.obey(make_order(8000, 9001))
        self.assertEqual(rig.forwards["b"], "allocated")
        self.assertEqual(rig.answer().ports, [8000, 9001])

    def test_a_refused_forward_and_a_successor(self) -> None:
        """While another tunnel is being made, what was refused of the old one is not tried any more."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001, 8002))
        rig.answer().refuse(8001)
        main = rig.answer().accept()
        rig.manager.reconfigure(msgspec.structs.replace(rig.settings, forwards=FORWARDS[1:2]))
        self.assertEqual(rig.answer().ports, [8001])
        rig.clock.advance(60)
        self.assertEqual(len(rig.opener.pending), 1)
        rig.answer().accept()
        self.assertEqual((main.alive, rig.forwards), (False, {"b": "listening"}))

    def test_one_of_two_lost_while_the_next_is_made(self) -> None:
        """One of two sessions lost while the next is made: the other serves on, the lost one is let go."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001))
        rig.answer().refuse(8001)
        main = rig.answer().accept()
        rig.clock.advance(FIRST_WAIT)
        extra = rig.answer().accept()
        rig.manager.obey(make_order(9000, 9001))
        main.lose()
        rig.clock.advance(60)
        self.assertEqual((rig.answer().ports, rig.state, extra.alive), ([9000, 9001], "connected", True))
        rig.answer().accept()
        self.assertFalse(extra.alive)

    def test_rebuild_waits_for_every_session(self) -> None:
        """Break, then make: with two sessions to close, the new one begins when both have ended."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001))
        rig.answer().refuse(8001)
        main = rig.answer().accept()
        rig.clock.advance(FIRST_WAIT)
        extra = rig.answer().accept()
        main.slow = extra.slow = True
        rig.manager.obey(make_order(8000, 8001, server=make_server(credentials=("u", Secret("p")))))
        main.finish()
        self.assertEqual(rig.opener.pending, [])
        extra.finish()
        self.assertEqual(rig.answer().ports, [8000, 8001])

    def test_the_retry_is_silent(self) -> None:
        """A port that stays held is said once, not at each retry."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001))
        rig.answer().refuse(8001)
        rig.answer().accept()
        rig.clock.advance(FIRST_WAIT)
        rig.answer().refuse(8001)
        said = [self.logged(level) for level in (LogLevel.info, LogLevel.warn, LogLevel.error)]
        for _ in range(5):
            rig.clock.advance(30)
            rig.answer().refuse(8001)
        self.assertEqual(said, [[], [], []])


class InactivityTests(ManagerCase):
    def test_idle_closes_after_the_timeout(self) -> None:
        """Idle by order: closed when no byte has passed for inactivity_timeout; each byte counts anew."""
        rig = self.rig(inactivity_timeout=300.0)
        session = rig.connect(8000)
        rig.clock.advance(1000)
        session.touch()
        rig.manager.obey(IDLE)
        rig.clock.advance(200)
        session.touch()
        rig.clock.advance(200)
        self.assertEqual((rig.state, rig.forwards["a"]), ("connected", "listening"))
        rig.clock.advance(99)
        self.assertTrue(session.alive)
        rig.clock.advance(1)
        self.assertFalse(session.alive)
        self.assertEqual(rig.state, "idle")
        self.assertIn("closed after 300 s without traffic", rig.tunnel.message)
        rig.manager.obey(IDLE)
        self.assertEqual(rig.state, "idle")
        rig.connect(8000)
        self.assertEqual(rig.state, "connected")

    def test_quiet_already(self) -> None:
        """Idle by order, and quiet for longer than the timeout already: closed at once."""
        rig = self.rig(inactivity_timeout=300.0)
        session = rig.connect(8000)
        rig.clock.advance(301)
        rig.manager.obey(IDLE)
        self.assertFalse(session.alive)

    def test_timeout_zero(self) -> None:
        """With a timeout of 0 the order idle closes at once."""
        rig = self.rig(inactivity_timeout=0.0)
        session = rig.connect(8000)
        session.touch()
        rig.manager.obey(IDLE)
        self.assertFalse(session.alive)
        self.assertEqual(rig.state, "idle")

    def test_wanted_again_in_time(self) -> None:
        """Wanted again before the timeout: the session stays, and inactivity alone does not close it."""
        rig = self.rig()
        session = rig.connect(8000)
        rig.manager.obey(IDLE)
        rig.clock.advance(299)
        rig.manager.obey(make_order(8000))
        rig.clock.advance(10_000)
        self.assertTrue(session.alive)
        self.assertEqual(len(rig.opener.attempts), 1)

    def test_idle_opens_nothing(self) -> None:
        """Idle by order: an attempt is given up, a wait ends, a lost session is not opened again."""
        rig = self.rig()
        rig.manager.obey(make_order(8000))
        attempt = rig.answer()
        rig.manager.obey(IDLE)
        self.assertTrue(attempt.cancelled)
        self.assertEqual(rig.state, "idle")
        rig.manager.obey(make_order(8000))
        rig.answer().fail()
        rig.manager.obey(IDLE)
        self.assertEqual((rig.state, rig.clock.getDelayedCalls()), ("idle", []))
        session = rig.connect(8000)
        rig.manager.obey(IDLE)
        session.lose()
        self.assertEqual((rig.state, rig.clock.getDelayedCalls()), ("idle", []))

    def test_idle_keeps_what_works(self) -> None:
        """Idle by order: no refused forward is tried, no successor made; wanted again, it goes on."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001))
        rig.answer().refuse(8001)
        main = rig.answer().accept()
        rig.manager.obey(make_order(9000))
        rig.manager.obey(IDLE)
        rig.clock.advance(100)
        self.assertEqual((main.alive, rig.opener.pending), (True, []))
        rig.manager.obey(make_order(8000, 8001))
        rig.clock.advance(FIRST_WAIT)
        self.assertTrue(main.alive)
        self.assertEqual(rig.answer().ports, [8001])

    def test_policy_always(self) -> None:
        """Policy always: a wanted tunnel without traffic is closed; the same order opens it no more."""
        rig = self.rig(inactivity_policy="always", inactivity_timeout=300.0)
        session = rig.connect(8000)
        rig.clock.advance(299)
        session.touch()
        rig.clock.advance(299)
        self.assertTrue(session.alive)
        rig.clock.advance(1)
        self.assertFalse(session.alive)
        for _ in range(100):
            rig.manager.obey(make_order(8000))
            rig.clock.advance(5)
        self.assertEqual((rig.state, len(rig.opener.attempts)), ("idle", 1))

    def test_policy_always_until_the_order_changes(self) -> None:
        """Closed for inactivity, it is opened by another order, or by the same after idle."""
        rig = self.rig(inactivity_policy="always", inactivity_timeout=300.0)
        rig.connect(8000)
        rig.clock.advance(300)
        rig.connect(8001)
        rig.clock.advance(300)
        self.assertEqual(rig.state, "idle")
        rig.manager.obey(IDLE)
        rig.connect(8001)
        self.assertEqual(rig.state, "connected")

    def test_policy_always_with_zero(self) -> None:
        """Policy always with a timeout of 0 leaves a wanted tunnel alone: it could never be used."""
        rig = self.rig(inactivity_policy="always", inactivity_timeout=0.0)
        session = rig.connect(8000)
        rig.clock.advance(1000)
        self.assertTrue(session.alive)

    def test_all_sessions_count(self) -> None:
        """A byte on either of two sessions keeps both."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001))
        rig.answer().refuse(8001)
        rig.answer().accept()
        rig.clock.advance(FIRST_WAIT)
        extra = rig.answer().accept()
        rig.manager.obey(IDLE)
        rig.clock.advance(250)
        extra.touch()
        rig.clock.advance(299)
        self.assertEqual(rig.forwards, {"a": "listening", "b": "listening", "c": "configured"})
        rig.clock.advance(1)
        self.assertEqual(rig.state, "idle")


class ForwardStateTests(ManagerCase):
    def test_proven_and_stale(self) -> None:
        """A reached target proves a forward, a failed dial makes it stale, the end of its session neither."""
        rig = self.rig()
        session = rig.connect(8000, 8001)
        rig.clock.advance(1)
        rig.manager.dialled("a", None)
        since = rig.tunnel.forwards[0].since
        self.assertEqual((rig.forwards["a"], rig.forwards["b"]), ("proven", "listening"))
        self.assertEqual(since, rig.wall())
        rig.manager.dialled("b", "connection refused by localhost:2")
        self.assertEqual(rig.forwards["b"], "stale")
        self.assertEqual(rig.tunnel.forwards[1].message, "connection refused by localhost:2")
        rig.clock.advance(1)
        rig.manager.dialled("b", None)
        self.assertEqual(rig.forwards["b"], "proven")
        self.assertEqual(rig.tunnel.forwards[0].since, since)
        session.lose()
        self.assertEqual(rig.forwards, {"a": "allocated", "b": "allocated", "c": "configured"})
        rig.clock.advance(FIRST_WAIT)
        rig.answer().accept()
        self.assertEqual(rig.forwards["a"], "listening")

    def test_the_same_again_is_no_news(self) -> None:
        """A thousand channels that reach their target are one event; one of an unknown forward is none."""
        rig = self.rig()
        rig.connect(8000)
        rig.manager.dialled("a", None)
        before = rig.board.now
        for _ in range(1000):
            rig.manager.dialled("a", None)
        rig.manager.dialled("b", None)
        rig.manager.dialled("nobody", "refused")
        self.assertIs(rig.board.now, before)

    def test_pinged(self) -> None:
        """The round trip of the last ping is shown."""
        rig = self.rig()
        rig.connect(8000)._rtt = 0.5
        rig.manager.pinged()
        self.assertEqual(rig.tunnel.rtt, 0.5)


class StopTests(ManagerCase):
    def test_stop_in_every_state(self) -> None:
        """Stopping ends an attempt, a session, a wait, an inactivity timer; afterwards nothing is heard."""

        def connecting(rig: Rig) -> None:
            rig.manager.obey(make_order(8000))

        def connected(rig: Rig) -> None:
            rig.connect(8000)

        def waiting(rig: Rig) -> None:
            rig.manager.obey(make_order(8000))
            rig.answer().fail()

        def idle(rig: Rig) -> None:
            rig.connect(8000)
            rig.manager.obey(IDLE)

        def moving(rig: Rig) -> None:
            rig.connect(8000)
            rig.manager.obey(make_order(9000))

        def refused(rig: Rig) -> None:
            rig.manager.obey(make_order(8000, 8001))
            rig.answer().refuse(8001)
            rig.answer().accept()

        for situation in (connecting, connected, waiting, idle, moving, refused):
            rig = self.rig()
            situation(rig)
            self.successResultOf(rig.manager.stopService())
            self.stop(rig)
            rig.manager.obey(make_order(8000))
            rig.manager.reconfigure(rig.settings)
            rig.manager.wake()
            self.stop(rig)

    def test_stop_is_bounded(self) -> None:
        """A session that does not end holds the stop up for CLOSE_TIMEOUT, no longer."""
        rig = self.rig()
        rig.connect(8000).slow = True
        stopped: Deferred[None] = rig.manager.stopService()
        self.assertNoResult(stopped)
        self.assertEqual(rig.state, "closing")
        rig.clock.advance(CLOSE_TIMEOUT)
        self.successResultOf(stopped)

    def test_start_again(self) -> None:
        """A manager that was stopped can be started again; it waits for an order."""
        rig = self.rig()
        rig.connect(8000)
        self.successResultOf(rig.manager.stopService())
        rig.manager.startService()
        self.assertEqual(rig.state, "disabled")
        rig.connect(8000)
        self.assertEqual(rig.state, "connected")
