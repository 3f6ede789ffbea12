"""A tunnel server in memory: every attempt is answered by the test, every session ended by it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock

from pipeops_agent.net.trace import Trace
from pipeops_agent.orders import Allocation, ServerAddress, TunnelOrder, TunnelServer
from pipeops_agent.tunnel.errors import RemotesRefused, SessionError
from pipeops_agent.tunnel.remotes import Remote
from pipeops_agent.tunnel.session_api import Session

FINGERPRINT = "A" * 43 + "="


class ScriptedSession:
    """
    A session that does what the test says.

    @ivar silent_since: when it answered its last ping; None: it answers.
    @ivar channels: the connections that go through it.
    @ivar slow: closing it ends when the test says L{finish}.
    @ivar delay: closing it takes so many seconds.
    """

    def __init__(self, clock: Clock, server: TunnelServer, remotes: tuple[Remote, ...]) -> None:
        self._clock = clock
        self.server = server
        self._remotes = remotes
        self._rtt: float | None = 0.02
        self.silent_since: float | None = None
        self._active = clock.seconds()
        self._ended: str | None = None
        self._waiters: list[Deferred[str]] = []
        self.close_reason: str | None = None
        self.channels = 0
        self.slow = False
        self.delay = 0.0

    @property
    def remotes(self) -> tuple[Remote, ...]:
        return self._remotes

    @property
    def rtt(self) -> float | None:
        return self._rtt

    @property
    def confirmed(self) -> float:
        return self._clock.seconds() if self.silent_since is None else self.silent_since

    @property
    def alive(self) -> bool:
        """Whether the server's ports are still bound by it."""
        return self._ended is None

    def last_activity(self) -> float:
        return self._active

    def touch(self) -> None:
        """A byte passes."""
        self._active = self._clock.seconds()

    def when_lost(self) -> Deferred[str]:
        if self._ended is not None:
            return succeed(self._ended)
        waiter: Deferred[str] = Deferred()
        self._waiters.append(waiter)
        return waiter

    def close(self, why: str) -> Deferred[None]:
        if self.close_reason is None:
            self.close_reason = why
            if self.delay:
                self._clock.callLater(self.delay, self.finish)
            elif not self.slow:
                self.finish()
        return self.when_lost().addCallback(lambda _: None)

    def abort(self, why: str) -> None:
        self.close_reason = self.close_reason or why
        self.lose(why)

    def finish(self) -> None:
        """The end of L{close}."""
        self.lose(self.close_reason or "closed")

    def lose(self, why: str = "the connection was lost") -> None:
        """The session ends by itself."""
        if self._ended is None:
            self._ended = why
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.callback(why)


class Attempt:
    """
    One attempt to open a session, until the test answers it.

    @ivar stuck: it goes on when it is cancelled.
    """

    def __init__(
        self, clock: Clock, server: TunnelServer, remotes: tuple[Remote, ...], *, hurried: bool = False
    ) -> None:
        self._clock = clock
        self.server = server
        self.remotes = remotes
        self.hurried = hurried
        self.stuck = False
        self.cancelled = False
        self.answer: Deferred[Session] = Deferred(self._cancel)

    def _cancel(self, answer: Deferred[Session]) -> None:
        self.cancelled = True
        answer.errback(CancelledError())

    @property
    def ports(self) -> list[int]:
        """The ports asked for."""
        return [remote.remote_port for remote in self.remotes]

    @property
    def pending(self) -> bool:
        return not self.answer.called

    def accept(self, delay: float = 0.0) -> ScriptedSession:
        """The session is up; closing it will take C{delay} seconds."""
        session = ScriptedSession(self._clock, self.server, self.remotes)
        session.delay = delay
        self.answer.callback(session)
        return session

    def fail(self, sentence: str = "connection refused", *, retryable: bool = True) -> None:
        """There is none."""
        self.answer.errback(SessionError("tcp", sentence, retryable))

    def refuse(self, *ports: int, reason: str = "cannot listen") -> None:
        """The server does not want this configuration, and names these ports."""
        self.answer.errback(RemotesRefused(reason, frozenset(ports)))


class ScriptedOpener:
    """An opener that keeps all attempts for the test to answer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.attempts: list[Attempt] = []
        self.stuck = False

    async def __call__(
        self, server: TunnelServer, remotes: tuple[Remote, ...], trace: Trace, *, hurried: bool = False
    ) -> Session:
        attempt = Attempt(self._clock, server, remotes, hurried=hurried)
        attempt.stuck = self.stuck
        self.attempts.append(attempt)
        with trace.step("tcp"):
            while True:
                try:
                    return await attempt.answer
                except CancelledError:
                    if not attempt.stuck:
                        raise
                    attempt.answer = Deferred()

    @property
    def pending(self) -> list[Attempt]:
        """The attempts that wait for an answer."""
        return [attempt for attempt in self.attempts if attempt.pending]

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]


def make_server(host: str = "tunnel.example", **changes: Any) -> TunnelServer:
    """A server with a fingerprint, at C{wss://host}."""
    return TunnelServer(**{"address": ServerAddress(host), "fingerprint": FINGERPRINT, **changes})


def make_order(*ports: int, server: TunnelServer | None = None) -> TunnelOrder:
    """An order for forwards C{a}, C{b}, C{c}, … on these ports."""
    names = "abcdefgh"
    allocations = tuple(Allocation(names[place], port) for place, port in enumerate(ports))
    return TunnelOrder("wanted", server or make_server(), allocations)


def wall_of(clock: Clock) -> datetime:
    """A time of day that goes with C{clock}."""
    return datetime.fromtimestamp(1_700_000_000 + clock.seconds(), UTC)
