"""Tests for L{pipeops_agent.scheduling}, all but L{PeriodicService}, which is in C{test_periodic.py}."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.scheduling import (
    BoundedQueue,
    DeadlineExceeded,
    Tasks,
    as_deferred,
    bounded,
    sleep,
    together,
)


class Boom(Exception):
    """What goes wrong in these tests."""


class ClockTestCase(SynchronousTestCase):
    """Has a clock, on which no test may leave anything behind."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))


class AsDeferredTests(SynchronousTestCase):
    """From awaitables to Deferreds."""

    def test_deferred(self) -> None:
        """A Deferred is passed as it is."""
        deferred: Deferred[int] = Deferred()
        self.assertIs(as_deferred(deferred), deferred)

    def test_coroutine(self) -> None:
        """A coroutine is started, up to its first wait."""
        steps: list[int] = []
        waiting: Deferred[int] = Deferred()

        async def flow() -> int:
            steps.append(1)
            return await waiting

        deferred = as_deferred(flow())
        self.assertEqual(steps, [1])
        waiting.callback(7)
        self.assertEqual(self.successResultOf(deferred), 7)

    def test_anything_else(self) -> None:
        """Anything else is an error at once, that names its type."""
        with self.assertRaises(TypeError) as caught:
            as_deferred(7)  # type: ignore[arg-type]  # what is tested
        self.assertIn("int", str(caught.exception))


class BoundedTests(ClockTestCase):
    """Waiting no longer than so long."""

    def test_in_time(self) -> None:
        """A result that comes in time is the result; the timer is gone."""
        inner: Deferred[int] = Deferred()
        outer = bounded(self.clock, 5, inner, "it")
        self.clock.advance(4.9)
        self.assertNoResult(outer)
        inner.callback(7)
        self.assertEqual(self.successResultOf(outer), 7)

    def test_at_once(self) -> None:
        """A result that is there already is the result, and leaves no timer."""
        self.assertEqual(self.successResultOf(bounded(self.clock, 5, succeed(7), "it")), 7)

    def test_failure_in_time(self) -> None:
        """A failure that comes in time is the result."""

        async def fail() -> None:
            raise Boom

        self.failureResultOf(bounded(self.clock, 5, fail(), "it"), Boom)

    def test_too_late(self) -> None:
        """When time is up, what was waited for is cancelled, and the error says what was waited for."""
        cancelled: list[bool] = []
        inner: Deferred[int] = Deferred(lambda _: cancelled.append(True))
        outer = bounded(self.clock, 2.5, inner, "the lookup")
        self.clock.advance(2.5)
        error = self.failureResultOf(outer, DeadlineExceeded).value
        self.assertEqual(str(error), "the lookup took longer than 2.5 s")
        self.assertEqual(cancelled, [True])

    def test_let_go_before_it_is_told(self) -> None:
        """Who hears of the deadline can rely on that what was waited for has been cancelled."""
        order: list[str] = []
        inner: Deferred[None] = Deferred(lambda _: order.append("cancelled"))
        bounded(self.clock, 1, inner, "it").addErrback(lambda _: order.append("told"))
        self.clock.advance(1)
        self.assertEqual(order, ["cancelled", "told"])

    def test_no_time_at_all(self) -> None:
        """No time, or less, is up on the next turn."""
        for seconds in (0.0, -1.0):
            outer = bounded(self.clock, seconds, Deferred[int](), "it")
            self.assertNoResult(outer)
            self.clock.advance(0)
            self.failureResultOf(outer, DeadlineExceeded)

    def test_ignores_cancelling(self) -> None:
        """What goes on though it was cancelled holds nobody up; its result is dropped, a failure too."""
        for late in (7, Boom()):
            going_on: Deferred[int] = Deferred()

            async def stubborn(going_on: Deferred[int] = going_on) -> int:
                try:
                    return await Deferred()
                except CancelledError:
                    return await going_on

            outer = bounded(self.clock, 1, stubborn(), "it")
            self.clock.advance(1)
            self.failureResultOf(outer, DeadlineExceeded)
            if isinstance(late, Boom):
                going_on.errback(late)
            else:
                going_on.callback(late)

    def test_canceller_fails(self) -> None:
        """The deadline is told even where cancelling itself goes wrong."""

        def fail(_: object) -> None:
            raise Boom

        outer = bounded(self.clock, 1, Deferred[int](fail), "it")
        with self.assertRaises(Boom):
            self.clock.advance(1)
        self.failureResultOf(outer, DeadlineExceeded)

    def test_cancelled(self) -> None:
        """Cancelling reaches what is waited for, and removes the timer."""
        cancelled: list[bool] = []
        inner: Deferred[int] = Deferred(lambda _: cancelled.append(True))
        outer = bounded(self.clock, 5, inner, "it")
        outer.cancel()
        self.failureResultOf(outer, CancelledError)
        self.assertEqual(cancelled, [True])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled_but_ignored(self) -> None:
        """Cancelling answers at once, though what is waited for goes on; what it ends with is dropped."""
        going_on: Deferred[int] = Deferred()

        async def stubborn() -> int:
            try:
                return await Deferred()
            except CancelledError:
                return await going_on

        outer = bounded(self.clock, 5, stubborn(), "it")
        outer.cancel()
        self.failureResultOf(outer, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        going_on.callback(7)

    def test_cancelled_with_an_answer(self) -> None:
        """What still has an answer when it is cancelled gives it."""
        outer = bounded(self.clock, 5, Deferred[int](lambda inner: inner.callback(7)), "it")
        outer.cancel()
        self.assertEqual(self.successResultOf(outer), 7)


class SleepTests(ClockTestCase):
    """Doing nothing."""

    def test_sleep(self) -> None:
        """It takes as long as it should."""
        waking = sleep(self.clock, 2)
        self.clock.advance(1.9)
        self.assertNoResult(waking)
        self.clock.advance(0.1)
        self.assertIsNone(self.successResultOf(waking))

    def test_cancelled(self) -> None:
        """Cancelled, it leaves no timer."""
        waking = sleep(self.clock, 2)
        waking.cancel()
        self.failureResultOf(waking, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_time(self) -> None:
        """A time that has passed already is over on the next turn."""
        waking = sleep(self.clock, -3)
        self.clock.advance(0)
        self.successResultOf(waking)


class TogetherTests(SynchronousTestCase):
    """Several at one time, and no more."""

    def setUp(self) -> None:
        self.begun: list[int] = []
        self.waiting: dict[int, Deferred[None]] = {}

    def jobs(self, count: int) -> Iterator[Callable[[], Awaitable[None]]]:
        for number in range(count):
            yield partial(self.job, number)

    async def job(self, number: int) -> None:
        self.begun.append(number)
        self.waiting[number] = Deferred()
        await self.waiting[number]

    def test_limit(self) -> None:
        """The next begins when one has ended; all is over with the last."""
        result = Deferred.fromCoroutine(together(self.jobs(3), limit=2))
        self.assertEqual(self.begun, [0, 1])
        self.waiting[1].callback(None)
        self.assertEqual(self.begun, [0, 1, 2])
        self.waiting[2].callback(None)
        self.assertNoResult(result)
        self.waiting[0].callback(None)
        self.successResultOf(result)

    def test_nothing(self) -> None:
        """No jobs are done at once."""
        self.successResultOf(Deferred.fromCoroutine(together((), limit=2)))

    def test_failure(self) -> None:
        """The first failure is that of all; what is under way is cancelled, and nothing more begins."""
        result = Deferred.fromCoroutine(together(self.jobs(5), limit=2))
        self.waiting[0].errback(Boom())
        self.failureResultOf(result, Boom)
        self.assertTrue(self.waiting[1].called)
        self.assertEqual(self.begun, [0, 1])

    def test_cancelled(self) -> None:
        """So it is when nobody wants it any more."""
        result = Deferred.fromCoroutine(together(self.jobs(5), limit=2))
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertTrue(self.waiting[0].called and self.waiting[1].called)
        self.assertEqual(self.begun, [0, 1])


class TasksTests(SynchronousTestCase):
    """Coroutines in the background."""

    def setUp(self) -> None:
        self.tasks = Tasks()

    async def wait(self, waiting: Deferred[Any]) -> None:
        await waiting

    def test_runs(self) -> None:
        """A task runs at once, is kept while it waits, and is forgotten when it has ended."""
        waiting: Deferred[None] = Deferred()
        self.tasks.spawn(self.wait(waiting), "it")
        self.assertEqual(len(self.tasks), 1)
        gc.collect()
        waiting.callback(None)
        self.assertEqual(len(self.tasks), 0)

    def test_ends_at_once(self) -> None:
        """A task that never waits is not kept."""
        self.tasks.spawn(self.wait(succeed(None)), "it")
        self.assertEqual(len(self.tasks), 0)

    def test_deferred(self) -> None:
        """A Deferred may be a task too, and is cancelled like one."""
        waiting: Deferred[None] = Deferred()
        self.tasks.spawn(waiting, "it")
        self.successResultOf(self.tasks.stop())
        self.assertEqual(len(self.tasks), 0)

    def test_failure(self) -> None:
        """A failure is logged under the task's name and disturbs nobody."""
        waiting: Deferred[None] = Deferred()
        other: Deferred[None] = Deferred()
        self.tasks.spawn(self.wait(waiting), "the lookup")
        self.tasks.spawn(self.wait(other), "other")
        with capturedLogs() as records:
            waiting.errback(Boom())
        self.assertEqual(
            [(record["log_level"], record["what"]) for record in records], [(LogLevel.critical, "the lookup")]
        )
        self.assertEqual(len(self.flushLoggedErrors(Boom)), 1)
        self.assertEqual(len(self.tasks), 1)
        self.successResultOf(self.tasks.stop())

    def test_not_awaitable(self) -> None:
        """What can't be awaited is a failure like any other, and leaves nothing behind."""
        self.tasks.spawn(7, "it")  # type: ignore[arg-type]  # what is tested
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertEqual(len(self.tasks), 0)

    def test_stop_nothing(self) -> None:
        """Without tasks there is nothing to wait for."""
        self.successResultOf(self.tasks.stop())

    def test_stop(self) -> None:
        """Stopping cancels every task in the order of their start, and is no error."""
        cancelled: list[int] = []

        async def wait(number: int) -> None:
            await Deferred(lambda _: cancelled.append(number))

        for number in range(3):
            self.tasks.spawn(wait(number), "it")
        self.successResultOf(self.tasks.stop())
        self.assertEqual(cancelled, [0, 1, 2])
        self.assertEqual(len(self.tasks), 0)

    def test_stop_waits_for_cleanup(self) -> None:
        """Stopping waits for what tasks still do; stopped once more meanwhile, that is not cut short."""
        cleanup: Deferred[None] = Deferred()
        cleaned: list[bool] = []

        async def careful() -> None:
            try:
                await Deferred()
            finally:
                await cleanup
                cleaned.append(True)

        self.tasks.spawn(careful(), "it")
        first, second = self.tasks.stop(), self.tasks.stop()
        self.assertNoResult(first)
        cleanup.callback(None)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(cleaned, [True])

    def test_failing_cleanup(self) -> None:
        """A task that fails while it is stopped is logged, and holds nothing up."""

        async def careless() -> None:
            try:
                await Deferred()
            finally:
                raise Boom

        self.tasks.spawn(careless(), "it")
        self.tasks.spawn(self.wait(Deferred()), "other")
        self.successResultOf(self.tasks.stop())
        self.assertEqual(len(self.flushLoggedErrors(Boom)), 1)

    def test_spawned_meanwhile(self) -> None:
        """A task that is spawned by the cleanup of another is stopped too."""

        async def fertile() -> None:
            try:
                await Deferred()
            finally:
                self.tasks.spawn(self.wait(Deferred()), "child")

        self.tasks.spawn(fertile(), "it")
        self.successResultOf(self.tasks.stop())
        self.assertEqual(len(self.tasks), 0)

    def test_stopped_by_a_task(self) -> None:
        """A task may stop all, at its start or later: it is not waited for, the others are."""
        for early in (True, False):
            tasks = Tasks()
            steps: list[str] = []
            go_on: Deferred[None] = Deferred()

            async def wait(steps: list[str]) -> None:
                await Deferred(lambda _: steps.append("cancelled"))

            async def stop_all(tasks: Tasks, steps: list[str], go_on: Deferred[None]) -> None:
                await go_on
                await tasks.stop()
                steps.append("stopped")

            if early:
                go_on.callback(None)
            tasks.spawn(wait(steps), "other")
            tasks.spawn(stop_all(tasks, steps, go_on), "it")
            if not early:
                go_on.callback(None)
            self.assertEqual(steps, ["cancelled", "stopped"])
            self.assertEqual(len(tasks), 0)

    def test_given_up_stop(self) -> None:
        """Who tires of waiting for the stop may cancel it; the tasks go on ending."""
        cleanup: Deferred[None] = Deferred()

        async def careful() -> None:
            try:
                await Deferred()
            finally:
                await cleanup

        self.tasks.spawn(careful(), "it")
        stopping = self.tasks.stop()
        clock = Clock()
        waiting = bounded(clock, 1, stopping, "stopping")
        clock.advance(1)
        self.failureResultOf(waiting, DeadlineExceeded)
        cleanup.callback(None)
        self.assertEqual(len(self.tasks), 0)

    def test_cancelled_from_inside(self) -> None:
        """A task whose own wait was cancelled by somebody else ends without ado, but not without a trace."""
        waiting: Deferred[None] = Deferred()
        self.tasks.spawn(self.wait(waiting), "it")
        with capturedLogs() as records:
            waiting.cancel()
        self.assertEqual(
            [(record["log_level"], record["what"]) for record in records], [(LogLevel.debug, "it")]
        )


class BoundedQueueTests(SynchronousTestCase):
    """A queue that can't grow."""

    def test_order(self) -> None:
        """First in, first out; taking everything leaves nothing."""
        queue: BoundedQueue[int] = BoundedQueue(3)
        queue.put(1)
        queue.put(2)
        self.assertEqual(len(queue), 2)
        self.assertEqual(queue.drain(), ([1, 2], 0))
        self.assertEqual(queue.drain(), ([], 0))

    def test_full(self) -> None:
        """Where it is full the oldest gives way, and is counted until it was told."""
        queue: BoundedQueue[int] = BoundedQueue(2)
        for item in range(5):
            queue.put(item)
        self.assertEqual((len(queue), queue.dropped), (2, 3))
        self.assertEqual(queue.drain(), ([3, 4], 3))
        queue.put(5)
        self.assertEqual(queue.drain(), ([5], 0))

    def test_no_room(self) -> None:
        """A queue without room for one is a mistake, said at once."""
        with self.assertRaises(ValueError):
            BoundedQueue(0)
