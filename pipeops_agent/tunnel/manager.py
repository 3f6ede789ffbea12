"""The tunnel's service: orders and settings in, lines and status out."""

from __future__ import annotations

import random as _random
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pipeops_agent.clock import WallClock
from pipeops_agent.errors import ExitStatus, FatalError
from pipeops_agent.net.trace import Trace
from pipeops_agent.orders import TunnelOrder
from pipeops_agent.scheduling import Backoff
from pipeops_agent.settings.model_pipeops import ReconnectSettings
from pipeops_agent.settings.model_tunnel import TunnelSettings
from pipeops_agent.status import Attempt, StatusBoard
from pipeops_agent.tunnel.allocation import Plan, make_plan
from pipeops_agent.tunnel.denials import DenialReporter
from pipeops_agent.tunnel.errors import RemotesRefused, SessionError
from pipeops_agent.tunnel.flows import channel_flows
from pipeops_agent.tunnel.forwards import ForwardBook
from pipeops_agent.tunnel.journal import Journal
from pipeops_agent.tunnel.line import Entry, Line
from pipeops_agent.tunnel.lines import Lines
from pipeops_agent.tunnel.session_api import Opener, Session, Target
from pipeops_agent.tunnel.traffic import TrafficCounters

MAX_ATTEMPTS_SHOWN: Final = 20
"""How many attempts the status keeps."""

RECONNECT_CAP: Final = 30.0
"""The longest wait, in seconds, before a connection is tried again."""

WAKE_SPACING: Final = 30.0
"""L{TunnelManager.wake} is heard once in so many seconds: heartbeats don't undo the backoff."""


class TunnelManager(Service):
    """
    Keeps the tunnel as the control plane wants it: L{obey} takes its orders.

    Inactivity: a tunnel that is idle by order is closed when no byte has passed for
    C{tunnel.inactivity_timeout}; with C{inactivity_policy: always} one that is wanted is, too (a timeout of 0
    leaves it alone: it could never be used). That one stays closed until the control plane wants something
    else than it did, be it idle and then the same again, or other forwards are configured: the next poll's
    same answer opens nothing.

    @param reactor: measures time.
    @param board: shows the tunnel.
    @param opener: makes one attempt to open a session.
    @param counters: what has been carried; C{board} reads them.
    @param on_fatal: called, once, with the reason to end the process: a connection was lost, and
        C{pipeops.reconnect.enabled} is off.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        settings: TunnelSettings,
        reconnect: ReconnectSettings,
        *,
        board: StatusBoard,
        wall: WallClock,
        opener: Opener,
        counters: TrafficCounters,
        on_fatal: Callable[[FatalError], None],
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._clock = reactor
        self._settings = settings
        self._reconnect = reconnect
        self._board = board
        self._wall = wall
        self._opener = opener
        self._counters = counters
        self._on_fatal = on_fatal
        self._random = random
        self._order: TunnelOrder | None = None
        self._plan: Plan = make_plan(settings, None)
        self._asleep = False
        self._fatal = False
        self._last_wake: float | None = None
        self._inactivity: IDelayedCall | None = None
        self._attempts: deque[Attempt] = deque(maxlen=MAX_ATTEMPTS_SHOWN)
        self._book = ForwardBook(reactor, wall, counters, settings, self._show_forwards)
        self._denials = DenialReporter(reactor, counters.denials, board.tell_denied)
        self._journal = Journal(reconnect.max_attempts)
        self._lines = Lines(
            reactor,
            open_session=self._open,
            make_backoff=self._make_backoff,
            explain=self._book.explain,
            refused=self._book.refuse,
            entered=self._entered,
        )
        board.read_traffic_from(counters.snapshot)
        board.read_channels_from(lambda: channel_flows(counters, reactor.seconds()))

    def startService(self) -> None:
        super().startService()
        self._denials.start()
        self._follow()

    def stopService(self) -> Deferred[None]:
        """Close everything, in bounded time; what was ordered is forgotten."""
        super().stopService()
        self._order = None
        self._plan = make_plan(self._settings, None)
        self._lines.disable("the agent is stopping")
        self._watch_inactivity()
        self._publish()
        self._denials.stop()
        return self._lines.when_quiet()

    def obey(self, order: TunnelOrder) -> None:
        """Do what the control plane wants. The same order again changes nothing."""
        self._order = order
        if self.running:
            self._follow()

    def reconfigure(self, settings: TunnelSettings) -> None:
        """Go on with other settings; a tunnel that they don't concern is left alone."""
        self._settings = settings
        if self.running:
            self._follow()

    def wake(self) -> None:
        """The control plane can be reached: make the attempt that is being waited for now."""
        now = self._clock.seconds()
        recently = self._last_wake is not None and now - self._last_wake < WAKE_SPACING
        if self.running and not recently and any(line.waits_for_attempt for line in self._lines.group):
            self._last_wake = now
            self._lines.wake()

    def dialled(self, forward: str, problem: str | None) -> None:
        """A channel has reached the target of C{forward}; or has not, and why."""
        if self._book.dialled(forward, problem):
            self._show_forwards()

    def pinged(self) -> None:
        """A ping has been answered: show the round trip."""
        self._board.set_tunnel(rtt=self._rtt(), forwards=self._book.statuses())

    def _show_forwards(self) -> None:
        self._board.set_tunnel(forwards=self._book.statuses())

    def _follow(self) -> None:
        """Make the plan anew, and do what has changed."""
        before, plan = self._plan, make_plan(self._settings, self._order)
        self._plan = plan
        if (plan.wish, plan.target, plan.problem) != (before.wish, before.target, before.problem):
            self._asleep = False
        self._journal.plan(plan)
        self._book.plan(plan.forwards)
        self._counters.know(forward.name for forward in plan.forwards)
        self._steer()

    def _steer(self) -> None:
        """Have the lines do what the plan says; repeated after everything that happens."""
        plan = self._plan
        if plan.wish == "disabled":
            self._lines.disable(plan.why)
        elif plan.wish == "idle":
            self._lines.keep(plan.why)
        elif plan.target is None:
            self._lines.hold_off(plan.why)
        elif not self._asleep:
            self._lines.aim(plan.target)
        self._watch_inactivity()
        self._publish()

    def _watch_inactivity(self) -> None:
        """Close what has been quiet for too long; set the timer for what has not yet."""
        if self._inactivity is not None:
            self._inactivity.cancel()
            self._inactivity = None
        sessions, timeout = self._lines.sessions, self._settings.inactivity_timeout
        always = self._plan.wish == "wanted" and self._settings.inactivity_policy == "always" and timeout > 0
        if not sessions or not (always or self._plan.wish == "idle"):
            return
        last = max(session.last_activity() for session in sessions)
        remaining = last + timeout - self._clock.seconds()
        if remaining > 0:
            self._inactivity = self._clock.callLater(remaining, self._inactivity_due)
        elif always:
            self._asleep = True
            self._lines.rest(f"closed after {timeout:g} s without traffic, until the order changes")
        else:
            self._lines.rest(f"{self._plan.why}; closed after {timeout:g} s without traffic")

    def _inactivity_due(self) -> None:
        self._inactivity = None
        self._steer()

    def _make_backoff(self) -> Backoff:
        return Backoff(
            self._clock,
            interval=self._reconnect.interval,
            step=self._reconnect.backoff,
            cap=RECONNECT_CAP,
            stable_after=self._settings.stable_after,
            random=self._random,
        )

    async def _open(self, line: Line, target: Target) -> Session:
        """Make one attempt, and keep its record."""
        trace = Trace(self._clock, self._wall)
        outcome: Literal["connected", "refused", "failed", "given up"] = "given up"
        error: str | None = "given up"
        try:
            session = await self._opener(target.server, target.remotes, trace)
            outcome, error = "connected", None
        except SessionError as problem:
            outcome = "refused" if isinstance(problem, RemotesRefused) else "failed"
            error = problem.sentence
            raise
        finally:
            self._attempts.append(
                msgspec.structs.replace(
                    trace.attempt(error),
                    server=target.server.address.url,
                    role=line.role,
                    forwards=tuple(remote.forward for remote in target.remotes),
                    outcome=outcome,
                )
            )
        self._counters.connects += 1
        return session

    def _entered(self, line: Line, entry: Entry) -> None:
        self._journal.entered(line, entry)
        if self.running:
            self._check_fatal(line, entry)
            self._steer()
        else:
            self._publish()

    def _check_fatal(self, line: Line, entry: Entry) -> None:
        """With C{reconnect.enabled} off a lost connection, or none to be had, is the end: not a refusal."""
        problem = entry.problem
        if self._reconnect.enabled or self._fatal or problem is None or self._plan.wish != "wanted":
            return
        if isinstance(problem, RemotesRefused) or not (entry.lost or line is self._lines.main):
            return
        self._fatal = True
        sentence = f"the tunnel is down and pipeops.reconnect.enabled is off: {problem.sentence}"
        self._on_fatal(FatalError(sentence, ExitStatus.UNAVAILABLE))

    def _rtt(self) -> float | None:
        return next((session.rtt for session in self._lines.sessions if session.rtt is not None), None)

    def _publish(self) -> None:
        """Show what is."""
        leading, before = self._lines.leading, self._board.now.tunnel
        self._book.carry(self._lines.sessions)
        busy = leading.busy and leading.target is not None
        self._board.set_tunnel(
            state=leading.state,
            since=before.since if before.state == leading.state and before.since else self._wall(),
            message=self._message(leading),
            server=leading.target.server.address.url if busy and leading.target else None,
            rtt=self._rtt(),
            forwards=self._book.statuses(),
            attempts=tuple(self._attempts),
        )

    def _message(self, leading: Line) -> str:
        successor = self._lines.successor
        if successor is None or successor is leading:
            return leading.why
        return f"{leading.why}; its successor is {successor.state}: {successor.why}"
