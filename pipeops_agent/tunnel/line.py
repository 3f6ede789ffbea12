"""One line: keeps one session to one target, as its machine says, and tells its owner of every state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pipeops_agent.backoff import Backoff
from pipeops_agent.scheduling import DeadlineExceeded, Tasks, as_deferred, bounded
from pipeops_agent.tunnel.errors import RemotesRefused, SessionError
from pipeops_agent.tunnel.machine import TunnelEffects, TunnelInputs, tunnel_machine
from pipeops_agent.tunnel.session_api import Session, Target

_log = Logger(namespace="tunnel")

CLOSE_TIMEOUT: Final = 1.5
"""Seconds that an attempt or a session has to end; then it is left behind, and said."""

_BEFORE_AN_ANSWER: Final = frozenset({"dns", "tcp", "session"})
"""The steps at which nobody has answered yet; C{session} is the loss of one."""

_BUSY: Final = frozenset({"connecting", "connected", "closing"})


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """
    One state entered.

    @ivar lasted: how many seconds the state before lasted.
    @ivar problem: the failure or loss that led here; None where an order did.
    @ivar lost: whether it was the loss of a session that had been there.
    """

    state: str
    why: str
    before: str
    lasted: float
    problem: SessionError | None = None
    lost: bool = False


class _Wish(msgspec.Struct, frozen=True):
    """What shall be when everything has been given up."""

    state: Literal["connecting", "waiting", "idle", "disabled"]
    why: str
    target: Target | None = None


class _Attempt:
    """One attempt under way. C{abandoned}: whatever comes of it is not wanted any more."""

    def __init__(self) -> None:
        self.abandoned = False
        self.running: Deferred[None] | None = None


class Line:
    """
    Keeps one session; L{want}, L{postpone}, L{rest} and L{disable} say whether and where to.

    The session may carry less than what was asked for: then C{target} is narrowed to that, and it is the
    owner's affair to see to the others.

    @param open_session: opens a session to a target, or to what can be had of it; cancellable.
    @param entered: called after each state that is entered.
    @param role: what this line is to its owner; for the log.
    """

    def __init__(
        self,
        clock: IReactorTime,
        open_session: Callable[[Line, Target], Awaitable[Session]],
        backoff: Backoff,
        entered: Callable[[Line, Entry], None],
        role: str,
    ) -> None:
        self.role = role
        self._core = _Core(
            clock,
            lambda target: open_session(self, target),
            backoff,
            lambda entry: entered(self, entry),
        )
        self._inputs = tunnel_machine(self._core)
        self._core.inputs = self._inputs

    def want(self, target: Target) -> None:
        """Keep a session to C{target}, from now on. One to another target is closed first."""
        self._inputs.want(target)

    def postpone(self, target: Target | None, why: str) -> None:
        """Try for C{target} after a backoff; None: hold nothing until something else is wanted."""
        self._inputs.postpone(target, why)

    def rest(self, why: str) -> None:
        """Hold nothing for now."""
        self._inputs.rest(why)

    def disable(self, why: str) -> None:
        """Hold nothing at all."""
        self._inputs.disable(why)

    def widen(self, target: Target) -> None:
        """Let the attempt that is being waited for be one to C{target}."""
        if self.waits_for_attempt:
            self._core.target = target

    def wake(self) -> None:
        """Make the attempt that is being waited for now."""
        if self.waits_for_attempt:
            self._core.fire()

    @property
    def state(self) -> str:
        """The machine's state."""
        return self._core.state

    @property
    def why(self) -> str:
        """Why it is in that state."""
        return self._core.why

    @property
    def target(self) -> Target | None:
        """What it keeps, or tries to, or last did; None before the first."""
        return self._core.target

    @property
    def session(self) -> Session | None:
        """The session held, in C{connected} alone."""
        return self._core.session

    @property
    def waits_for_attempt(self) -> bool:
        """Whether the timer of the next attempt is running."""
        return self._core.timer is not None

    @property
    def failures(self) -> int:
        """How many attempts and sessions in a row have failed."""
        return self._core.backoff.failures

    @property
    def hurried(self) -> bool:
        """
        Whether an attempt that begins now should give up soon on an address that does not answer, and try
        anew: what was lost in an outage is sent again later and later, what a new attempt sends at once.
        Where somebody has answered meanwhile the network is back, and maybe slow: there is no hurry.
        """
        return self._core.backoff.fast and not self._core.answered

    @property
    def busy(self) -> bool:
        """Whether anything is held: an attempt, a session, or what is left of one."""
        return self.state in _BUSY

    def when_quiet(self) -> Deferred[None]:
        """Fires when nothing is held; one Deferred per call."""
        if not self.busy:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._core.quiet_waiters.append(waiter)
        return waiter


class _Core(TunnelEffects):
    """What a line's machine has done for it, and what is held meanwhile."""

    inputs: TunnelInputs

    def __init__(
        self,
        clock: IReactorTime,
        open_session: Callable[[Target], Awaitable[Session]],
        backoff: Backoff,
        report: Callable[[Entry], None],
    ) -> None:
        self._clock = clock
        self._open_session = open_session
        self.backoff = backoff
        self._report = report
        self.state = "disabled"
        self.why = "not asked for yet"
        self.target: Target | None = None
        self.session: Session | None = None
        self.timer: IDelayedCall | None = None
        self.quiet_waiters: list[Deferred[None]] = []
        self.answered = False
        self._began = 0.0
        self._since = clock.seconds()
        self._problem: SessionError | None = None
        self._lost = False
        self._attempt: _Attempt | None = None
        self._wish: _Wish | None = None
        self._tasks = Tasks()

    def entered(self, state: str) -> None:
        now = self._clock.seconds()
        entry = Entry(
            state=state,
            why=self.why,
            before=self.state,
            lasted=now - self._since,
            problem=self._problem,
            lost=self._lost,
        )
        self.state, self._since, self._problem, self._lost = state, now, None, False
        if state not in _BUSY:
            waiters, self.quiet_waiters = self.quiet_waiters, []
            for waiter in waiters:
                waiter.callback(None)
        self._report(entry)

    # The timer of the next attempt.

    def _disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self.timer = self._clock.callLater(seconds, self._expired)

    def _expired(self) -> None:
        self.timer = None
        self.inputs.due()

    def fire(self) -> None:
        """End the wait now."""
        self._disarm()
        self.inputs.due()

    # An attempt, and the session that comes of it.

    def start(self, target: Target) -> None:
        self._disarm()
        self.target = target
        self.why = f"connecting to {target.server.address.url}"
        self._began = self._clock.seconds()
        attempt = self._attempt = _Attempt()
        attempt.running = as_deferred(self._try(attempt, target))
        attempt.running.addErrback(self._say_defect)

    def start_again(self) -> None:
        assert self.target is not None  # no timer runs without a target
        self.start(self.target)

    async def _try(self, attempt: _Attempt, target: Target) -> None:
        """Make one attempt; its end is an input of the machine, unless it was abandoned."""
        session: Session | None = None
        error = SessionError("connect", "the attempt was cancelled")
        try:
            session = await self._open_session(target)
        except SessionError as problem:
            error = problem
        except CancelledError:
            if not attempt.abandoned:
                _log.debug("an attempt to connect was cancelled from within")
        except Exception:
            _log.failure("opening a tunnel session failed unexpectedly")
            error = SessionError("connect", "an unexpected error; the log has the details")
        if attempt.abandoned:
            if session is not None:
                await self._close(session, "no longer wanted")
            return
        self._attempt = None
        if session is not None:
            self.inputs.opened(session)
        else:
            self.inputs.failed(error)

    def _say_defect(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            _log.failure("an attempt to connect could not be ended", failure=failure)

    def hold(self, session: Session) -> None:
        assert self.target is not None  # every attempt has one
        self.target = msgspec.structs.replace(self.target, remotes=session.remotes)
        self.session = session
        self.backoff.succeeded()
        self.why = f"connected to {self.target.server.address.url}"
        session.when_lost().addBoth(self._session_ended, session)

    def _session_ended(self, why: str | Failure, session: Session) -> None:
        if session is self.session:
            self.inputs.lost(why if isinstance(why, str) else why.getErrorMessage())

    def discard(self, session: Session) -> None:
        self._tasks.spawn(self._close(session, "no longer wanted"), "closing a stray tunnel session")

    # Doing nothing, for a while or for good.

    def wait(self, target: Target | None, why: str) -> None:
        self._disarm()
        self.why = why
        if target is not None:
            self.target = target
            self._arm(self.backoff.failed(soon=False))

    def wait_after_failure(self, error: SessionError) -> None:
        self._wait_after(error, took=self._clock.seconds() - self._began)

    def _wait_after(self, error: SessionError, took: float) -> None:
        # A server that refuses ports has answered: it holds them for a while, whatever the network does.
        soon = error.retryable and not isinstance(error, RemotesRefused)
        wait = self.backoff.failed(took=took, soon=soon)
        self.answered = error.step not in _BEFORE_AN_ANSWER
        self._problem = error
        hint = "" if error.retryable else " (this does not mend by itself)"
        self.why = f"{error.sentence}{hint}; the next attempt is in {wait:.1f} s"
        self._arm(wait)

    def wait_after_loss(self, why: str) -> None:
        self.session = None
        self._lost = True
        self._wait_after(SessionError("session", why), took=0.0)

    def stay(self, why: str) -> None:
        self._disarm()
        self.why = why

    # Giving up what is held.

    def give_up_to_connect(self, target: Target) -> None:
        self._give_up(_Wish("connecting", f"making way for {target.server.address.url}", target))

    def give_up_to_wait(self, target: Target | None, why: str) -> None:
        self._give_up(_Wish("waiting", why, target))

    def give_up_to_rest(self, why: str) -> None:
        self._give_up(_Wish("idle", why))

    def give_up_to_disable(self, why: str) -> None:
        self._give_up(_Wish("disabled", why))

    def _give_up(self, wish: _Wish) -> None:
        """Note the wish; where nothing has been given up yet, begin."""
        begun, self._wish = self._wish is not None, wish
        if not begun:
            self.why = wish.why
            self._tasks.spawn(self._wind_up(wish.why), "giving up a tunnel session")

    async def _wind_up(self, why: str) -> None:
        """End the attempt or the session, in bounded time, and go on to what was wished last."""
        attempt, self._attempt = self._attempt, None
        session, self.session = self.session, None
        if attempt is not None and attempt.running is not None:
            attempt.abandoned = True
            attempt.running.cancel()
            await self._end(attempt.running, "an attempt to connect")
        if session is not None:
            await self._close(session, why)
        assert self._wish is not None
        match self._wish.state:
            case "connecting":
                self.inputs.ended_connecting()
            case "waiting":
                self.inputs.ended_waiting()
            case "idle":
                self.inputs.ended_idle()
            case "disabled":
                self.inputs.ended_disabled()

    def carry_on(self) -> None:
        wish, self._wish = self._wish, None
        assert wish is not None  # closing is entered with one
        if wish.state == "waiting":
            self.wait(wish.target, wish.why)
        elif wish.target is not None:
            self.start(wish.target)
        else:
            self.stay(wish.why)

    async def _close(self, session: Session, why: str) -> None:
        await self._end(session.close(why), "a session")

    async def _end(self, ending: Deferred[None], what: str) -> None:
        """Wait for C{ending} in bounded time; what goes wrong is only said: there is nothing left to do."""
        try:
            await bounded(self._clock, CLOSE_TIMEOUT, ending, what)
        except DeadlineExceeded:
            _log.warn("{what} did not end within {seconds} s", what=what, seconds=CLOSE_TIMEOUT)
        except CancelledError:
            raise
        except Exception:
            _log.failure("ending {what} failed", what=what)
