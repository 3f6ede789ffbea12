"""The tunnel's manager when things go wrong: lost connections, refused ports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher

from pipeops_agent.errors import ExitStatus
from pipeops_agent.log import AgentLog, LogConfig, Redactor
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_pipeops import ReconnectSettings
from pipeops_agent.tunnel.attempts import MAX_ATTEMPTS_SHOWN
from pipeops_agent.tunnel.errors import SessionError
from pipeops_agent.tunnel.manager import FAST_FOR, WAKE_SPACING
from tests.tunnel.manager_case import FIRST_WAIT, FORWARDS, IDLE, ManagerCase, Rig
from tests.tunnel.scripted import make_order, make_server


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
        self.assertIn("the next attempt is in 0.5 s", rig.tunnel.message)

    def test_after_a_stable_session(self) -> None:
        """
        After a session that lasted, attempts begin 2 s after each other for a while, and are hurried; what
        one takes is no part of the wait. Then the waits grow as ever.
        """
        rig = self.rig()
        session = rig.connect(8000)
        self.assertFalse(rig.opener.last.hurried)
        rig.clock.advance(30)
        session.lose()
        rig.clock.advance(0.5)
        began = rig.clock.seconds()
        while rig.clock.seconds() - began < FAST_FOR - 4:
            self.assertTrue(rig.answer().hurried)
            rig.clock.advance(1.25)
            rig.answer().fail()
            rig.clock.advance(0.75)
        self.assertTrue(rig.answer().hurried)
        rig.clock.advance(4)
        rig.answer().fail()
        self.assertIn("the next attempt is in 20.0 s", rig.tunnel.message)
        rig.clock.advance(20)
        self.assertFalse(rig.answer().hurried)

    def test_no_hurry_with_one_that_answers(self) -> None:
        """When somebody has answered an attempt, the next has its ordinary time: the way is only slow."""
        rig = self.rig()
        session = rig.connect(8000)
        rig.clock.advance(30)
        session.lose()
        rig.clock.advance(0.5)
        rig.answer().answer.errback(SessionError("tls", "no answer within 2 s"))
        rig.clock.advance(2)
        self.assertFalse(rig.answer().hurried)
        rig.answer().fail()
        rig.clock.advance(2)
        self.assertTrue(rig.answer().hurried)

    def test_refusals_are_never_hurried(self) -> None:
        """A server that refuses the ports of a lost session, or the password, is asked at ordinary pace."""
        answers: list[Callable[[Rig], None]] = [
            lambda rig: rig.answer().refuse(8000),
            lambda rig: rig.answer().fail(retryable=False),
        ]
        for answer in answers:
            rig = self.rig()
            session = rig.connect(8000)
            rig.clock.advance(30)
            session.lose()
            rig.clock.advance(0.5)
            answer(rig)
            rig.clock.advance(19.75)
            self.assertEqual(rig.state, "waiting")
            rig.clock.advance(0.25)
            self.assertEqual(rig.state, "connecting")

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
        """A failure that won't mend itself is said to be so, and tried again; a new order at once."""
        rig = self.rig()
        rig.manager.obey(make_order(8000))
        rig.answer().fail("wrong host key", retryable=False)
        self.assertIn("wrong host key (this does not mend by itself); the next", rig.tunnel.message)
        rig.clock.advance(FIRST_WAIT)
        rig.answer().fail("wrong host key", retryable=False)
        rig.manager.obey(make_order(8000, server=make_server(fingerprint="B" * 43 + "=")))
        self.assertEqual(rig.state, "connecting")

    def test_wake(self) -> None:
        """
        Waking makes the waiting attempt now, each time that something has recovered; heartbeat and poll,
        which recover together, count as one; and a session is left alone.
        """
        rig = self.rig()
        rig.manager.wake()
        rig.manager.obey(make_order(8000))
        for _ in range(4):
            rig.answer().fail()
            rig.clock.advance(30)
        rig.answer().fail()
        for _ in range(3):
            rig.manager.wake()
            rig.answer().fail()
            rig.manager.wake()
            self.assertEqual(rig.opener.pending, [])
            rig.clock.advance(WAKE_SPACING)
        rig.manager.wake()
        session = rig.answer().accept()
        rig.manager.wake()
        self.assertTrue(session.alive)

    def test_wake_of_a_successor(self) -> None:
        """A session that is to take another's place is tried anew as well."""
        rig = self.rig()
        rig.connect(8000)
        rig.manager.obey(make_order(9000))
        rig.answer().fail()
        rig.manager.wake()
        self.assertEqual(rig.answer().ports, [9000])

    def test_connected_is_told(self) -> None:
        """Whoever waits for the network hears of each session that is there."""
        rig = self.rig()
        told: list[float] = []
        rig.manager.on_connected = lambda: told.append(rig.clock.seconds())
        rig.manager.obey(make_order(8000))
        rig.answer().fail()
        rig.clock.advance(FIRST_WAIT)
        rig.answer().accept()
        self.assertEqual(told, [FIRST_WAIT])

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

    def test_each_loss_is_said(self) -> None:
        """A loss right after another is in the agent's log too: "connected" is not its last word."""
        path = self.mktemp()
        log = AgentLog(LogConfig(output=path), Clock(), Redactor())
        globalLogPublisher.addObserver(log.observer)
        self.addCleanup(globalLogPublisher.removeObserver, log.observer)
        self.addCleanup(log.close)
        rig = self.rig()
        rig.manager.obey(make_order(8000))
        for _ in range(3):
            rig.answer().accept().lose("the connection was lost")
            rig.clock.advance(30)
        records = [json.loads(line) for line in Path(path).read_text().splitlines()]
        states = [each["state"] for each in records if "state" in each]
        self.assertEqual(states, ["connecting", *["connected", "waiting"] * 3])

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
        self.assertIn("port 8001 for b: cannot listen on 8001 (held by", rig.tunnel.forwards[1].message)
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
        self.assertIn("port 8000 for a: cannot listen", rig.tunnel.message)
        self.assertIn("; and 1 more", rig.tunnel.message)
        rig.clock.advance(FIRST_WAIT)
        self.assertEqual(rig.answer().ports, [8000, 8001])

    def test_held_by_our_own_dead_session(self) -> None:
        """Ports of a session that was lost, refused after it: the same sentence each time, one warning."""
        rig = self.rig()
        session = rig.connect(8000)
        warnings = self.logged(LogLevel.warn)
        rig.clock.advance(60)
        session.lose()
        for _ in range(3):
            rig.clock.advance(30)
            rig.answer().refuse(8000, reason="Server cannot listen on R:8000=>localhost:1")
        self.assertIn("our own session that ended at 2023-11-14T22:14:20Z", rig.tunnel.forwards[0].message)
        self.assertEqual(len([line for line in warnings if "cannot listen" in line]), 1)

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
