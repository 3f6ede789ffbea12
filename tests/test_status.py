"""Tests for L{pipeops_agent.status}."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.events import Event, EventHub
from pipeops_agent.figures import CanaryResult, DeniedDials, FlowStatus, ForwardTraffic, TunnelTraffic
from pipeops_agent.status import PHASES, AbilityStatus, Attempt, ForwardStatus, Phase, StatusBoard, Step


class StatusBoardTests(SynchronousTestCase):
    """The one truth."""

    def setUp(self) -> None:
        self.begin = self.time = datetime(2025, 10, 15, 8, 0, 0, tzinfo=UTC)
        self.hub = EventHub(lambda: self.time)
        self.board = StatusBoard(self.hub, lambda: self.time)
        self.events: list[Event] = []
        self.hub.subscribe(self.events.append)

    def names(self) -> list[tuple[str, str]]:
        """Channels and names of the events so far."""
        return [(event.channel, event.event) for event in self.events]

    def test_clean(self) -> None:
        """Whatever a peer has said is cleaned before anybody can see it, also deep inside."""
        board = StatusBoard(self.hub, lambda: self.time, clean=lambda text: text.replace("secret", "***"))
        step = Step(name="login", seconds=1.0, error="a secret")
        board.set_registration(message="a secret")
        board.set_heartbeat(message="a secret")
        board.set_cluster(
            message="a secret",
            token_message="a secret",
            abilities=(AbilityStatus(name="logs", state="denied", message="a secret"),),
            api_missing=("metrics.k8s.io/v1: a secret",),
        )
        board.set_tunnel(
            message="a secret",
            flapping="a secret",
            forwards=(ForwardStatus(name="kubelet", local_addr="h:1", message="a secret"),),
            attempts=(Attempt(began=self.time, steps=(step,), error="a secret"),),
        )
        board.announce("rebuilt", why="a secret", last_errors=["a secret"], rebuilds=1)
        self.assertNotIn("secret", str(board.now))
        self.assertEqual(str(board.now).count("***"), 11)
        self.assertNotIn("secret", str(self.events))

    def test_announce(self) -> None:
        """What has happened and is over is an event, and no status."""
        before = self.board.now
        self.board.announce("rebuilt", why="silence", rebuilds=1)
        self.assertEqual(self.names(), [("tunnel", "rebuilt")])
        self.assertEqual(self.events[0].data, {"why": "silence", "rebuilds": 1})
        self.assertIs(self.board.now, before)

    def test_beginning(self) -> None:
        """A new board claims nothing: nothing is registered, connected, or has got through."""
        now = self.board.now
        self.assertEqual((now.phase, now.since, now.started), ("starting", self.begin, self.begin))
        self.assertIsNone(now.agent_id)
        self.assertIsNone(now.clock_skew)
        self.assertFalse(now.registration.registered)
        self.assertEqual(now.heartbeat.state, "pending")
        self.assertEqual(now.tunnel.state, "disabled")
        self.assertFalse(now.cluster.configured)
        self.assertEqual(self.events, [])

    def test_phase(self) -> None:
        """A phase is noted with its time, and told."""
        self.time += timedelta(seconds=3)
        self.board.enter("registering")
        self.assertEqual((self.board.now.phase, self.board.now.since), ("registering", self.time))
        self.assertEqual(self.board.now.started, self.begin)
        self.assertEqual(self.names(), [("agent", "phase")])
        self.assertEqual(self.events[0].data, {"phase": "registering", "since": "2025-10-15T08:00:03Z"})

    def test_same_phase(self) -> None:
        """Entering the present phase again changes nothing, its time least of all."""
        self.time += timedelta(seconds=3)
        self.board.enter("starting")
        self.assertEqual(self.board.now.since, self.begin)
        self.assertEqual(self.events, [])

    def test_stopping_is_final(self) -> None:
        """An agent that is leaving is not made ready again by an answer that was still under way."""
        self.board.enter("stopping")
        for phase in PHASES:
            self.board.enter(phase)
            self.assertEqual(self.board.now.phase, "stopping")
        self.assertEqual(len(self.events), 1)

    def test_phases(self) -> None:
        """The list of phases, of which metrics have one series each, is complete."""
        self.assertEqual(PHASES, get_args(Phase))

    def test_parts(self) -> None:
        """Each part is changed by its fields, the others stay; each change is an event on its channel."""
        self.board.identify("agent-web1-1")
        self.board.set_registration(registered=True, cluster_id="c1")
        self.board.set_heartbeat(state="ok")
        self.board.set_tunnel(state="connecting", server="wss://chisel.example/")
        self.board.set_cluster(configured=True)
        self.board.set_registration(attempts=2)
        now = self.board.now
        self.assertEqual(now.agent_id, "agent-web1-1")
        self.assertTrue(now.registration.registered)
        self.assertEqual((now.registration.cluster_id, now.registration.attempts), ("c1", 2))
        self.assertEqual(now.heartbeat.state, "ok")
        self.assertEqual((now.tunnel.state, now.tunnel.server), ("connecting", "wss://chisel.example/"))
        self.assertTrue(now.cluster.configured)
        self.assertEqual(
            self.names(),
            [
                ("agent", "identity"),
                ("agent", "registration"),
                ("health", "heartbeat"),
                ("tunnel", "tunnel"),
                ("cluster", "cluster"),
                ("agent", "registration"),
            ],
        )

    def test_values_are_replaced(self) -> None:
        """What somebody has read does not change under their eyes."""
        before = self.board.now
        self.board.set_tunnel(state="connected")
        self.assertEqual(before.tunnel.state, "disabled")
        self.assertIsNot(self.board.now, before)
        with self.assertRaises(AttributeError):
            before.tunnel.state = "connected"  # type: ignore[misc]  # it is frozen: what is tested

    def test_event_comes_after_the_change(self) -> None:
        """Whoever hears of a change finds it on the board already."""
        seen: list[str] = []
        self.hub.subscribe(lambda _: seen.append(self.board.now.tunnel.state))
        self.board.set_tunnel(state="connecting")
        self.assertEqual(seen, ["connecting"])

    def test_no_change(self) -> None:
        """What is said again is no event."""
        self.board.set_tunnel(state="connecting", message="to the server")
        before = self.board.now
        self.board.set_tunnel(state="connecting", message="to the server")
        self.board.identify("a")
        self.board.identify("a")
        self.assertIs(self.board.now.tunnel, before.tunnel)
        self.assertEqual(self.names(), [("tunnel", "tunnel"), ("agent", "identity")])

    def test_unknown_field(self) -> None:
        """A field that does not exist is a mistake, and changes nothing."""
        before = self.board.now
        for change in (
            self.board.set_registration,
            self.board.set_heartbeat,
            self.board.set_tunnel,
            self.board.set_cluster,
        ):
            with self.assertRaises(TypeError):
                change(mood="good")
        self.assertIs(self.board.now, before)

    def test_event_data(self) -> None:
        """The event's data are plain values, fit for JSON, with the whole of the changed part."""
        self.board.set_tunnel(
            forwards=(
                ForwardStatus(name="api", local_addr="localhost:6443", state="allocated", since=self.begin),
            ),
            attempts=(Attempt(began=self.begin, steps=(Step(name="dns", seconds=0.5),)),),
        )
        data = self.events[0].data["tunnel"]
        self.assertEqual(data["state"], "disabled")
        self.assertEqual(data["forwards"][0]["since"], "2025-10-15T08:00:00Z")
        self.assertEqual(list(data["attempts"][0]["steps"]), [{"name": "dns", "seconds": 0.5, "error": None}])
        msgspec.json.encode(self.events[0])

    def test_clock_skew(self) -> None:
        """A skew is told at first and whenever it has moved by a second: not with every answer."""
        for seconds in (0.2, 0.9, -0.7, 1.3, 40.0, 40.9, 41.0):
            self.board.set_clock_skew(seconds)
        self.assertEqual([event.data["clock_skew"] for event in self.events], [0.2, 1.3, 40.0, 41.0])
        self.assertEqual(self.board.now.clock_skew, 41.0)
        self.assertEqual(set(self.names()), {("health", "clock_skew")})

    def test_clean_traffic(self) -> None:
        """Sentences and names among the counters are cleaned as well: they come from peers."""
        board = StatusBoard(self.hub, lambda: self.time, clean=lambda text: text.replace("secret", "***"))
        forward = ForwardTraffic(last_problem="a secret", canary=CanaryResult(error="a secret"))
        board.read_traffic_from(
            lambda: TunnelTraffic(forwards={"api": forward, "web": ForwardTraffic()}, denied={"secret:1": 2})
        )
        traffic = board.traffic()
        self.assertNotIn("secret", str(traffic))
        self.assertEqual((traffic.denied, traffic.forwards["web"].last_problem), ({"***:1": 2}, None))
        board.tell_denied(
            DeniedDials(server="wss://x/", session=1, targets={"secret:1": 2}, count=2, total=3)
        )
        self.assertEqual(self.names(), [("tunnel", "dial_denied")])
        self.assertEqual(self.events[0].data["targets"], {"***:1": 2})
        msgspec.json.encode(self.events[0])

    def test_channels(self) -> None:
        """The flow is read from its source when it is asked for; without one nothing flows."""
        self.assertEqual(self.board.channels(), FlowStatus())
        self.board.read_channels_from(lambda: FlowStatus(at=self.time))
        self.assertEqual(self.board.channels().at, self.time)

    def test_traffic(self) -> None:
        """The counters are read from their source when they are asked for; without one they are 0."""
        self.assertEqual(self.board.traffic(), TunnelTraffic())
        self.assertEqual(self.board.traffic().connects, 0)
        counts = [1, 2]
        self.board.read_traffic_from(
            lambda: TunnelTraffic(forwards={"api": ForwardTraffic(bytes_in=counts.pop(0))})
        )
        self.assertEqual(self.board.traffic().forwards["api"].bytes_in, 1)
        self.assertEqual(self.board.traffic().forwards["api"].bytes_in, 2)
        self.assertEqual(self.events, [])
