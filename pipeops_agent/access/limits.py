"""How often something may be asked, and how much may be under way: for each client, and for all together."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal

from twisted.internet.interfaces import IReactorTime

from pipeops_agent.access.origins import Origin
from pipeops_agent.settings.model_server import ClientLimits, LimitsSettings, TunnelLimits

Kind = Literal["connections", "subscriptions", "commands", "log_streams"]
"""What is held for a time: as the settings below C{server.limits} are called."""

MAX_CLIENTS: Final = 4_096
"""Clients whose requests are counted; the one that was quiet for longest gives way, its count with it."""

BURST: Final = 2.0
"""Seconds' worth of requests that may come at once."""

RETRY: Final = 1.0
"""Seconds after which it is worth asking again for a place: nobody knows when one is given back."""

_ROUNDING: Final = 1e-6

_WORDS: Final[dict[Kind, str]] = {
    "connections": "connections",
    "subscriptions": "event streams and WebSockets",
    "commands": "commands",
    "log_streams": "log streams",
}


class TooMany(Exception):
    """
    A client asks for more than it may have.

    @ivar retry_after: the seconds after which it may be given.
    """

    def __init__(self, sentence: str, retry_after: float) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.retry_after = retry_after


class Busy(TooMany):
    """All clients together ask for more than there is."""


class Place:
    """
    What a client holds: a context manager, or given back by L{release}, once or more often.
    """

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back

    def release(self) -> None:
        """It is free again."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()


class Limits:
    """
    Counts what clients take.

    @param settings: those that hold now; asked each time.
    """

    def __init__(self, clock: IReactorTime, settings: Callable[[], LimitsSettings]) -> None:
        self._clock = clock
        self._settings = settings
        # When what was sent up to now would have been sent at the pace of the setting: by client, and in all.
        self._buckets: OrderedDict[str, float] = OrderedDict()
        self._total = 0.0
        self._held: Counter[tuple[Kind, str]] = Counter()
        self._held_in_all: Counter[Kind] = Counter()

    def request(self, origin: Origin) -> None:
        """
        Count a request.

        @raise TooMany: this client has sent too many.
        @raise Busy: all together have.
        """
        now = self._clock.seconds()
        before = max(now, self._buckets.pop(origin.client, now))
        self._buckets[origin.client] = before
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        mine = before + 1 / self._of(origin).requests
        if mine > now + BURST + _ROUNDING:
            raise TooMany("too many requests in a short time", mine - now - BURST)
        total = max(now, self._total) + 1 / self._settings().total.requests
        if total > now + BURST + _ROUNDING:
            raise Busy("the agent is asked too much at the moment", total - now - BURST)
        self._buckets[origin.client] = mine
        self._total = total

    def hold(self, kind: Kind, origin: Origin) -> Place:
        """
        Take a place; it is kept until it is released.

        @raise TooMany: this client has as many as it may have.
        @raise Busy: there is none left for anybody.
        """
        key = (kind, origin.client)
        if self._held[key] >= getattr(self._of(origin), kind):
            most = self._held[key]
            raise TooMany(f"no more than {most} {_WORDS[kind]} of one client at one time", RETRY)
        most_in_all = getattr(self._settings().total, kind, None)  # else whoever has them counts them all
        if most_in_all is not None and self._held_in_all[kind] >= most_in_all:
            raise Busy(f"no more than {most_in_all} {_WORDS[kind]} at one time", RETRY)
        self._held[key] += 1
        self._held_in_all[kind] += 1
        return Place(lambda: self._release(key))

    def held(self, kind: Kind) -> int:
        """How many places of this kind are taken."""
        return self._held_in_all[kind]

    def _release(self, key: tuple[Kind, str]) -> None:
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        self._held_in_all[key[0]] -= 1

    def _of(self, origin: Origin) -> ClientLimits | TunnelLimits:
        limits = self._settings()
        return limits.tunnel if origin.tunnel else limits.client
