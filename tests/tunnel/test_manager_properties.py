"""What holds for the tunnel's manager whatever the control plane, the server and the clock do."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.events import EventHub
from pipeops_agent.orders import TunnelOrder
from pipeops_agent.settings.model_pipeops import ReconnectSettings
from pipeops_agent.settings.model_tunnel import Forward, TunnelSettings
from pipeops_agent.status import StatusBoard
from pipeops_agent.tunnel.manager import TunnelManager
from pipeops_agent.tunnel.traffic import TrafficCounters
from tests.tunnel.scripted import Attempt, ScriptedOpener, ScriptedSession, make_order, make_server, wall_of

FORWARDS = tuple(
    Forward(name=name, local_addr=f"localhost:{port}") for name, port in [("a", 1), ("b", 2), ("c", 3)]
)
PORTS = [(8000, 8001, 8002), (8000, 8001), (8000, 9001, 9002), (9000, 9001, 9002), (9000,), ()]
HOSTS = ["one.example", "two.example"]
LAST_ORDER = make_order(7000, 7001, 7002)


def bound(thing: Attempt | ScriptedSession) -> set[tuple[str, int]]:
    """What a session binds, or an attempt asks to."""
    return {(thing.server.address.host, remote.remote_port) for remote in thing.remotes}


class ManagerMachine(RuleBasedStateMachine):
    """Orders, answers, losses and time, in any order."""

    @initialize(policy=st.sampled_from(["wanted", "always"]), timeout=st.sampled_from([0.0, 40.0]))
    def start(self, policy: str, timeout: float) -> None:
        self.clock = Clock()
        self.board = StatusBoard(EventHub(self.wall), self.wall)
        self.opener = ScriptedOpener(self.clock)
        self.sessions: list[ScriptedSession] = []
        self.settings = TunnelSettings(
            forwards=FORWARDS,
            inactivity_policy="always" if policy == "always" else "wanted",
            inactivity_timeout=timeout,
        )
        self.manager = TunnelManager(
            self.clock,
            self.settings,
            ReconnectSettings(),
            board=self.board,
            wall=self.wall,
            opener=self.opener,
            counters=TrafficCounters(),
            on_fatal=lambda error: None,
            random=lambda: 0.5,
        )
        self.manager.startService()

    def wall(self):  # type: ignore[no-untyped-def] # hypothesis looks at every annotation of a machine's class
        return wall_of(self.clock)

    @property
    def serving(self) -> list[ScriptedSession]:
        """The sessions that are up, and that nobody has begun to close."""
        return [session for session in self.sessions if session.alive and session.close_reason is None]

    def accept(self, attempt: Attempt, delay: float) -> None:
        self.sessions.append(attempt.accept(delay))

    @rule(ports=st.sampled_from(PORTS), host=st.sampled_from(HOSTS))
    def want(self, ports: tuple[int, ...], host: str) -> None:
        self.manager.obey(make_order(*ports, server=make_server(host)))

    @rule(state=st.sampled_from(["idle", "disabled"]))
    def want_none(self, state: str) -> None:
        self.manager.obey(TunnelOrder("idle" if state == "idle" else "disabled"))

    @rule(number=st.integers(1, 3))
    def reconfigure(self, number: int) -> None:
        self.manager.reconfigure(
            TunnelSettings(
                forwards=FORWARDS[:number],
                inactivity_policy=self.settings.inactivity_policy,
                inactivity_timeout=self.settings.inactivity_timeout,
            )
        )

    @precondition(lambda self: self.opener.pending)
    @rule(data=st.data(), delay=st.sampled_from([0.0, 1.0]))
    def answer_yes(self, data: st.DataObject, delay: float) -> None:
        self.accept(data.draw(st.sampled_from(self.opener.pending)), delay)

    @precondition(lambda self: self.opener.pending)
    @rule(data=st.data(), retryable=st.booleans())
    def answer_no(self, data: st.DataObject, retryable: bool) -> None:
        data.draw(st.sampled_from(self.opener.pending)).fail(retryable=retryable)

    @precondition(lambda self: self.opener.pending)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.opener.pending))
        attempt.refuse(*data.draw(st.sets(st.sampled_from([*attempt.ports, 1]), max_size=2)))

    @precondition(lambda self: any(session.alive for session in self.sessions))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from([session for session in self.sessions if session.alive])).lose()

    @precondition(lambda self: self.serving)
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.serving)).touch()

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0, 40.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def wake(self) -> None:
        self.manager.wake()

    @rule(name=st.sampled_from(["a", "b", "x"]), problem=st.sampled_from([None, "connection refused"]))
    def dialled(self, name: str, problem: str | None) -> None:
        self.manager.dialled(name, problem)

    @invariant()
    def no_port_is_asked_for_twice(self) -> None:
        """No two of all sessions and attempts bind the same port of the same server."""
        alive = [session for session in self.sessions if session.alive]
        things: list[Attempt | ScriptedSession] = [*alive, *self.opener.pending]
        every = [place for thing in things for place in bound(thing)]
        assert len(every) == len(set(every)), every

    @invariant()
    def the_status_is_true(self) -> None:
        """The state says what is held, and the forwards what is carried."""
        tunnel = self.board.now.tunnel
        alive = [session for session in self.sessions if session.alive]
        assert (tunnel.state == "connected") == bool(self.serving), tunnel
        if tunnel.state in {"idle", "disabled"}:
            assert not alive
            assert not self.opener.pending
        if tunnel.state == "waiting":
            assert not self.opener.pending
        if self.opener.pending:
            assert tunnel.state in {"connecting", "connected"}, tunnel
        carried = {remote.forward for session in self.serving for remote in session.remotes}
        listening = {each.name for each in tunnel.forwards if each.state in {"listening", "proven", "stale"}}
        assert listening == carried & {each.name for each in tunnel.forwards}, tunnel

    @invariant()
    def nothing_is_left_over(self) -> None:
        """The number of timers does not grow: one per line, one for inactivity, those of closing."""
        assert len(self.clock.getDelayedCalls()) <= 16

    def teardown(self) -> None:
        """At the end a tunnel that is wanted can be had, in full; and a stop leaves nothing."""
        if not hasattr(self, "manager"):
            return
        self.manager.reconfigure(TunnelSettings(forwards=FORWARDS))
        self.manager.obey(LAST_ORDER)
        for _ in range(12):
            for attempt in self.opener.pending:
                self.accept(attempt, 0.0)
            self.clock.advance(1.0)
        states = {each.name: each.state for each in self.board.now.tunnel.forwards}
        assert states == {"a": "listening", "b": "listening", "c": "listening"}, self.board.now.tunnel
        assert len(self.serving) == 1
        stopped = self.manager.stopService()
        self.clock.pump([0.5] * 8)
        assert stopped.called
        assert self.clock.getDelayedCalls() == []
        assert self.opener.pending == []
        assert not any(session.alive for session in self.sessions)
        assert self.board.now.tunnel.state == "disabled"


class PropertyTests(SynchronousTestCase):
    def test_any_course_of_events(self) -> None:
        """The invariants hold in any course of events; a wanted tunnel can be had; a stop leaves nothing."""
        run_state_machine_as_test(
            ManagerMachine, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
        )
