"""
The sockets that the agent's own tunnel has dialled: what comes from one of them to the agent's own interface
comes from the far side of the tunnel, although its address is this machine's.

The tunnel tells, the interface asks.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from twisted.internet.interfaces import IReactorTime

Place = tuple[str, int]
"""A socket's own address and port."""

GRACE: Final = 5.0
"""
Seconds for which a socket that is closed is still known: what it sent before may not have been read. The
kernel gives its port to no other in the first of them; if it did later, a local process would be taken for
somebody behind the tunnel, never the other way round.
"""

MAX_CLOSED: Final = 10_000
"""Closed sockets that are still known; the first of them is let go early."""


class OwnSockets:
    """Which forward each socket of the tunnel's belongs to."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._forwards: dict[Place, str] = {}
        self._closed: deque[tuple[float, Place]] = deque()
        self._reopened: dict[Place, int] = {}

    def __len__(self) -> int:
        """How many are known, with those that were closed just now."""
        return len(self._forwards)

    def opened(self, place: Place, forward: str) -> None:
        """The tunnel has connected a socket for C{forward}; C{place} is this end of it."""
        self._forget()
        self._forwards[place] = forward
        self._reopened[place] = self._reopened.get(place, 0) + 1

    def closed(self, place: Place) -> None:
        """It is closed, or soon will be."""
        self._forget()
        self._closed.append((self._clock.seconds() + GRACE, place))

    def forward_of(self, place: Place) -> str | None:
        """The forward whose socket C{place} is; None: it is none of the tunnel's."""
        self._forget()
        return self._forwards.get(place)

    def _forget(self) -> None:
        """Let go of those that were closed long enough ago, unless their address is in use again."""
        now = self._clock.seconds()
        while self._closed and (self._closed[0][0] <= now or len(self._closed) > MAX_CLOSED):
            _, place = self._closed.popleft()
            left = self._reopened[place] - 1
            if left:
                self._reopened[place] = left
            else:
                del self._reopened[place], self._forwards[place]
