"""The poll for the tunnel."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.controlplane import ApiError, TunnelAnswer, TunnelPollService
from pipeops_agent.orders import TunnelOrder
from pipeops_agent.settings.model_pipeops import ReconnectSettings
from pipeops_agent.settings.model_tunnel import TunnelSettings
from tests.controlplane.fakes import ScriptedCalls, World, network_error, server_error
from tests.controlplane.logs import Records

IDLE = TunnelOrder(state="idle")


class FakeAsker(ScriptedCalls):
    def tunnel_status(
        self, *, cluster_id: str, agent_id: str, tunnel: TunnelSettings
    ) -> Deferred[TunnelAnswer | None]:
        return self.take((cluster_id, agent_id))


class PollTests(SynchronousTestCase):
    """L{TunnelPollService}."""

    def setUp(self) -> None:
        self.records = Records(self)
        self.clock = World().clock
        self.asker = FakeAsker()
        self.asker.default = TunnelAnswer(order=IDLE)
        self.orders: list[TunnelOrder] = []
        self.recoveries: list[None] = []
        self.service = TunnelPollService(
            self.clock,
            self.asker,
            ReconnectSettings(),
            TunnelSettings(),
            ids=lambda: ("cluster-1", "agent-1"),
            interval=5.0,
            obey=self.orders.append,
            random=lambda: 1.0,
        )
        self.service.on_recovery = lambda: self.recoveries.append(None)
        self.addCleanup(self.stopped)

    def stopped(self) -> None:
        """Stopping leaves nothing on the clock."""
        self.successResultOf(self.service.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def polls_until(self, *outcomes: Any) -> None:
        self.asker.outcomes = list(outcomes)
        self.service.startService()

    def test_interval(self) -> None:
        """The first poll is at once, the others come at the interval; each order is handed on."""
        self.polls_until()
        self.clock.advance(4.9)
        self.assertEqual(self.orders, [IDLE])
        self.clock.advance(0.2)
        self.assertEqual(self.orders, [IDLE, IDLE])
        self.assertEqual(self.asker.calls[0], ("cluster-1", "agent-1"))

    def test_refresh(self) -> None:
        """A refresh polls now; who asked is told after the order that came of it, and of a failure too."""
        said: list[object] = self.orders  # type: ignore[assignment]  # what is told stands between the orders
        self.polls_until()
        self.service.refresh(lambda: said.append("first"))
        self.assertEqual(said, [IDLE, IDLE, "first"])
        self.asker.outcomes = [network_error()]
        self.service.refresh(lambda: said.append("second"))
        self.assertEqual(said[3:], ["second"])

    def test_refresh_while_a_poll_is_under_way(self) -> None:
        """The poll under way may have been answered before; it is the next one that counts."""
        slow: Deferred[TunnelAnswer] = Deferred()
        said: list[str] = []
        self.polls_until(slow)
        self.service.refresh(lambda: said.append("done"))
        slow.callback(TunnelAnswer())
        self.assertEqual((said, len(self.asker.calls)), ([], 1))
        self.clock.advance(0)
        self.assertEqual((said, len(self.asker.calls)), (["done"], 2))

    def test_pace_under_a_slow_server(self) -> None:
        """An answer that takes 3 s does not make the interval 8 s; polls never overlap."""
        slow: Deferred[TunnelAnswer] = Deferred()
        self.polls_until(slow)
        self.clock.advance(3)
        self.assertEqual(len(self.asker.calls), 1)
        slow.callback(TunnelAnswer(order=IDLE))
        self.clock.advance(2)
        self.assertEqual(len(self.asker.calls), 2)
        slower: Deferred[TunnelAnswer] = Deferred()
        self.asker.outcomes = [slower]
        self.clock.pump([5] * 4)
        self.assertEqual(len(self.asker.calls), 3)
        slower.callback(TunnelAnswer(order=IDLE))
        self.clock.advance(0)
        self.assertEqual(len(self.asker.calls), 4)

    def test_poll_frequency(self) -> None:
        """An answer may set the time of the next poll; the one after it is as configured again."""
        self.polls_until(TunnelAnswer(order=IDLE, poll_after=60.0))
        self.clock.advance(59)
        self.assertEqual(len(self.orders), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.orders), 2)
        self.clock.advance(5)
        self.assertEqual(len(self.orders), 3)

    def test_no_tunnels(self) -> None:
        """A control plane without tunnels is asked on; that is said at debug level only."""
        self.polls_until(None)
        self.assertEqual(self.orders, [])
        self.assertEqual([self.records.at(level) for level in ("info", "warn", "error")], [[], [], []])
        self.assertEqual(len(self.records.at("debug")), 1)
        self.clock.advance(5)
        self.assertEqual(self.orders, [IDLE])

    def test_failure(self) -> None:
        """A failed poll changes nothing, and is tried again with the heartbeat's waits."""
        self.polls_until(network_error(), ApiError("unusable", status=200), server_error(500))
        for polls, wait in ((1, 10), (2, 20), (3, 30)):
            self.assertEqual((len(self.asker.calls), self.orders), (polls, []))
            self.clock.advance(wait)
        self.assertEqual(self.orders, [IDLE])
        self.assertEqual(len(self.records.at("warn")), 1)
        self.assertEqual(self.records.at("info"), ["tunnel status works again (3 failed in 60 s)"])
        self.assertEqual(len(self.recoveries), 1)

    def test_retry_after(self) -> None:
        """The wait that an answer asks for is kept."""
        self.polls_until(server_error(429, retry_after=100.0))
        self.clock.advance(99)
        self.assertEqual(len(self.asker.calls), 1)
        self.clock.advance(1)
        self.assertEqual(len(self.asker.calls), 2)

    def test_unknown_status(self) -> None:
        """A word that is not known changes nothing and is logged once, until another comes."""
        odd, odder = TunnelAnswer(unknown_status="PARTIAL"), TunnelAnswer(unknown_status="ODD")
        self.polls_until(odd, odd, odd, odder, TunnelAnswer(order=IDLE), odd)
        for warnings in (1, 1, 1, 2, 2, 3):
            self.assertEqual(len(self.records.at("warn")), warnings)
            self.clock.advance(5)
        self.assertIn("PARTIAL", self.records.at("warn")[0])

    def test_nudge_and_wake(self) -> None:
        """News that the network is back ends the wait; a wake does so at any time."""
        self.polls_until(network_error(), server_error(503))
        self.service.nudge()
        self.assertEqual(len(self.asker.calls), 2)
        self.service.nudge()
        self.assertEqual(len(self.asker.calls), 2)
        self.service.wake()
        self.assertEqual(len(self.asker.calls), 3)

    def test_bug(self) -> None:
        """An error of our own is logged, and the polls go on."""
        self.polls_until(ValueError("bug"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.clock.advance(10)
        self.assertEqual(self.orders, [IDLE])

    def test_order_that_fails(self) -> None:
        """A tunnel that can't obey does not end the polls."""
        self.service._obey = self.fail_to_obey
        self.polls_until()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.clock.advance(5)
        self.assertEqual(len(self.asker.calls), 2)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def fail_to_obey(self, order: TunnelOrder) -> None:
        raise ValueError("can't")

    def test_stop_cancels(self) -> None:
        """Stopping cancels the poll under way."""
        cancelled: list[object] = []
        self.polls_until(Deferred(cancelled.append))
        self.successResultOf(self.service.stopService())
        self.assertEqual(len(cancelled), 1)
