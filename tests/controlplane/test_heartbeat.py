"""The heartbeat: when it is sent, what it says, and what becomes of failures."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.build import build_info
from pipeops_agent.controlplane import ApiError, Heartbeat, HeartbeatAnswer, HeartbeatReport, HeartbeatService
from pipeops_agent.errors import ExitStatus, FatalError
from pipeops_agent.health import standard_checks
from pipeops_agent.settings.model_pipeops import ReconnectSettings
from tests.controlplane.fakes import NOON, ScriptedCalls, World, network_error, server_error
from tests.controlplane.logs import Records

UNKNOWN = ApiError("404", status=404, json_object=True)


class FakeSender(ScriptedCalls):
    def heartbeat(self, heartbeat: Heartbeat) -> Deferred[HeartbeatAnswer]:
        return self.take(heartbeat).addCallback(lambda answer: answer or HeartbeatAnswer())


class Case(SynchronousTestCase):
    """A heartbeat service with a scripted client."""

    def setUp(self) -> None:
        self.records = Records(self)
        self.world = World()
        self.clock = self.world.clock
        self.board = self.world.board
        self.board.set_registration(registered=True)
        self.board.set_tunnel(state="idle")
        self.sender = FakeSender()
        self.fatal: list[FatalError] = []
        self.unknown: list[float] = []
        self.advice: list[tuple[str, bool]] = []
        self.recoveries = 0
        self.begin()
        self.addCleanup(self.stopped)

    def begin(self, *, random: float = 1.0, **reconnect: Any) -> None:
        self.report = HeartbeatReport(
            self.clock,
            self.board,
            self.world.wall,
            ids=lambda: ("cluster-1", "agent-1"),
            checks=standard_checks(),
            metadata=lambda: {"k8s_nodes": 3},
        )
        self.service = HeartbeatService(
            self.clock,
            self.sender,
            self.board,
            self.world.wall,
            ReconnectSettings(**reconnect),
            interval=5.0,
            report=self.report,
            on_fatal=self.fatal.append,
            on_unknown=lambda: self.unknown.append(self.clock.seconds()),
            random=lambda: random,
        )
        self.service.on_recovery = self.recovered
        self.service.on_advice = lambda why, reconnect: self.advice.append((why, reconnect))

    def recovered(self) -> None:
        self.recoveries += 1

    def stopped(self) -> None:
        """Stopping leaves nothing on the clock."""
        if self.service.running:
            self.successResultOf(self.service.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @property
    def sent(self) -> int:
        return len(self.sender.calls)


class PaceTests(Case):
    """When heartbeats are sent."""

    def test_first_at_once(self) -> None:
        """The first goes out with the start, the others at the interval."""
        self.service.startService()
        self.assertEqual(self.sent, 1)
        for expected in (1, 2, 2, 3):
            self.clock.advance(2.5)
            self.assertEqual(self.sent, expected)

    def test_pace_under_a_slow_server(self) -> None:
        """An answer that takes 3 s does not make the interval 8 s."""
        slow: Deferred[None] = Deferred()
        self.sender.outcomes = [slow]
        self.service.startService()
        self.clock.advance(3)
        slow.callback(None)
        self.clock.advance(1.9)
        self.assertEqual(self.sent, 1)
        self.clock.advance(0.2)
        self.assertEqual(self.sent, 2)

    def test_never_two_at_once(self) -> None:
        """While one is under way no other begins, nor do any queue: after it comes just one."""
        slow: Deferred[None] = Deferred()
        self.sender.outcomes = [slow]
        self.service.startService()
        self.clock.pump([5] * 5)
        self.assertEqual(self.sent, 1)
        slow.callback(None)
        self.clock.advance(0)
        self.assertEqual(self.sent, 2)
        self.clock.advance(4.9)
        self.assertEqual(self.sent, 2)

    def test_wake(self) -> None:
        """A change is reported at once."""
        self.service.startService()
        self.clock.advance(1)
        self.service.wake()
        self.assertEqual(self.sent, 2)

    def test_stop_cancels(self) -> None:
        """Stopping cancels the call under way; it is no failure."""
        cancelled: list[object] = []
        self.sender.outcomes = [Deferred(cancelled.append)]
        self.service.startService()
        self.successResultOf(self.service.stopService())
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(self.board.now.heartbeat.state, "pending")

    def test_present_state(self) -> None:
        """A failed heartbeat is dropped: the next one has the state of its own moment."""
        self.begin(random=0.0)
        self.sender.outcomes = [network_error()]
        self.service.startService()
        self.board.set_tunnel(state="connected")
        self.clock.advance(0)
        self.assertEqual([beat.tunnel_status for beat in self.sender.calls], ["disconnected", "connected"])


class PayloadTests(Case):
    """What a heartbeat says."""

    def test_payload(self) -> None:
        """Exactly the fields of the specification, and what is known beside them."""
        self.clock.advance(3600)
        self.assertEqual(
            self.report(),
            Heartbeat(
                cluster_id="cluster-1",
                agent_id="agent-1",
                status="active",
                tunnel_status="disconnected",
                timestamp="2026-03-04T13:00:00Z",
                metadata={"uptime": "3600s", "version": build_info().version, "k8s_nodes": 3},
            ),
        )

    def test_tunnel(self) -> None:
        """What the tunnel is, not what it shall be: while it waits to try again it is disconnected."""
        for state, expected in (
            ("disabled", "disconnected"),
            ("idle", "disconnected"),
            ("connecting", "connecting"),
            ("connected", "connected"),
            ("waiting", "disconnected"),
            ("closing", "disconnected"),
        ):
            self.board.set_tunnel(state=state)
            self.assertEqual(self.report().tunnel_status, expected)

    def test_degraded(self) -> None:
        """A failing check makes it degraded; that heartbeats themselves failed before does not."""
        self.board.set_heartbeat(state="failing")
        self.assertEqual(self.report().status, "active")
        self.board.set_tunnel(state="waiting")
        self.assertEqual(self.report().status, "degraded")

    def test_stopping(self) -> None:
        """The last one says so."""
        self.successResultOf(Deferred.fromCoroutine(self.service.send_stopping()))
        self.assertEqual(self.sender.calls[0].status, "stopping")

    def test_stopping_is_bounded(self) -> None:
        """It takes a second at most, and a failure is nobody's business any more."""
        self.sender.outcomes = [Deferred(), network_error()]
        saying = Deferred.fromCoroutine(self.service.send_stopping())
        self.clock.advance(0.9)
        self.assertNoResult(saying)
        self.clock.advance(0.2)
        self.successResultOf(saying)
        self.successResultOf(Deferred.fromCoroutine(self.service.send_stopping()))
        self.assertEqual(self.records.at("warn"), [])


class OutcomeTests(Case):
    """What is made of answers."""

    def test_success(self) -> None:
        """The board says since when all is well, and when the last one got through."""
        self.service.startService()
        self.clock.advance(5)
        status = self.board.now.heartbeat
        self.assertEqual((status.state, status.since, status.failures), ("ok", NOON, 0))
        self.assertEqual(status.last_success, self.world.wall())

    def test_failing(self) -> None:
        """A failure is on the board with its sentence, and since when."""
        self.sender.default = network_error("refused")
        self.service.startService()
        status = self.board.now.heartbeat
        self.assertEqual((status.state, status.failures, status.message), ("failing", 1, "refused"))
        self.assertEqual(status.since, NOON)
        self.clock.advance(10)
        status = self.board.now.heartbeat
        self.assertEqual((status.failures, status.since), (2, NOON))

    def test_backoff(self) -> None:
        """The waits grow from failure to failure up to 30 s, counted from the failure."""
        self.sender.default = network_error()
        self.service.startService()
        for sent, wait in ((1, 10), (2, 20), (3, 30), (4, 30)):
            self.clock.advance(wait - 0.5)
            self.assertEqual(self.sent, sent)
            self.clock.advance(0.5)
            self.assertEqual(self.sent, sent + 1)

    def test_backoff_is_a_setting(self) -> None:
        """The waits are made of C{reconnect.interval} and C{reconnect.backoff}."""
        self.begin(interval=2.0, backoff=1.0)
        self.sender.default = network_error()
        self.service.startService()
        for sent, wait in ((1, 3), (2, 5), (3, 9)):
            self.clock.advance(wait - 0.5)
            self.assertEqual(self.sent, sent)
            self.clock.advance(0.5)
            self.assertEqual(self.sent, sent + 1)

    def test_success_must_last(self) -> None:
        """A success that lasts for less than C{reconnect.stable_after} does not begin the waits anew."""
        for well, wait in ((7, 5.0), (9, 3.0)):
            self.begin(interval=2.0, backoff=1.0, stable_after=40.0)
            self.sender.outcomes = [network_error(), *[None] * well, network_error()]
            self.service.startService()
            self.clock.pump([3.0, *[5.0] * well])
            sent = self.sent
            self.clock.advance(wait - 0.5)
            self.assertEqual(self.sent, sent)
            self.clock.advance(0.5)
            self.assertEqual(self.sent, sent + 1)
            self.stopped()
            self.sender.calls.clear()

    def test_wait_counts_from_the_end(self) -> None:
        """A call that ran into its timeout does not use up the wait after it."""
        slow: Deferred[None] = Deferred()
        self.sender.outcomes = [slow]
        self.service.startService()
        self.clock.advance(30)
        slow.errback(network_error())
        self.clock.advance(9)
        self.assertEqual(self.sent, 1)
        self.clock.advance(1)
        self.assertEqual(self.sent, 2)

    def test_retry_after(self) -> None:
        """The wait that an answer asks for is kept, where it is the longer one."""
        self.begin(random=0.0)
        self.sender.outcomes = [server_error(429, retry_after=45.0)]
        self.service.startService()
        self.clock.advance(44)
        self.assertEqual(self.sent, 1)
        self.clock.advance(1)
        self.assertEqual(self.sent, 2)

    def test_disconnected(self) -> None:
        """After C{max_attempts} in a row the agent is disconnected: said once, and it keeps trying."""
        self.begin(max_attempts=3)
        self.sender.default = network_error()
        self.service.startService()
        states = [self.board.now.heartbeat.state]
        for _ in range(5):
            self.clock.advance(30)
            states.append(self.board.now.heartbeat.state)
        self.assertEqual(states, ["failing", "failing", *["disconnected"] * 4])
        self.assertEqual(len(self.records.at("error")), 1)
        self.assertEqual(len(self.records.at("warn")), 1)

    def test_never_disconnected(self) -> None:
        """With 0 it never counts as that."""
        self.begin(max_attempts=0)
        self.sender.default = network_error()
        self.service.startService()
        self.clock.pump([30] * 50)
        self.assertEqual(self.board.now.heartbeat.state, "failing")

    def test_refused(self) -> None:
        """A refused token: disconnected at once, one error record and no other, and on with the backoff."""
        self.sender.default = ApiError("refused", status=401, response="{}")
        self.service.startService()
        self.assertEqual(self.board.now.heartbeat.state, "disconnected")
        self.clock.advance(10)
        self.assertEqual(self.sent, 2)
        self.assertEqual(self.records.at("error"), ["refused"])
        self.assertEqual(self.records.at("warn"), [])
        self.sender.default = network_error()
        self.clock.advance(20)
        self.assertEqual(self.board.now.heartbeat.state, "disconnected")
        self.assertEqual(self.records.at("error"), ["refused"])

    def test_recovery(self) -> None:
        """Two records for an outage: a warning at its begin, and at its end how long it was."""
        self.sender.outcomes = [network_error(), network_error()]
        self.service.startService()
        self.clock.advance(10)
        self.clock.advance(20)
        self.assertEqual(self.board.now.heartbeat.state, "ok")
        self.assertEqual(
            self.records.at("warn"), ["heartbeat failed, trying again: cp.test:443 refuses connections"]
        )
        self.assertEqual(self.records.at("info"), ["heartbeat works again (2 failed in 30 s)"])
        self.assertEqual(self.recoveries, 1)
        self.clock.advance(5)
        self.assertEqual(self.recoveries, 1)

    def test_nudge(self) -> None:
        """News that the network is back ends the wait; a server's own refusal is not overruled by it."""
        self.sender.outcomes = [network_error(), server_error(503)]
        self.service.startService()
        self.clock.advance(1)
        self.service.nudge()
        self.assertEqual(self.sent, 2)
        self.service.nudge()
        self.assertEqual(self.sent, 2)
        self.clock.advance(20)
        self.service.nudge()  # all is well: nothing to bring forward
        self.assertEqual(self.sent, 3)

    def test_bug(self) -> None:
        """An error of our own is logged, and neither ends the heartbeats nor goes as success."""
        self.sender.outcomes = [ValueError("bug")]
        self.service.startService()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.board.now.heartbeat.state, "failing")
        self.clock.advance(10)
        self.assertEqual(self.board.now.heartbeat.state, "ok")


class NoReconnectTests(Case):
    """C{pipeops.reconnect.enabled: false}."""

    def test_lost(self) -> None:
        """The first lost connection ends the process with 69."""
        for error in (network_error("gone"), server_error(502)):
            self.begin(enabled=False)
            self.fatal.clear()
            self.sender.outcomes = [error]
            self.service.startService()
            (fatal,) = self.fatal
            self.assertEqual(fatal.status, ExitStatus.UNAVAILABLE)
            self.assertIn(error.sentence, fatal.sentence)
            self.stopped()

    def test_refused(self) -> None:
        """An answer that says no is no lost connection; nor is any, by default."""
        self.begin(enabled=False)
        self.sender.default = ApiError("no", status=403)
        self.service.startService()
        self.assertEqual(self.fatal, [])
        self.stopped()
        self.begin()
        self.sender.default = network_error()
        self.service.startService()
        self.assertEqual(self.fatal, [])


class AdviceTests(Case):
    """What an answer advises."""

    def hear(self, *answers: HeartbeatAnswer) -> None:
        """Send a heartbeat for each of C{answers}."""
        self.sender.outcomes = list(answers)
        self.service.startService()
        self.clock.pump([5.0] * (len(answers) - 1))
        self.assertEqual(self.sender.outcomes, [])

    def test_reconnect(self) -> None:
        """C{reconnect} is passed on once, however often it is said; again when it was not said meanwhile."""
        please, nothing = HeartbeatAnswer(reconnect=True, message="we move"), HeartbeatAnswer()
        self.hear(nothing, please, please, please, nothing, please)
        self.assertEqual(self.advice, [("we move", True)] * 2)

    def test_a_failure_in_between(self) -> None:
        """A heartbeat that fails between two answers that say the same makes them no news."""
        please = HeartbeatAnswer(reconnect=True)
        self.sender.outcomes = [please, network_error(), please, please]
        self.service.startService()
        self.clock.pump([5.0] * 6)
        self.assertEqual(self.advice, [("no reason given", True)])

    def test_server(self) -> None:
        """A server that is named is a hint, once for each."""
        self.hear(*(HeartbeatAnswer(server=name) for name in ("wss://a", "wss://a", "wss://b")))
        self.assertEqual(
            self.advice,
            [
                ("the heartbeat names the server wss://a", False),
                ("the heartbeat names the server wss://b", False),
            ],
        )

    def test_what_is_not_understood(self) -> None:
        """A field of a wrong type is a warning, once, and the heartbeat a success."""
        odd = HeartbeatAnswer(problem="reconnect: expected true or false, got a string")
        self.hear(odd, odd, odd)
        self.assertEqual(len(self.records.at("warn")), 1)
        self.assertEqual((self.board.now.heartbeat.state, self.advice), ("ok", []))


class UnknownTests(Case):
    """A control plane that no longer knows the cluster."""

    def setUp(self) -> None:
        super().setUp()
        self.begin(interval=10.0, backoff=0.0)  # failures come every 10 s

    def test_three_over_thirty_seconds(self) -> None:
        """Three in a row are not enough before 30 s have passed."""
        self.sender.default = UNKNOWN
        self.service.startService()
        self.clock.advance(10)
        self.clock.advance(10)
        self.assertEqual((self.sent, self.unknown), (3, []))
        self.clock.advance(10)
        self.assertEqual(self.unknown, [30.0])

    def test_less_than_thirty_seconds(self) -> None:
        """Three within a moment less than 30 s are not enough either."""
        self.begin(interval=14.9, backoff=0.0)
        self.sender.default = UNKNOWN
        self.service.startService()
        self.clock.pump([14.9] * 2)
        self.assertEqual((self.sent, self.unknown), (3, []))
        self.clock.advance(14.9)
        self.assertEqual(len(self.unknown), 1)

    def test_two_are_not_enough(self) -> None:
        """Thirty seconds are not enough with two; with the third it is time."""
        self.begin(interval=30.0, backoff=0.0)
        self.sender.default = UNKNOWN
        self.service.startService()
        self.clock.advance(30)
        self.assertEqual((self.sent, self.unknown), (2, []))
        self.clock.advance(30)
        self.assertEqual(self.unknown, [60.0])

    def test_once_a_minute(self) -> None:
        """It is asked for at most once a minute, and again as long as it goes on."""
        self.sender.default = UNKNOWN
        self.service.startService()
        self.clock.pump([10] * 12)
        self.assertEqual(self.unknown, [30.0, 90.0])

    def test_in_a_row(self) -> None:
        """Anything else in between begins the count anew: success, no answer, a proxy's 404."""
        page = ApiError("404", status=404)
        for other in (None, network_error(), server_error(503), page):
            self.begin(interval=10.0, backoff=0.0)
            self.sender.outcomes = [UNKNOWN, UNKNOWN, UNKNOWN, other, UNKNOWN, UNKNOWN, UNKNOWN]
            self.sender.default = page
            self.service.startService()
            self.clock.pump([10] * 8)
            self.assertEqual(self.unknown, [])
            self.stopped()

    def test_page(self) -> None:
        """An ingress's 404 page is a failure like 5xx, however long it goes on."""
        self.sender.default = ApiError("404", status=404)
        self.service.startService()
        self.clock.pump([10] * 20)
        self.assertEqual(self.unknown, [])
        self.assertEqual(self.board.now.heartbeat.state, "disconnected")

    def test_ids_stay(self) -> None:
        """No answer clears an id: the cluster's is in each heartbeat to the last."""
        self.sender.default = UNKNOWN
        self.service.startService()
        self.clock.pump([10] * 10)
        self.assertEqual({beat.cluster_id for beat in self.sender.calls}, {"cluster-1"})
