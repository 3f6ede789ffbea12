"""Wrong tokens: each is answered later than the one before, for its client alone."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.access.limits import TooMany
from pipeops_agent.scheduling import sleep

FIRST: Final = 0.25
"""Seconds that the first wrong token costs; each further one costs twice as much."""

MOST: Final = 8.0
"""Seconds that one costs at most."""

FORGET: Final = 600.0
"""Seconds without a wrong token after which the count begins anew."""

WAITING: Final = 4
"""Wrong tokens of one client that wait for an answer at one time; others are told at once to come later."""

WAITING_IN_ALL: Final = 100
"""The same for all clients: each holds a connection."""

MAX_CLIENTS: Final = 2_000
"""Clients that are counted; the one that was quiet for longest gives way."""


class _Count(msgspec.Struct):
    wrong: int = 0
    waiting: int = 0
    last: float = 0.0


class Guesses:
    """Counts wrong tokens by client."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._counts)

    async def wrong(self, client: str) -> None:
        """
        C{client} has shown a wrong token: wait as long as that costs.

        @raise TooMany: too many wait already.
        """
        count = self._count(client)
        delay = min(MOST, FIRST * 2 ** min(count.wrong, 16))
        count.wrong += 1
        count.last = self._clock.seconds()
        if count.waiting >= WAITING or self._waiting >= WAITING_IN_ALL:
            raise TooMany("too many wrong tokens came from this address", delay)
        count.waiting += 1
        self._waiting += 1
        try:
            await sleep(self._clock, delay)
        finally:
            count.waiting -= 1
            self._waiting -= 1

    def _count(self, client: str) -> _Count:
        count = self._counts.pop(client, None)
        if count is None or (not count.waiting and count.last + FORGET <= self._clock.seconds()):
            count = _Count()
        self._counts[client] = count
        if len(self._counts) > MAX_CLIENTS:
            self._counts.popitem(last=False)
        return count
