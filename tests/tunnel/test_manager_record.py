"""Tests of the tunnel's manager: what it keeps and shows of forwards, attempts and denied dials."""

from __future__ import annotations

from pipeops_agent.events import Event
from pipeops_agent.tunnel.attempts import MAX_ATTEMPTS_SHOWN
from pipeops_agent.tunnel.denials import WINDOW, Source
from pipeops_agent.tunnel.lines import EXTRA_ROLE, MAIN_ROLE
from tests.tunnel.manager_case import DISABLED, FIRST_WAIT, ManagerCase
from tests.tunnel.scripted import make_order
from tests.tunnel.test_traffic import Open


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

    def test_an_old_proof(self) -> None:
        """A proof holds for tunnel.proof_lifetime after the target was last heard of; then it is stale."""
        rig = self.rig(proof_lifetime=60.0)
        rig.connect(8000)
        counters = rig.counters.forward("a")
        channel = Open()
        counters.enter(channel, rig.clock.seconds(), 0.01)
        rig.manager.dialled("a", None)
        rig.clock.pump([13] * 4)
        channel.tally.last_out = rig.clock.seconds()
        rig.clock.pump([10] * 5)
        self.assertEqual(rig.forwards["a"], "proven")
        rig.clock.advance(10)
        self.assertEqual(rig.forwards["a"], "stale")
        self.assertIn("its target was last heard of at 1970-01-01T00:00:52Z", rig.tunnel.forwards[0].message)
        counters.last_dial = rig.clock.seconds()
        rig.manager.dialled("a", None)
        self.assertEqual(rig.forwards["a"], "proven")
        counters.leave(channel)

    def test_a_proof_for_good(self) -> None:
        """With a lifetime of 0 a proof holds as long as its session."""
        rig = self.rig(proof_lifetime=0.0, watchdog=0.0)
        rig.connect(8000)
        rig.counters.forward("a").last_dial = 0.0
        rig.manager.dialled("a", None)
        rig.clock.pump([13] * 1000)
        self.assertEqual(rig.forwards["a"], "proven")

    def test_late_pings(self) -> None:
        """While no ping is answered nothing shows that the server listens: stale, until one is."""
        rig = self.rig(ping_interval=8.0, ping_timeout=5.0)
        session = rig.connect(8000, 8001)
        rig.manager.dialled("a", None)
        rig.counters.forward("a").last_dial = 0.0
        session.silent_since = 0.0
        rig.clock.advance(12.9)
        self.assertEqual(rig.forwards, {"a": "proven", "b": "listening", "c": "configured"})
        rig.clock.advance(0.1)
        self.assertEqual(rig.forwards, {"a": "stale", "b": "stale", "c": "configured"})
        self.assertEqual(
            rig.tunnel.forwards[0].message, "no ping has been answered since 1970-01-01T00:00:00Z"
        )
        session.silent_since = None
        rig.manager.pinged()
        self.assertEqual(rig.forwards, {"a": "proven", "b": "listening", "c": "configured"})

    def test_pinged(self) -> None:
        """The round trip of the last ping is shown."""
        rig = self.rig()
        rig.connect(8000)._rtt = 0.5
        rig.manager.pinged()
        self.assertEqual(rig.tunnel.rtt, 0.5)


class RecordTests(ManagerCase):
    """What the status keeps of attempts, and what the hub hears."""

    def test_attempts(self) -> None:
        """Each attempt: server, line, forwards, outcome, steps with their durations; the last twenty."""
        rig = self.rig()
        rig.manager.obey(make_order(8000, 8001))
        rig.clock.advance(2)
        rig.answer().refuse(8001)
        rig.answer().accept()
        refused, connected = rig.tunnel.attempts
        self.assertEqual((refused.server, refused.role), ("wss://tunnel.example:443/", MAIN_ROLE))
        self.assertEqual((refused.forwards, refused.outcome), (("a", "b"), "refused"))
        self.assertEqual([(step.name, step.seconds) for step in refused.steps], [("tcp", 2.0)])
        self.assertEqual((refused.error, refused.seconds), ("cannot listen", 2.0))
        self.assertEqual((connected.forwards, connected.outcome), (("a",), "connected"))
        self.assertIsNone(connected.error)
        for _ in range(30):
            rig.clock.advance(60)
            rig.answer().fail()
        self.assertEqual(len(rig.tunnel.attempts), MAX_ATTEMPTS_SHOWN)
        last = rig.tunnel.attempts[-1]
        self.assertEqual((last.role, last.outcome, last.error), (EXTRA_ROLE, "failed", "connection refused"))

    def test_given_up(self) -> None:
        """An attempt that is not wanted any more is kept as given up."""
        rig = self.rig()
        rig.manager.obey(make_order(8000))
        rig.manager.obey(DISABLED)
        (attempt,) = rig.tunnel.attempts
        self.assertEqual((attempt.outcome, attempt.error), ("given up", "given up"))

    def test_denied_dials(self) -> None:
        """Denied dials are events on the channel tunnel while the manager runs, and shown in the traffic."""
        rig = self.rig()
        events: list[Event] = []
        rig.hub.subscribe(events.append)
        for _ in range(1000):
            rig.counters.denials.note("localhost:22", Source("wss://tunnel.example:443/", 1))
        self.assertEqual([(each.channel, each.event) for each in events], [("tunnel", "dial_denied")])
        self.assertEqual(events[0].data["targets"], {"localhost:22": 1})
        rig.clock.advance(WINDOW)
        self.assertEqual((len(events), events[1].data["count"]), (2, 999))
        self.assertEqual(rig.board.traffic().denied, {"localhost:22": 1000})
