"""
The lines of the tunnel: which sessions there are at one time, and how one set of them gives way to another.

Usually there is one line, C{main}. Beside it there can be:

- C{extras}, each for forwards that the server refused when the session before it was opened. A
  configuration is taken once per session, so what is refused needs a session of its own, and those that
  work are left alone. When no session is left, all forwards are asked for in one again.
- a C{successor}, while the control plane wants another server or other ports: it is made before main and
  extras are broken. Where both would need the same port of the same server there is no successor: main and
  extras are closed, and then main is opened anew.
- lines that C{retire}: they hold something yet, but only until it has ended. A session that was replaced
  before it was broken is drained first: what goes through it has L{DRAIN_LIMIT} seconds to end by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pipeops_agent.backoff import Backoff
from pipeops_agent.orders import TunnelServer
from pipeops_agent.tunnel.errors import SessionError
from pipeops_agent.tunnel.line import Entry, Line
from pipeops_agent.tunnel.refused import AllRefused, open_most
from pipeops_agent.tunnel.remotes import Remote
from pipeops_agent.tunnel.session_api import Session, Target

_log = Logger(namespace="tunnel")

DRAIN_LIMIT: Final = 30.0
"""Seconds that the connections of a session have to end by themselves, when another has taken its place."""
DRAIN_LOOK: Final = 0.5
"""Seconds between two looks whether they have."""

_RANK: Final = ("connected", "connecting", "waiting", "closing", "idle", "disabled")
"""What is shown of several lines: the first of these that one is in."""

MAIN_ROLE: Final = "the tunnel"
EXTRA_ROLE: Final = "the tunnel of refused forwards"
SUCCESSOR_ROLE: Final = "the next tunnel"
RETIRED_ROLE: Final = "the former tunnel"


class Lines:
    """
    All lines of the tunnel. L{aim}, L{keep}, L{hold_off}, L{rest} and L{disable} may be repeated at will.

    @param open_session: makes one attempt to open a session that carries exactly what it is asked for.
    @param explain: makes of a remote that a server refuses, and its reason, what is told of it.
    @param refused: called with what a server refused, and why.
    @param entered: called after each state that a line has entered, when this has drawn its conclusions.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        open_session: Callable[[Line, Target], Awaitable[Session]],
        make_backoff: Callable[[], Backoff],
        explain: Callable[[TunnelServer, Remote, str], str],
        refused: Callable[[Mapping[Remote, str]], None],
        entered: Callable[[Line, Entry], None],
    ) -> None:
        self._clock = clock
        self._open_session = open_session
        self._make_backoff = make_backoff
        self._explain = explain
        self._refused = refused
        self._tell = entered
        self.main = self._new_line(MAIN_ROLE)
        self.extras: list[Line] = []
        self.successor: Line | None = None
        self.retiring: list[Line] = []
        self._draining: dict[Line, IDelayedCall] = {}
        self._abandoned = False
        self._wish: tuple[str, object] = ("disabled", None)
        self._whole: Target | None = None
        """What main and extras carry together, or try to."""
        self._next: Target | None = None
        """The same of the successor."""

    # What there is.

    @property
    def leading(self) -> Line:
        """The line that the status shows: of main, extras, successor and retired ones the furthest."""
        shown = (line for line in self._all() if line not in self._draining)
        return min(shown, key=lambda line: _RANK.index(line.state))

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The sessions that carry forwards now."""
        lines = (line for line in self._all() if line not in self._draining)
        return tuple(line.session for line in lines if line.session is not None)

    @property
    def waits_for_attempt(self) -> bool:
        """Whether an attempt is being waited for."""
        return any(line.waits_for_attempt for line in self._all())

    @property
    def group(self) -> tuple[Line, ...]:
        """Main and extras: what works for the present target."""
        return (self.main, *self.extras)

    def _all(self) -> tuple[Line, ...]:
        successor = () if self.successor is None else (self.successor,)
        return (*self.group, *successor, *self.retiring)

    # What there shall be.

    def aim(self, target: Target) -> None:
        """There shall be a tunnel to C{target}."""
        if self._wish == ("aim", target):
            return
        resumed = self._wish[0] == "keep"
        active = resumed or self._wish[0] == "aim"
        self._wish = ("aim", target)
        if active and target == self._whole:
            self._drop_successor("the control plane wants the present tunnel again")
            self._fill_gaps("not carried by the present session")
        elif any(line.session for line in self.group) and not self._in_the_way(target):
            if self.successor is None:
                self.successor = self._new_line(SUCCESSOR_ROLE)
            self._next = target
            self._prune("another session is to take its place")
            self.successor.want(target)
        else:
            self._rebuild(target)

    def keep(self, why: str) -> None:
        """What is connected may stay; nothing is opened."""
        self._drop_successor(why)
        if not any(line.session for line in self.group):
            if self._wish[0] != "rest":  # the reason of the first stands
                self.rest(why)
            return
        self._wish = ("keep", None)
        self._prune(why)

    def hold_off(self, why: str) -> None:
        """There shall be a tunnel, and can't be one until another order comes."""
        if self._wish != ("hold off", why):
            self._wish = ("hold off", why)
            self._leave_main_alone(why)
            self.main.postpone(None, why)

    def rest(self, why: str) -> None:
        """There shall be no tunnel for now."""
        if self._wish != ("rest", why):
            self._wish = ("rest", why)
            self._leave_main_alone(why)
            self.main.rest(why)

    def disable(self, why: str) -> None:
        """There shall be no tunnel."""
        if self._wish != ("disabled", why):
            self._wish = ("disabled", why)
            self._leave_main_alone(why)
            self.main.disable(why)

    def renew(self, why: str) -> None:
        """Break what is connected and make it anew; what is not is tried now. A successor is new already."""
        if self._wish[0] != "aim" or self._whole is None or self.successor is not None:
            return
        if any(line.session for line in self.group):
            self._leave_main_alone(why)
            self.main.rest(why)
            self.main.want(self._whole)
        else:
            self.wake()

    def abandon(self, why: str) -> None:
        """
        Let go of everything, in whatever state it is, and tell nobody of what becomes of it.

        For when something is stuck: nothing that a line does then may be in the way.
        """
        self._abandoned = True
        for look in self._draining.values():
            look.cancel()
        self._draining.clear()  # they retire, so they are among those below
        for line in self._all():
            try:
                line.disable(why)
            except Exception:
                _log.failure("{role} could not be given up", role=line.role)

    def wake(self) -> None:
        """Make all attempts that are being waited for now."""
        for line in self._all():
            line.wake()

    def when_quiet(self) -> Deferred[None]:
        """Fires when nothing is held any more by the lines that there are now."""
        waiting = [line.when_quiet() for line in self._all()]
        return DeferredList(waiting, consumeErrors=True).addCallback(lambda _: None)

    # How one comes after the other.

    def _new_line(self, role: str) -> Line:
        return Line(self._clock, self._open, self._make_backoff(), self._entered, role)

    def _rebuild(self, target: Target) -> None:
        """Break what there is, then make a tunnel to C{target}."""
        self._leave_main_alone(f"making way for {target.server.address.url}")
        self._whole = target
        self.main.want(target)

    def _in_the_way(self, target: Target) -> bool:
        """Whether a session that serves now keeps one to C{target} from being opened."""
        return any(line.session and line.target and line.target.collides_with(target) for line in self.group)

    def _leave_main_alone(self, why: str) -> None:
        self._end_draining(why)
        self._drop_successor(why)
        extras, self.extras = self.extras, []
        for line in extras:
            self._retire(line, why)

    def _drop_successor(self, why: str) -> None:
        successor, self.successor, self._next = self.successor, None, None
        if successor is not None:
            self._retire(successor, why)

    def _retire(self, line: Line, why: str) -> None:
        """Let C{line} end; it is forgotten when it has. The caller takes it from its place."""
        line.role = RETIRED_ROLE
        if line.state not in {"idle", "disabled"}:
            self.retiring.append(line)
            line.rest(why)

    def _drain(self, line: Line, why: str) -> None:
        """Let C{line} end when nothing goes through its session any more, or after a while."""
        if line.session is None or not line.session.channels:
            self._retire(line, why)
            return
        line.role = RETIRED_ROLE
        self.retiring.append(line)
        self._look_at(line, self._clock.seconds() + DRAIN_LIMIT, why)

    def _look_at(self, line: Line, until: float, why: str) -> None:
        if line.session is not None and line.session.channels and self._clock.seconds() < until:
            self._draining[line] = self._clock.callLater(DRAIN_LOOK, self._look_at, line, until, why)
        else:
            self._draining.pop(line, None)
            line.rest(why)

    def _stop_draining(self, line: Line, why: str) -> None:
        call = self._draining.pop(line, None)
        if call is not None:
            call.cancel()
            line.rest(why)

    def _end_draining(self, why: str) -> None:
        for line in tuple(self._draining):
            self._stop_draining(line, why)

    def _lead(self, lines: list[Line]) -> None:
        """Let C{lines} be main and extras."""
        self.main, *self.extras = lines
        self.main.role = MAIN_ROLE

    def _prune(self, why: str) -> None:
        """Let main and extras be those that are connected, one at least; the others retire."""
        connected = [line for line in self.group if line.session is not None]
        others = [line for line in self.group if line.session is None]
        self._lead(connected)
        for line in others:
            self._retire(line, why)

    def _promote(self, why: str) -> None:
        """Let the successor take the place of main and extras."""
        successor, target = self.successor, self._next
        if successor is None:
            return
        self.successor = self._next = None
        former = self.group
        self._whole = target
        self._lead([successor])
        for line in former:
            self._drain(line, why)

    def _fill_gaps(self, why: str) -> None:
        """Begin an extra line for what no line carries or tries to."""
        if self._whole is None:
            return
        covered = {remote for line in self.group if line.target for remote in line.target.remotes}
        missing = tuple(remote for remote in self._whole.remotes if remote not in covered)
        if missing:
            extra = self._new_line(EXTRA_ROLE)
            self.extras.append(extra)
            extra.postpone(Target(self._whole.server, missing), why)

    def _gather(self) -> None:
        """Where nothing is left that works, ask for everything in one session again."""
        if self._whole is None or not self.main.waits_for_attempt or any(line.session for line in self.group):
            return
        self.main.widen(self._whole)
        extras, self.extras = self.extras, []
        for line in extras:
            self._retire(line, "asked for with the others again")

    def _entered(self, line: Line, entry: Entry) -> None:
        """Draw the conclusions from C{line} having entered a state, and tell the owner."""
        if self._abandoned:
            return
        if line in self.retiring:
            if entry.state in {"idle", "disabled"}:
                self.retiring.remove(line)
            elif entry.lost:
                self._stop_draining(line, entry.why)
        elif entry.state == "connected":
            if line is self.successor:
                self._promote("another session has taken its place")
            self._fill_gaps("the server refused it for the session of the others")
        elif entry.problem is not None:
            self._after_problem(line, entry)
        self._tell(line, entry)

    def _after_problem(self, line: Line, entry: Entry) -> None:
        if line is self.successor:
            held = {port for other in self.group if other.session for port in _ports([other])}
            if isinstance(entry.problem, AllRefused) and not held.isdisjoint(entry.problem.ports):
                # The other server is the same one by another name, and we hold the ports ourselves.
                self._promote("the next session needs its ports")
                line.wake()
            return
        if self.successor is None:
            self._gather()
        elif any(other.session for other in self.group):
            self._prune("another session is to take its place")
        else:
            self._promote("there is nothing left to keep")

    async def _open(self, line: Line, target: Target) -> Session:
        """Open what can be had of C{target}, when nothing that retires holds one of its ports any more."""
        while (blocking := self._blocking(line, target)) is not None:
            await blocking.when_quiet()
        try:
            opened = await open_most(
                lambda remotes: self._attempt(line, Target(target.server, remotes)),
                target.remotes,
                line.failures,
                lambda remote, reason: self._explain(target.server, remote, reason),
            )
        except AllRefused as error:
            self._refused(error.reasons)
            raise
        self._refused(opened.refused)
        return opened.session

    async def _attempt(self, line: Line, target: Target) -> Session:
        """One attempt; none where everything was given up while it was waited for."""
        if self._abandoned:
            raise SessionError("session", "given up with everything else")
        return await self._open_session(line, target)

    def _blocking(self, line: Line, target: Target) -> Line | None:
        """A line that retires, and holds yet what C{line} needs."""
        for other in self.retiring:
            if other is not line and other.busy and not target.ports.isdisjoint(_ports([other])):
                self._stop_draining(other, "another session needs its ports")
                return other
        return None


def _ports(lines: Iterable[Line]) -> frozenset[int]:
    return frozenset(port for line in lines if line.target for port in line.target.ports)
