"""Time-driven helpers: the only place that schedules, so that nothing is left behind at stop."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from inspect import CORO_RUNNING, getcoroutinestate
from typing import Generic, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, FirstError, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

_log = Logger(namespace="scheduling")

T = TypeVar("T")


class DeadlineExceeded(Exception):
    """What was waited for did not come in time."""


def as_deferred(awaitable: Awaitable[T]) -> Deferred[T]:
    """C{awaitable} as a Deferred: a Deferred as it is, a coroutine started."""
    if isinstance(awaitable, Deferred):
        return awaitable
    if isinstance(awaitable, Coroutine):
        return Deferred.fromCoroutine(awaitable)
    raise TypeError(f"expected a coroutine or a Deferred, got {type(awaitable).__name__}")


def bounded(clock: IReactorTime, seconds: float, awaitable: Awaitable[T], what: str) -> Deferred[T]:
    """
    Wait for C{awaitable} at most C{seconds}.

    Unlike L{Deferred.addTimeout} the result always fires in time, and at once when it is cancelled,
    even where what is cancelled ignores it; what comes later is dropped, a failure too. Nothing
    is left on the clock once the result has fired.

    @param what: a noun for the message: "<what> took longer than 5 s".
    @raise DeadlineExceeded: through the result, when time is up.
    """
    inner = as_deferred(awaitable)
    return _Bounded(clock, seconds, inner, what).outer


class _Bounded(Generic[T]):
    """One L{bounded} wait: what is waited for, the timer, and the result that one of them fires."""

    def __init__(self, clock: IReactorTime, seconds: float, inner: Deferred[T], what: str) -> None:
        self._inner = inner
        self._message = f"{what} took longer than {seconds:g} s"
        self._answered = False
        self.outer: Deferred[T] = Deferred(self._cancelled)
        self._timer = clock.callLater(max(0.0, seconds), self._expire)
        inner.addBoth(self._settle)

    def _answer(self) -> bool:
        """Whether nobody has answered yet; from now on somebody has."""
        first, self._answered = not self._answered, True
        if self._timer.active():
            self._timer.cancel()
        return first

    def _settle(self, result: T | Failure) -> None:
        if not self._answer():
            return  # too late: what comes now is dropped
        if isinstance(result, Failure):
            self.outer.errback(result)
        else:
            self.outer.callback(result)

    def _expire(self) -> None:
        self._answer()
        try:
            # First, so that what was waited for has let go by the time that somebody hears of it.
            self._inner.cancel()
        finally:
            self.outer.errback(DeadlineExceeded(self._message))

    def _cancelled(self, _: Deferred[T]) -> None:
        """
        Pass the cancellation on. What it makes of that (its own error, or a result all the same) is the
        answer where it comes at once; else C{outer} fires with C{CancelledError}, and this is over.
        """
        self._inner.cancel()
        self._answer()


def sleep(clock: IReactorTime, seconds: float) -> Deferred[None]:
    """Fire after C{seconds}; cancelling stops the timer."""
    waiting: Deferred[None] = Deferred(lambda _: call.cancel())
    call = clock.callLater(max(0.0, seconds), waiting.callback, None)
    return waiting


async def together(jobs: Iterable[Callable[[], Awaitable[None]]], *, limit: int) -> None:
    """
    Do all C{jobs}, C{limit} of them at one time.

    The first that fails is the failure of all: what is under way is cancelled, and the rest never begins.
    """
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            await job()

    workers = [Deferred.fromCoroutine(work()) for _ in range(limit)]
    try:
        await DeferredList(workers, fireOnOneErrback=True, consumeErrors=True)
    except FirstError as first:
        first.subFailure.raiseException()
    finally:
        for worker in workers:
            worker.cancel()


class _Task:
    """One coroutine in the background: its name, its end, and who waits for that."""

    def __init__(self, awaitable: Awaitable[None], what: str) -> None:
        self.what = what
        self._coroutine = self._run(awaitable)
        self._deferred: Deferred[None] | None = None
        self._cancelled = False
        self._waiters: list[Deferred[None]] = []

    async def _run(self, awaitable: Awaitable[None]) -> None:
        await awaitable

    def start(self, ended: Callable[[_Task, Failure | None], None]) -> None:
        """Run until it first waits; C{ended} hears of its end, which may be at once."""

        def finish(result: object) -> None:
            ended(self, result if isinstance(result, Failure) else None)
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.callback(None)

        self._deferred = Deferred.fromCoroutine(self._coroutine)
        self._deferred.addBoth(finish)

    @property
    def executing(self) -> bool:
        """Whether its code is on the stack: it can be neither cancelled, nor waited for by what it calls."""
        return getcoroutinestate(self._coroutine) == CORO_RUNNING

    def end(self) -> Deferred[None]:
        """Cancel it, once only, so that its cleanup is not cut short; fires when it has ended."""
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        if not self._cancelled and self._deferred is not None:
            self._cancelled = True
            self._deferred.cancel()
        return waiter


class Tasks:
    """
    Coroutines that run in the background and belong to somebody.

    Each is kept, its failure is logged, and L{stop} cancels all and waits until they have ended.
    """

    def __init__(self) -> None:
        # A dictionary for its order: tasks are cancelled in the order in which they were spawned.
        self._running: dict[_Task, None] = {}

    def spawn(self, coroutine: Awaitable[None], what: str) -> None:
        """Run C{coroutine} now; C{what} names it in the record if it fails."""
        task = _Task(coroutine, what)
        self._running[task] = None
        task.start(self._ended)

    def _ended(self, task: _Task, failure: Failure | None) -> None:
        del self._running[task]
        if failure is None:
            return
        if failure.check(CancelledError):
            _log.debug("{what} was cancelled", what=task.what)
        else:
            _log.failure("{what} failed", failure=failure, what=task.what)

    def __len__(self) -> int:
        return len(self._running)

    def stop(self) -> Deferred[None]:
        """
        Cancel every task; fires when all have ended, those too that were spawned meanwhile.

        A task may call this itself: it is neither cancelled nor waited for (that would wait for ever),
        and is expected to return.
        """
        others = [task for task in self._running if not task.executing]
        if not others:
            return succeed(None)
        # The waiters are fresh Deferreds, so whoever tires of this one may cancel it: the tasks don't notice.
        ending = DeferredList([task.end() for task in others], consumeErrors=True)
        return ending.addCallback(lambda _: self.stop())


class PeriodicService(Service):
    """
    Call something again and again while running: once at start, then after each interval.

    Calls never overlap and never queue. A failure is logged and the loop goes on, also where the
    failure is a C{CancelledError} that did not come from here. Stopping cancels the timer and the call
    under way, and waits for it; started again before that call has ended, the service waits for its
    end and then begins. L{wake} brings the next call forward.

    @param interval: the seconds until the next call, asked after each call.
    @param from_start: count the interval from the start of the call, not from its end, so that a
        slow call does not slow the pace; a call longer than the interval is followed at once.
    """

    def __init__(
        self,
        clock: IReactorTime,
        call: Callable[[], Awaitable[None]],
        interval: Callable[[], float],
        *,
        what: str,
        from_start: bool = False,
    ) -> None:
        self._clock = clock
        self._call = call
        self._interval = interval
        self._what = what
        self._from_start = from_start
        self._timer: IDelayedCall | None = None
        self._tasks = Tasks()
        self._again = False
        self._stops = 0

    def startService(self) -> None:
        if self.running:
            return
        super().startService()
        self.wake()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._stops += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self._tasks.stop()

    def wake(self) -> None:
        """Call as soon as possible: now, or right after the call under way. Nothing happens while stopped."""
        if not self.running:
            return
        if self._tasks:
            self._again = True
            return
        if self._timer is not None:
            self._timer.cancel()
        self._begin()

    def _begin(self) -> None:
        self._timer = None
        self._tasks.spawn(self._once(), self._what)

    async def _once(self) -> None:
        began = self._clock.seconds()
        stops = self._stops
        self._again = False
        try:
            await self._call()
        except CancelledError:
            # That of a stop ends here. Any other is a failure: something inside gave up.
            if stops == self._stops:
                _log.failure("{what} failed", what=self._what)
        except Exception:
            _log.failure("{what} failed", what=self._what)
        if self.running:
            self._timer = self._clock.callLater(self._delay(began), self._begin)

    def _delay(self, began: float) -> float:
        """The seconds from now until the next call, the last of which began at C{began}."""
        if self._again:
            return 0.0
        delay = self._interval()
        if self._from_start:
            delay -= self._clock.seconds() - began
        return max(0.0, delay)


class BoundedQueue(Generic[T]):
    """
    First in, first out, at most C{limit} items; the oldest gives way, and that is counted.

    @ivar dropped: how many items gave way since the last L{drain}.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a queue must hold at least one item, not {limit}")
        self._items: deque[T] = deque()
        self._limit = limit
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Add C{item}; where the queue is full the oldest is dropped and counted."""
        if len(self._items) >= self._limit:
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)

    def drain(self) -> tuple[list[T], int]:
        """Take everything: the items, oldest first, and how many were dropped before them."""
        items, dropped = list(self._items), self.dropped
        self._items.clear()
        self.dropped = 0
        return items, dropped
