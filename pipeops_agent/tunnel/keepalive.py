"""Proof of life: pings with a deadline, on whatever can be pinged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

PATIENCE: Final = 4
"""How many deadlines a ping may take while other bytes keep coming: they prove the way, not the peer."""


LATE: Final = 1.0
"""Seconds by which a deadline may be noticed late before that says something: see L{Keepalive}."""


class Keepalive:
    """
    Sends a ping every C{interval} seconds, one at a time, and expects an answer within C{timeout}.

    While bytes keep coming the deadline moves with them, up to L{PATIENCE} times C{timeout}: on a
    slow link full of data an answer has to queue. A peer that only swallows is found dead in
    C{interval + timeout} seconds at most.

    A deadline that is noticed much too late was missed by this side: the wall clock was set (the reactor's
    time is the wall's), or the process did not run. An answer may be waiting unread, so there is a new one.

    @param send: sends one ping.
    @param heard: the clock's seconds when the last byte came.
    @param dead: told, once, in a sentence, that there was no answer.
    """

    def __init__(
        self,
        clock: IReactorTime,
        name: str,
        *,
        interval: float,
        timeout: float,
        send: Callable[[], None],
        heard: Callable[[], float],
        dead: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._name = name
        self._interval = interval
        self._timeout = timeout
        self._send = send
        self._heard = heard
        self._dead = dead
        self._call: IDelayedCall | None = None
        self._sent = 0.0
        self._due = 0.0
        self._pending = False
        self.rtt: float | None = None

    def start(self) -> None:
        """Send the first ping after one interval."""
        self._call = self._clock.callLater(self._interval, self._ping)

    def stop(self) -> None:
        """Send no more; forget the ping under way."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def answered(self) -> None:
        """The answer to the ping under way has come."""
        if not self._pending or self._call is None:
            return
        self._pending = False
        self.rtt = max(0.0, self._clock.seconds() - self._sent)
        self._call.reset(max(0.0, self._interval - self.rtt))

    def _ping(self) -> None:
        if self._pending:
            self._overdue()
            return
        self._pending = True
        self._sent = self._clock.seconds()
        self._expect(self._timeout)
        self._send()

    def _expect(self, seconds: float) -> None:
        """Look again after C{seconds}."""
        self._due = self._clock.seconds() + seconds
        self._call = self._clock.callLater(seconds, self._ping)

    def _overdue(self) -> None:
        now = self._clock.seconds()
        late = now - self._due
        if late > LATE:
            self._sent += late
            self._expect(self._timeout)
            return
        until = min(self._heard() + self._timeout, self._sent + PATIENCE * self._timeout)
        if until > now:
            self._expect(until - now)
            return
        self._call = None
        waited = now - self._sent
        self._dead(f"no answer to a {self._name} ping within {waited:.3g} s")
