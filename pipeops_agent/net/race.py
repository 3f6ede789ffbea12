"""
Several addresses of one host, of which some may be dead: connection attempts that overtake each other.

"Happy Eyeballs", RFC 8305. Its part about asking for AAAA and A records side by side is the system's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from typing import Final, Generic, TypeVar

from twisted.internet.address import IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from pipeops_agent.net.resolver import Address

ATTEMPT_DELAY: Final = 0.25
"""Seconds until the next address is tried beside the one under way (RFC 8305 section 5)."""

T = TypeVar("T")


def interleave(addresses: Iterable[Address]) -> list[Address]:
    """
    C{addresses} with the families taking turns, each in its own order, the first one first (section 4).

    So that many dead addresses of one family cost one delay and not one each.
    """
    first: list[Address] = []
    second: list[Address] = []
    for address in addresses:
        same = not first or isinstance(address, IPv6Address) == isinstance(first[0], IPv6Address)
        (first if same else second).append(address)
    return [each for each in chain(*zip_longest(first, second)) if each is not None]


def race(clock: IReactorTime, attempts: Iterable[Callable[[], Deferred[T]]], delay: float) -> Deferred[T]:
    """
    Start the next attempt C{delay} seconds after the last one, or as soon as it has failed.

    Fires with the first success, the others then being cancelled; fails with the failure that came last, when
    all have failed. Cancelling it cancels all. There must be an attempt.
    """
    return _Race(clock, list(attempts), delay).winner


class _Race(Generic[T]):
    """One race: the attempts not yet started, those under way, the timer between two of them."""

    def __init__(self, clock: IReactorTime, attempts: list[Callable[[], Deferred[T]]], delay: float) -> None:
        self._clock = clock
        self._waiting = attempts[::-1]
        self._delay = delay
        self._running: list[Deferred[T]] = []
        self._timer: IDelayedCall | None = None
        self._over = False
        self.winner: Deferred[T] = Deferred(lambda _: self._end())
        self._start_next()

    def _start_next(self) -> None:
        self._timer = None
        attempt = self._waiting.pop()()
        if self._waiting:
            self._timer = self._clock.callLater(self._delay, self._start_next)
        self._running.append(attempt)
        attempt.addCallbacks(self._won, self._failed, callbackArgs=(attempt,), errbackArgs=(attempt,))

    def _won(self, result: T, attempt: Deferred[T]) -> None:
        self._running.remove(attempt)
        if not self._over:
            self._end()
            self.winner.callback(result)

    def _failed(self, failure: Failure, attempt: Deferred[T]) -> None:
        newest = attempt is self._running[-1]
        self._running.remove(attempt)
        if self._over:
            return
        if self._waiting:
            if newest and self._timer is not None:
                self._timer.cancel()
                self._start_next()
        elif not self._running:
            self._over = True
            self.winner.errback(failure)

    def _end(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for attempt in self._running[:]:
            attempt.cancel()
