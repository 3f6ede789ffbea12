"""Tests for L{pipeops_agent.scheduling.PeriodicService}."""

from __future__ import annotations

from collections.abc import Awaitable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.scheduling import PeriodicService, sleep


class Boom(Exception):
    """What goes wrong in these tests."""


class PeriodicTestCase(SynchronousTestCase):
    """A periodic service whose calls end when the test says so, and which leaves nothing on the clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.calls: list[Deferred[None]] = []
        self.began: list[float] = []
        self.interval = 10.0
        self.service = self.make()
        self.addCleanup(lambda: self.service.running and self.successResultOf(self.service.stopService()))

    def make(self, *, from_start: bool = False) -> PeriodicService:
        return PeriodicService(
            self.clock, self.call, lambda: self.interval, what="the beat", from_start=from_start
        )

    def call(self) -> Awaitable[None]:
        self.began.append(self.clock.seconds())
        waiting: Deferred[None] = Deferred()
        self.calls.append(waiting)
        return waiting

    def finish(self) -> None:
        self.calls[-1].callback(None)


class PeriodicServiceTests(PeriodicTestCase):
    """Again and again."""

    def test_at_start(self) -> None:
        """The first call is made at the start, none before it."""
        self.assertEqual(self.began, [])
        self.service.startService()
        self.assertEqual(self.began, [0])

    def test_from_end(self) -> None:
        """The interval counts from the end of a call, however long that took."""
        self.service.startService()
        self.clock.advance(25)
        self.finish()
        self.clock.advance(9.9)
        self.assertEqual(self.began, [0])
        self.clock.advance(0.1)
        self.assertEqual(self.began, [0, 35])

    def test_from_start(self) -> None:
        """With that option it counts from the start: a slow call does not slow the pace."""
        self.service = self.make(from_start=True)
        self.service.startService()
        self.clock.advance(4)
        self.finish()
        self.clock.advance(6)
        self.assertEqual(self.began, [0, 10])

    def test_slower_than_the_interval(self) -> None:
        """A call that outlasts the interval is followed by one at once, not by all that were missed."""
        self.service = self.make(from_start=True)
        self.service.startService()
        self.clock.advance(35)
        self.assertEqual(self.began, [0])
        self.finish()
        self.clock.advance(0)
        self.assertEqual(self.began, [0, 35])
        self.finish()
        self.clock.advance(9)
        self.assertEqual(self.began, [0, 35])
        self.clock.advance(1)
        self.assertEqual(self.began, [0, 35, 45])

    def test_changing_interval(self) -> None:
        """The interval is asked for after each call; one below zero is none."""
        self.service.startService()
        self.interval = 3
        self.finish()
        self.clock.advance(3)
        self.assertEqual(self.began, [0, 3])
        self.interval = -1
        self.finish()
        self.clock.advance(0)
        self.assertEqual(self.began, [0, 3, 3])

    def test_failure(self) -> None:
        """A failing call is logged by name, and the next is made in its time."""
        self.service.startService()
        with capturedLogs() as records:
            self.calls[-1].errback(Boom())
        self.assertEqual([record["what"] for record in records], ["the beat"])
        self.clock.advance(10)
        self.assertEqual(self.began, [0, 10])
        self.assertEqual(len(self.flushLoggedErrors(Boom)), 1)

    def test_failure_at_once(self) -> None:
        """So is a function that fails instead of returning something to wait for."""

        def fail() -> Awaitable[None]:
            self.began.append(self.clock.seconds())
            raise Boom

        self.service = PeriodicService(self.clock, fail, lambda: 1, what="the beat")
        self.service.startService()
        self.clock.advance(1)
        self.assertEqual(self.began, [0, 1])
        self.assertEqual(len(self.flushLoggedErrors(Boom)), 2)

    def test_cancelled_from_inside(self) -> None:
        """A call that ends because something inside was cancelled has failed: that does not end the loop."""
        self.service.startService()
        self.calls[-1].cancel()
        self.clock.advance(10)
        self.assertEqual(self.began, [0, 10])
        self.assertEqual(len(self.flushLoggedErrors(CancelledError)), 1)

    def test_start_twice(self) -> None:
        """A service that runs is not started again."""
        self.service.startService()
        self.service.startService()
        self.finish()
        self.service.startService()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertEqual(self.began, [0])


class PeriodicStopTests(PeriodicTestCase):
    """Stopping, and starting again."""

    def test_between_calls(self) -> None:
        """Between two calls it stops at once, and none follows."""
        self.service.startService()
        self.finish()
        self.successResultOf(self.service.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_during_a_call(self) -> None:
        """A call under way is cancelled, which is no failure, and none follows."""
        self.service.startService()
        self.successResultOf(self.service.stopService())
        self.assertTrue(self.calls[-1].called)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_waits_for_the_call(self) -> None:
        """Stopping waits for what the cancelled call still does; a failure in that is logged."""
        cleanup: Deferred[None] = Deferred()

        async def call() -> None:
            try:
                await Deferred()
            finally:
                await cleanup

        self.service = PeriodicService(self.clock, call, lambda: 1, what="the beat")
        self.service.startService()
        stopping = self.service.stopService()
        self.assertNoResult(stopping)
        cleanup.errback(Boom())
        self.successResultOf(stopping)
        self.assertEqual(len(self.flushLoggedErrors(Boom)), 1)

    def test_never_started(self) -> None:
        """Stopping what was never started does nothing."""
        self.successResultOf(self.service.stopService())

    def test_by_the_call_itself(self) -> None:
        """A call may stop the service and even wait for that; it goes on to its end, and none follows."""
        ended: list[bool] = []

        async def call() -> None:
            await self.service.stopService()
            await sleep(self.clock, 1)
            ended.append(True)

        self.service = PeriodicService(self.clock, call, lambda: 1, what="the beat")
        self.service.startService()
        self.clock.advance(1)
        self.assertEqual(ended, [True])

    def test_restart(self) -> None:
        """Started again after a stop, the service calls at once and then in its pace."""
        self.service.startService()
        self.finish()
        self.clock.advance(3)
        self.successResultOf(self.service.stopService())
        self.service.startService()
        self.assertEqual(self.began, [0, 3])
        self.finish()
        self.clock.advance(10)
        self.assertEqual(self.began, [0, 3, 13])

    def test_restart_before_the_call_has_ended(self) -> None:
        """Started again while the cancelled call is still ending, it waits for that: one loop, not two."""
        cleanup: Deferred[None] = Deferred()
        running: list[int] = []

        async def call() -> None:
            running.append(1)
            try:
                await Deferred()
            finally:
                if len(running) == 1:
                    await cleanup

        self.service = PeriodicService(self.clock, call, lambda: 10, what="the beat")
        self.service.startService()
        stopping = self.service.stopService()
        self.service.startService()
        self.assertEqual(len(running), 1)
        cleanup.callback(None)
        self.clock.advance(0)
        self.assertEqual(len(running), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(stopping)
        self.successResultOf(self.service.stopService())


class PeriodicWakeTests(PeriodicTestCase):
    """Bringing the next call forward."""

    def test_between_calls(self) -> None:
        """Between two calls the next is made at once, and the pace counts from there."""
        self.service.startService()
        self.finish()
        self.clock.advance(2)
        self.service.wake()
        self.assertEqual(self.began, [0, 2])
        self.finish()
        self.clock.advance(10)
        self.assertEqual(self.began, [0, 2, 12])

    def test_during_a_call(self) -> None:
        """During a call, however often, one more is made right after it."""
        self.service.startService()
        self.service.wake()
        self.service.wake()
        self.assertEqual(self.began, [0])
        self.clock.advance(3)
        self.finish()
        self.clock.advance(0)
        self.assertEqual(self.began, [0, 3])
        self.finish()
        self.clock.advance(9)
        self.assertEqual(self.began, [0, 3])

    def test_by_the_call_itself(self) -> None:
        """A call may ask for another after itself."""

        async def call() -> None:
            self.began.append(self.clock.seconds())
            if len(self.began) < 3:
                self.service.wake()

        self.service = PeriodicService(self.clock, call, lambda: 10, what="the beat")
        self.service.startService()
        self.clock.pump([0, 0, 0, 0])
        self.assertEqual(self.began, [0, 0, 0])

    def test_after_a_failure(self) -> None:
        """A call that fails is followed at once where that was asked for."""
        self.service.startService()
        self.service.wake()
        self.calls[-1].errback(Boom())
        self.clock.advance(0)
        self.assertEqual(self.began, [0, 0])
        self.flushLoggedErrors(Boom)

    def test_while_stopped(self) -> None:
        """Before the start and after the stop nothing is called, and nothing is remembered."""
        self.service.wake()
        self.assertEqual(self.began, [])
        self.service.startService()
        self.service.wake()
        self.successResultOf(self.service.stopService())
        self.service.wake()
        self.assertEqual(self.began, [0])
        self.service.startService()
        self.finish()
        self.clock.advance(0)
        self.assertEqual(self.began, [0, 0])


class PeriodicMachine(RuleBasedStateMachine):
    """
    Anything that can be done to a L{PeriodicService}, in any order.

    Cancelled calls end at once or go on for a while, as this machine draws; C{under_way} counts the calls
    that have begun and not ended.
    """

    from_start = False

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.under_way = 0
        self.begun = 0
        self.stopped_at: int | None = 0
        self.calls: list[Deferred[None]] = []
        self.cleanups: list[Deferred[None]] = []
        self.slow_to_end = False
        self.stopping: list[Deferred[None]] = []
        self.service = PeriodicService(
            self.clock, self.call, lambda: 10, what="the beat", from_start=self.from_start
        )

    async def call(self) -> None:
        self.under_way += 1
        self.begun += 1
        waiting: Deferred[None] = Deferred()
        self.calls.append(waiting)
        try:
            await waiting
        except CancelledError:
            if self.slow_to_end:
                cleanup: Deferred[None] = Deferred()
                self.cleanups.append(cleanup)
                await cleanup
            raise
        finally:
            if waiting in self.calls:
                self.calls.remove(waiting)
            self.under_way -= 1

    @precondition(lambda self: not self.service.running)
    @rule()
    def start(self) -> None:
        self.service.startService()
        self.stopped_at = None

    @precondition(lambda self: self.service.running)
    @rule(slow_to_end=st.booleans())
    def stop(self, slow_to_end: bool) -> None:
        self.slow_to_end = slow_to_end
        self.stopping.append(self.service.stopService())
        self.stopped_at = self.begun

    @rule()
    def wake(self) -> None:
        self.service.wake()

    @precondition(lambda self: self.calls)
    @rule(how=st.sampled_from(["succeed", "fail", "cancel"]))
    def end_call(self, how: str) -> None:
        self.slow_to_end = False
        waiting = self.calls.pop()
        if how == "succeed":
            waiting.callback(None)
        elif how == "fail":
            waiting.errback(Boom())
        else:
            waiting.cancel()

    @precondition(lambda self: self.cleanups)
    @rule(fails=st.booleans())
    def end_cleanup(self, fails: bool) -> None:
        cleanup = self.cleanups.pop()
        if fails:
            cleanup.errback(Boom())
        else:
            cleanup.callback(None)

    @rule(seconds=st.sampled_from([0.0, 0.5, 9.5, 10.0, 35.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def one_call_at_a_time(self) -> None:
        assert self.under_way <= 1

    @invariant()
    def one_timer_at_most(self) -> None:
        assert len(self.clock.getDelayedCalls()) <= 1

    @invariant()
    def nothing_after_stop(self) -> None:
        if self.stopped_at is not None:
            assert self.clock.getDelayedCalls() == []
            assert self.begun == self.stopped_at

    @invariant()
    def stop_waits_for_the_call(self) -> None:
        if self.under_way and self.stopping and self.stopped_at is not None:
            assert not self.stopping[-1].called
        if not self.under_way:
            assert all(stopping.called for stopping in self.stopping)

    @invariant()
    def the_loop_lives(self) -> None:
        if self.service.running:
            assert self.under_way + len(self.clock.getDelayedCalls()) == 1

    def teardown(self) -> None:
        if self.service.running:
            self.stop(slow_to_end=False)
        while self.cleanups:
            self.end_cleanup(fails=False)
        assert self.under_way == 0
        assert self.clock.getDelayedCalls() == []
        assert all(stopping.called for stopping in self.stopping)


class PeriodicMachineFromStart(PeriodicMachine):
    """The same where the interval counts from the start of the call."""

    from_start = True


class PeriodicPropertyTests(SynchronousTestCase):
    """Whatever happens in whatever order."""

    def run_machine(self, machine: type[PeriodicMachine]) -> None:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=60,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
        self.flushLoggedErrors(Boom, CancelledError)

    def test_from_end(self) -> None:
        """At most one call at a time, one timer, a loop that lives, and nothing after the stop."""
        self.run_machine(PeriodicMachine)

    def test_from_start(self) -> None:
        """The same with the interval from the start."""
        self.run_machine(PeriodicMachineFromStart)
