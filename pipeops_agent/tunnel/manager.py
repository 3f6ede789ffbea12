"""The tunnel's service: orders and settings in, lines and status out."""

from __future__ import annotations

import random as _random
from collections.abc import Callable
from typing import Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel

from pipeops_agent.backoff import Backoff, Spacing
from pipeops_agent.clock import WallClock, rfc3339
from pipeops_agent.errors import ExitStatus, FatalError
from pipeops_agent.net.trace import Trace
from pipeops_agent.orders import TunnelOrder
from pipeops_agent.settings.model_pipeops import ReconnectSettings
from pipeops_agent.settings.model_tunnel import TunnelSettings
from pipeops_agent.status import StatusBoard
from pipeops_agent.tunnel.allocation import Plan, make_plan
from pipeops_agent.tunnel.attempts import AttemptBook, Outcome
from pipeops_agent.tunnel.denials import DenialReporter
from pipeops_agent.tunnel.errors import RemotesRefused, SessionError
from pipeops_agent.tunnel.flapping import Flapping
from pipeops_agent.tunnel.flows import channel_flows
from pipeops_agent.tunnel.forwards import ForwardBook
from pipeops_agent.tunnel.journal import Journal
from pipeops_agent.tunnel.keepalive import PATIENCE
from pipeops_agent.tunnel.line import Entry, Line
from pipeops_agent.tunnel.lines import Lines
from pipeops_agent.tunnel.session_api import Opener, Session, Target
from pipeops_agent.tunnel.traffic import TrafficCounters
from pipeops_agent.tunnel.watchdog import Watchdog

_log = Logger(namespace="tunnel")

RECONNECT_CAP: Final = 30.0
"""The longest wait, in seconds, before a connection is tried again."""

WAKE_SPACING: Final = 2.0
"""L{TunnelManager.wake} is heard once in so many seconds: heartbeat and poll recover together."""

FAST_FOR: Final = 90.0
"""Seconds after the loss of a stable session in which the attempts follow fast upon each other."""

RECONNECT_SPACING: Final = 60.0
"""L{TunnelManager.reconnect} is heard once in so many seconds."""

ERRORS_SAID: Final = 3
"""How many of the last errors the watchdog's record has."""


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
    @param make_opener: makes what opens sessions, with everything that it needs from the name look-up on;
        called anew whenever the watchdog barks.
    @param counters: what has been carried; C{board} reads them.
    @param on_fatal: called, once, with the reason to end the process: a connection was lost, and
        C{pipeops.reconnect.enabled} is off.
    @ivar on_connected: called when a session is there: the network is.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        settings: TunnelSettings,
        reconnect: ReconnectSettings,
        *,
        board: StatusBoard,
        wall: WallClock,
        make_opener: Callable[[], Opener],
        counters: TrafficCounters,
        on_fatal: Callable[[FatalError], None],
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._clock = reactor
        self._settings = settings
        self._reconnect = reconnect
        self._board = board
        self._wall = wall
        self._make_opener = make_opener
        self._opener = make_opener()
        self._counters = counters
        self._on_fatal = on_fatal
        self._random = random
        self._order: TunnelOrder | None = None
        self._plan: Plan = make_plan(settings, None)
        self._asleep = False
        self._fatal = False
        self.on_connected: Callable[[], None] = _nothing
        self._wakes = Spacing(reactor, WAKE_SPACING)
        self._reconnects = Spacing(reactor, RECONNECT_SPACING)
        self._watchdog = Watchdog(reactor, self._rebuild, random)
        self._silent_rebuilds = 0
        self._flapping = Flapping(reactor, lambda: self._settings.stable_after, self._flapping_changed)
        self._held: set[Session] = set()
        self._inactivity: IDelayedCall | None = None
        self._attempts = AttemptBook()
        self._book = ForwardBook(reactor, wall, counters, settings, self._show_forwards)
        self._denials = DenialReporter(reactor, counters.denials, board.tell_denied)
        self._journal = Journal(reconnect.max_attempts)
        self._lines = self._make_lines()
        # The last one alone: what an earlier rebuild left has ended, or is stuck; no stop waits for that.
        self._former: Lines | None = None
        board.read_traffic_from(counters.snapshot)
        board.read_channels_from(lambda: channel_flows(counters, reactor.seconds()))

    def _make_lines(self) -> Lines:
        return Lines(
            self._clock,
            open_session=self._open,
            make_backoff=self._make_backoff,
            explain=self._book.explain,
            refused=self._book.refuse,
            entered=self._entered,
        )

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
        self._flapping.forget()
        self._watch()
        self._publish()
        self._denials.stop()
        ends = [lines.when_quiet() for lines in (self._lines, self._former) if lines is not None]
        return DeferredList(ends, consumeErrors=True).addCallback(lambda _: None)

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
        """The control plane can be reached again: make the attempt that is being waited for now."""
        if self.running and self._lines.waits_for_attempt and self._wakes.allows():
            self._lines.wake()

    def reconnect(self, why: str) -> None:
        """
        The control plane asks for another connection, C{why}: break the present one, then make it anew.

        Where it has ordered another server or other ports first, the next one is on its way already, and is
        made before the present one is broken. Heard once in L{RECONNECT_SPACING} seconds: who asks in each
        answer gets no loop.
        """
        if not self.running or not self._is_wanted:
            _log.debug("asked to reconnect a tunnel that is not there: {why}", why=why)
        elif not self._reconnects.allows():
            _log.warn(
                "asked to reconnect again within {seconds:g} s, which is not done: {why}",
                seconds=RECONNECT_SPACING,
                why=why,
            )
        else:
            _log.info("the tunnel is connected anew, as the control plane asks: {why}", why=why)
            self._lines.renew(f"the control plane asks for another connection: {why}")

    def dialled(self, forward: str, problem: str | None) -> None:
        """A channel has reached the target of C{forward}; or has not, and why."""
        if self._book.dialled(forward, problem):
            self._show_forwards()

    def pinged(self) -> None:
        """A ping has been answered: the server is there. Show the round trip."""
        self._contact()

    def _show_forwards(self) -> None:
        self._board.set_tunnel(forwards=self._book.statuses())

    def _contact(self) -> None:
        """There is proof that the server is there."""
        self._watchdog.fed()
        self._silent_rebuilds = 0
        self._board.set_tunnel(contact=self._wall(), rtt=self._rtt(), forwards=self._book.statuses())

    def _follow(self) -> None:
        """Make the plan anew, and do what has changed."""
        before, plan = self._plan, make_plan(self._settings, self._order)
        self._plan = plan
        if (plan.wish, plan.target, plan.problem) != (before.wish, before.target, before.problem):
            self._asleep = False
            self._flapping.forget()
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
        self._watch()
        self._publish()

    @property
    def _is_wanted(self) -> bool:
        """Whether there shall be a session, and can be."""
        return self._plan.wish == "wanted" and self._plan.target is not None and not self._asleep

    def _watch(self) -> None:
        self._watch_inactivity()
        settings = self._settings
        limit = settings.watchdog if self._is_wanted else 0.0
        # A tunnel that lives may need so long to prove it.
        ping = settings.ping_interval + (PATIENCE + 1) * settings.ping_timeout
        self._watchdog.watch(max(limit, ping) if limit > 0 else 0.0)

    def _rebuild(self, quiet: float) -> None:
        """
        Nothing was proven for C{quiet} seconds: make everything anew, and try at once.

        Nothing of what was there is asked, or waited for: its state may be what is wrong.
        """
        why = f"no answer of the server for {quiet:.0f} s"
        first, self._silent_rebuilds = self._silent_rebuilds == 0, self._silent_rebuilds + 1
        tunnel = self._board.now.tunnel
        errors = dict.fromkeys(each.error for each in reversed(tunnel.attempts) if each.error is not None)
        said = {
            "state": self._lines.leading.state,
            "last_contact": "none yet" if tunnel.contact is None else rfc3339(tunnel.contact),
            "last_errors": list(errors)[:ERRORS_SAID],
            "rebuilds": self._silent_rebuilds,
        }
        # Each further one of the same outage is no news.
        _log.emit(
            LogLevel.warn if first else LogLevel.debug,
            "the watchdog makes the tunnel anew: {why}, in the state {state}; the last contact:"
            " {last_contact}; the last errors: {last_errors}",
            why=why,
            **said,
        )
        self._former, self._lines = self._lines, self._make_lines()
        self._former.abandon(why)
        self._journal.replaced(self._former.main, self._lines.main)
        for session in tuple(self._held):
            try:
                session.abort(why)
            except Exception:
                _log.failure("a session could not be cut")
        self._opener = self._make_opener()
        self._board.set_tunnel(rebuilds=tunnel.rebuilds + 1)
        self._board.announce("rebuilt", why=why, **said)
        self._steer()

    def _flapping_changed(self, sentence: str | None) -> None:
        if sentence is None:
            _log.info("the tunnel is not flapping any more")
        else:
            _log.warn("the tunnel is {sentence}", sentence=sentence)
        self._board.announce("flapping", flapping=sentence is not None, message=sentence or "over")
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
            fast_for=FAST_FOR,
            random=self._random,
        )

    async def _open(self, line: Line, target: Target) -> Session:
        """Make one attempt, and keep its record."""
        trace, lines = Trace(self._clock, self._wall), self._lines
        outcome: Outcome = "given up"
        error: str | None = "given up"
        try:
            session = await self._opener(target.server, target.remotes, trace, hurried=line.hurried)
            outcome, error = "connected", None
        except SessionError as problem:
            outcome = "refused" if isinstance(problem, RemotesRefused) else "failed"
            error = problem.sentence
            if outcome == "refused":
                self._contact()
            raise
        finally:
            self._attempts.keep(trace.attempt(error), line.role, target, outcome)
        if lines is not self._lines:
            session.abort("no longer wanted")
            raise SessionError("session", "it came too late")
        self._held.add(session)
        session.when_lost().addBoth(lambda _: self._held.discard(session))
        self._counters.connects += 1
        return session

    def _entered(self, line: Line, entry: Entry) -> None:
        self._journal.entered(line, entry)
        if entry.state == "connected":
            self._contact()
            self._flapping.connected()
            self.on_connected()
        elif self.running and entry.lost and entry.problem is not None:
            self._flapping.lost(entry.lasted, entry.problem.sentence)
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
            attempts=self._attempts.shown,
            flapping=self._flapping.sentence,
        )

    def _message(self, leading: Line) -> str:
        successor, message = self._lines.successor, leading.why
        if successor is not None and successor is not leading:
            message = f"{message}; its successor is {successor.state}: {successor.why}"
        return message if self._flapping.sentence is None else f"{self._flapping.sentence}; now: {message}"


def _nothing() -> None:
    """For a callback that nobody has set."""
