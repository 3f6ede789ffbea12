"""The tunnel's manager: orders, rebuilding, inactivity, the forwards' states, the end."""

from __future__ import annotations

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel

from pipeops_agent.orders import Allocation, ServerAddress, TunnelOrder
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_tunnel import Forward
from pipeops_agent.tunnel.line import CLOSE_TIMEOUT
from tests.tunnel.manager_case import DISABLED, FIRST_WAIT, FORWARDS, IDLE, ManagerCase, Rig
from tests.tunnel.scripted import make_order, make_server


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

    def test_unencrypted_server_without_fingerprint(self) -> None:
        """An allowed ws:// server without a fingerprint is not connected to: nobody could tell who it is."""
        rig = self.rig(allow_insecure=True)
        errors = self.logged(LogLevel.error)
        address = ServerAddress("h", tls=False)
        rig.manager.obey(make_order(8000, server=make_server(address=address, fingerprint=None)))
        self.assertEqual((rig.state, rig.opener.attempts), ("waiting", []))
        self.assertIn("without TLS it needs a server_fingerprint", errors[0])

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
