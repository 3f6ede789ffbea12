"""What holds for the tunnel's manager whatever the control plane, the server and the clock do."""

from __future__ import annotations

import msgspec
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
from pipeops_agent.tunnel.manager import RECONNECT_CAP, TunnelManager
from pipeops_agent.tunnel.traffic import TrafficCounters
from pipeops_agent.tunnel.watchdog import SPREAD, TICK
from tests.tunnel.scripted import Attempt, ScriptedOpener, ScriptedSession, make_order, make_server, wall_of

FORWARDS = tuple(
    Forward(name=name, local_addr=f"localhost:{port}") for name, port in [("a", 1), ("b", 2), ("c", 3)]
)
PORTS = [(8000, 8001, 8002), (8000, 8001), (8000, 9001, 9002), (9000, 9001, 9002), (9000,), ()]
HOSTS = ["one.example", "two.example"]
WATCHDOG = 60.0
BOUND = WATCHDOG * (1 + SPREAD) + 2 * TICK + RECONNECT_CAP
"""Seconds after which a tunnel that is wanted, and can be had, is there."""
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
            watchdog=WATCHDOG,
        )
        self.manager = TunnelManager(
            self.clock,
            self.settings,
            ReconnectSettings(),
            board=self.board,
            wall=self.wall,
            make_opener=self.make_opener,
            counters=TrafficCounters(),
            on_fatal=lambda error: None,
            random=lambda: 0.5,
        )
        self.manager.startService()

    def make_opener(self):  # type: ignore[no-untyped-def] # as below
        return self.opener

    def wall(self):  # type: ignore[no-untyped-def] # hypothesis looks at every annotation of a machine's class
        return wall_of(self.clock)

    @property
    def serving(self) -> list[ScriptedSession]:
        """The sessions that are up, and that nobody has begun to close, or to drain."""
        drained = [line.session for line in self.manager._lines._draining]
        return [
            session
            for session in self.sessions
            if session.alive and session.close_reason is None and session not in drained
        ]

    @property
    def pending(self) -> list[Attempt]:
        """The attempts that wait for an answer, but for those that were given up and go on all the same."""
        return [each for each in self.opener.pending if not each.cancelled]

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
        self.manager.reconfigure(msgspec.structs.replace(self.settings, forwards=FORWARDS[:number]))

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), delay=st.sampled_from([0.0, 1.0]))
    def answer_yes(self, data: st.DataObject, delay: float) -> None:
        self.accept(data.draw(st.sampled_from(self.pending)), delay)

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), retryable=st.booleans())
    def answer_no(self, data: st.DataObject, retryable: bool) -> None:
        data.draw(st.sampled_from(self.pending)).fail(retryable=retryable)

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.pending))
        attempt.refuse(*data.draw(st.sets(st.sampled_from([*attempt.ports, 1]), max_size=2)))

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def hang(self, data: st.DataObject) -> None:
        """An attempt that neither ends by itself nor can be ended."""
        data.draw(st.sampled_from(self.pending)).stuck = True

    @precondition(lambda self: any(attempt.stuck for attempt in self.opener.pending))
    @rule(data=st.data())
    def come_late(self, data: st.DataObject) -> None:
        """One of those ends after all."""
        self.accept(data.draw(st.sampled_from([each for each in self.opener.pending if each.stuck])), 0.0)

    @rule()
    def silence(self) -> None:
        """Nothing happens for longer than the watchdog waits."""
        self.clock.pump([TICK] * round((WATCHDOG * (1 + SPREAD) + 2 * TICK) / TICK))

    @rule(why=st.sampled_from(["please", "we move"]))
    def reconnect(self, why: str) -> None:
        self.manager.reconnect(why)

    @precondition(lambda self: self.serving)
    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        """A connection through a session begins, or ends."""
        session = data.draw(st.sampled_from(self.serving))
        session.channels = 0 if session.channels else 1

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
        things: list[Attempt | ScriptedSession] = [*alive, *self.pending]
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
            assert not self.pending
        if tunnel.state == "waiting":
            assert not self.pending
        if self.pending:
            assert tunnel.state in {"connecting", "connected"}, tunnel
        carried = {remote.forward for session in self.serving for remote in session.remotes}
        listening = {each.name for each in tunnel.forwards if each.state in {"listening", "proven", "stale"}}
        assert listening == carried & {each.name for each in tunnel.forwards}, tunnel

    @invariant()
    def nothing_is_left_over(self) -> None:
        """
        The number of timers does not grow: one per line, those of closing, of inactivity, of the watchdog, of
        flapping, of draining.
        """
        assert len(self.clock.getDelayedCalls()) <= 20

    def wait_for_the_tunnel(self) -> None:
        """What is under way hangs for ever, every later attempt is answered: only the watchdog helps."""
        for attempt in self.pending:
            attempt.stuck = True
        for _ in range(round(BOUND)):
            for attempt in self.pending:
                if not attempt.stuck:
                    self.accept(attempt, 0.0)
            if not self.manager._is_wanted:
                return  # nobody has used it for so long that it rests
            states = {each.state for each in self.board.now.tunnel.forwards if each.remote_port is not None}
            if self.board.now.tunnel.state == "connected" and states <= {"listening", "proven", "stale"}:
                return
            self.clock.advance(1.0)
        raise AssertionError(self.board.now.tunnel)

    def teardown(self) -> None:
        """
        At the end a tunnel that is wanted is there, whatever was before, within a bounded time; another that
        is ordered can be had, in full; and a stop leaves nothing.
        """
        if not hasattr(self, "manager"):
            return
        if self.manager._is_wanted:
            self.wait_for_the_tunnel()
        self.manager.reconfigure(TunnelSettings(forwards=FORWARDS))
        self.manager.obey(LAST_ORDER)
        for _ in range(12):
            for attempt in self.pending:
                self.accept(attempt, 0.0)
            self.clock.advance(1.0)
        states = {each.name: each.state for each in self.board.now.tunnel.forwards}
        assert states == {"a": "listening", "b": "listening", "c": "listening"}, self.board.now.tunnel
        assert len(self.serving) == 1
        stopped = self.manager.stopService()
        self.clock.pump([0.5] * 8)
        assert stopped.called
        assert self.clock.getDelayedCalls() == []
        assert self.pending == []
        assert not any(session.alive for session in self.sessions)
        assert self.board.now.tunnel.state == "disabled"


class PropertyTests(SynchronousTestCase):
    def test_any_course_of_events(self) -> None:
        """The invariants hold in any course of events; a wanted tunnel can be had; a stop leaves nothing."""
        run_state_machine_as_test(
            ManagerMachine, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
        )
