"""The tunnel's manager when the control plane asks for another connection; and how a session is drained."""

from __future__ import annotations

from twisted.logger import LogLevel

from pipeops_agent.tunnel.lines import DRAIN_LIMIT, DRAIN_LOOK
from pipeops_agent.tunnel.manager import RECONNECT_SPACING
from tests.tunnel.manager_case import DISABLED, FIRST_WAIT, IDLE, ManagerCase
from tests.tunnel.scripted import make_order, make_server


class ReconnectTests(ManagerCase):
    def test_break_then_make(self) -> None:
        """The same server and the same ports: the session ends, then the next begins; the log says why."""
        rig = self.rig()
        infos = self.logged(LogLevel.info)
        session = rig.connect(8000)
        session.slow = True
        rig.manager.reconnect("the server is to be restarted")
        self.assertEqual((rig.state, rig.opener.pending), ("closing", []))
        self.assertIn("the server is to be restarted", session.close_reason or "")
        session.finish()
        rig.answer().accept()
        self.assertEqual(rig.state, "connected")
        self.assertIn(
            "the tunnel is connected anew, as the control plane asks: the server is to be restarted", infos
        )

    def test_after_another_order(self) -> None:
        """Another server was ordered first: that is make before break, and nothing more is to be done."""
        rig = self.rig()
        session = rig.connect(8000)
        rig.manager.obey(make_order(8000, server=make_server("other.example")))
        rig.manager.reconnect("we move")
        self.assertTrue(session.alive)
        self.assertEqual(rig.answer().server.address.host, "other.example")
        rig.answer().accept()
        self.assertFalse(session.alive)
        self.assertEqual((rig.state, len(rig.opener.attempts)), ("connected", 2))

    def test_all_sessions(self) -> None:
        """Forwards in two sessions are asked for in one again, when both have ended."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001))
        rig.answer().refuse(8001)
        main = rig.answer().accept()
        rig.clock.advance(FIRST_WAIT)
        extra = rig.answer().accept()
        main.slow = extra.slow = True
        rig.manager.reconnect("please")
        main.finish()
        self.assertEqual(rig.opener.pending, [])
        extra.finish()
        self.assertEqual(rig.answer().ports, [8000, 8001])

    def test_while_waiting(self) -> None:
        """An attempt that is waited for is made now; one under way is left alone."""
        rig = self.rig()
        rig.manager.obey(make_order(8000))
        rig.answer().fail()
        rig.manager.reconnect("please")
        attempt = rig.answer()
        rig.clock.advance(RECONNECT_SPACING)
        rig.manager.reconnect("please")
        self.assertFalse(attempt.cancelled)

    def test_not_too_often(self) -> None:
        """Asked again too soon it does nothing, and says so; later it does."""
        rig = self.rig()
        warnings = self.logged(LogLevel.warn)
        rig.connect(8000)
        for _ in range(10):
            rig.manager.reconnect("please")
            for attempt in rig.opener.pending:
                attempt.accept()
        self.assertEqual(len(rig.opener.attempts), 2)
        self.assertIn("asked to reconnect again within 60 s", warnings[0])
        rig.clock.advance(RECONNECT_SPACING)
        rig.manager.reconnect("please")
        self.assertEqual(len(rig.opener.attempts), 3)

    def test_where_none_is_wanted(self) -> None:
        """Without a wish for a tunnel nothing is opened, and nothing is kept from closing; nor is a stop."""
        rig = self.rig()
        rig.manager.reconnect("please")
        session = rig.connect(8000)
        rig.manager.obey(IDLE)
        rig.manager.reconnect("please")
        self.assertTrue(session.alive)
        rig.manager.obey(DISABLED)
        rig.manager.reconnect("please")
        self.assertEqual((rig.state, len(rig.opener.attempts)), ("disabled", 1))
        self.stop(rig)
        rig.manager.reconnect("please")
        self.assertEqual(rig.state, "disabled")


class DrainTests(ManagerCase):
    def test_connections_may_end(self) -> None:
        """What goes through a session that was replaced may end by itself; the status is the new one's."""
        rig = self.rig()
        old = rig.connect(8000)
        old.channels = 2
        rig.manager.obey(make_order(9000))
        new = rig.answer().accept()
        self.assertEqual((old.alive, rig.tunnel.forwards[0].remote_port), (True, 9000))
        rig.clock.advance(DRAIN_LIMIT / 2)
        old.channels = 0
        rig.clock.advance(DRAIN_LOOK)
        self.assertEqual((old.alive, new.alive, rig.state), (False, True, "connected"))

    def test_not_for_ever(self) -> None:
        """After a while it is closed all the same."""
        rig = self.rig()
        old = rig.connect(8000)
        old.channels = 1
        rig.manager.obey(make_order(9000))
        rig.answer().accept()
        rig.clock.pump([DRAIN_LOOK] * round(DRAIN_LIMIT / DRAIN_LOOK - 1))
        self.assertTrue(old.alive)
        rig.clock.advance(DRAIN_LOOK)
        self.assertFalse(old.alive)

    def test_its_ports_are_needed(self) -> None:
        """An order that brings its ports back ends it at once, before they are asked for."""
        rig = self.rig()
        old = rig.connect(8000)
        old.channels = 1
        rig.manager.obey(make_order(9000))
        rig.answer().accept()
        old.slow = True
        rig.manager.obey(make_order(8000))
        self.assertEqual((old.close_reason is not None, rig.opener.pending), (True, []))
        old.finish()
        self.assertEqual(rig.answer().ports, [8000])

    def test_lost_meanwhile(self) -> None:
        """Lost by itself it is over, and nobody opens it again."""
        rig = self.rig()
        old = rig.connect(8000)
        old.channels = 1
        rig.manager.obey(make_order(9000))
        rig.answer().accept()
        old.lose()
        rig.clock.pump([DRAIN_LOOK] * 200)
        self.assertEqual((rig.state, len(rig.opener.attempts)), ("connected", 2))

    def test_the_new_one_is_lost(self) -> None:
        """The status does not call a tunnel connected whose only session is one that ends."""
        rig = self.rig()
        old = rig.connect(8000)
        old.channels = 1
        rig.manager.obey(make_order(9000))
        rig.answer().accept().lose()
        self.assertEqual((rig.state, rig.forwards["a"], old.alive), ("waiting", "allocated", True))

    def test_ended_with_the_others(self) -> None:
        """The order disabled, and a stop, end it at once."""
        for end in (lambda rig: rig.manager.obey(DISABLED), self.stop):
            rig = self.rig()
            old = rig.connect(8000)
            old.channels = 1
            rig.manager.obey(make_order(9000))
            rig.answer().accept()
            end(rig)
            self.assertFalse(old.alive)
