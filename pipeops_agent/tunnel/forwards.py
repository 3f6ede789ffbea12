"""
What is known of each forward.

=============  =====================================================================================
C{configured}  in the settings; has no port
C{allocated}   has a port; no session carries it
C{listening}   a session carries it: the server listens on its port, and answers pings in time
C{proven}      and through that session its target has been reached, the last time that was tried, not
               longer than C{tunnel.proof_lifetime} ago
C{stale}       a session carries it, and what was known does not hold any more: the last attempt to reach
               its target has failed; or its target was last reached, and last sent a byte, longer ago than
               that; or the server's answer to a ping is late, so that nothing shows that it listens. The
               message says which. The next success makes it C{proven} (or C{listening}) again
C{refused}     the server refused its port; the message says why, and who may hold it
=============  =====================================================================================

The end of its session makes C{listening}, C{proven} and C{stale} C{allocated}; only a refusal outlasts it,
until the port is had, or another one allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pipeops_agent.clock import WallClock, rfc3339
from pipeops_agent.orders import TunnelServer
from pipeops_agent.settings.model_tunnel import TunnelSettings
from pipeops_agent.status import ForwardState, ForwardStatus
from pipeops_agent.tunnel.allocation import PlannedForward
from pipeops_agent.tunnel.holders import PortHolders
from pipeops_agent.tunnel.remotes import Remote
from pipeops_agent.tunnel.session_api import Session
from pipeops_agent.tunnel.traffic import TrafficCounters, moment

_NEVER: Final = float("inf")


class ForwardBook:
    """
    Keeps what is known of each forward, by name, and shows it.

    @param counters: when each forward's target was last reached, and last sent something.
    @param settings: how long a proof holds, and when a ping is late.
    @param changed: called when time alone has changed a state.
    """

    def __init__(
        self,
        clock: IReactorTime,
        wall: WallClock,
        counters: TrafficCounters,
        settings: TunnelSettings,
        changed: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._counters = counters
        self._lifetime = settings.proof_lifetime or _NEVER
        self._late = settings.ping_interval + settings.ping_timeout
        self._changed = changed
        self._timer: IDelayedCall | None = None
        self._planned: tuple[PlannedForward, ...] = ()
        self._refusals: dict[str, tuple[int, str]] = {}
        self._carriers: dict[str, tuple[Session, Remote]] = {}
        self._dials: dict[str, str | None] = {}
        """The last dial of each forward that has had one: None, or why it failed."""
        self._shown: dict[str, ForwardStatus] = {}
        self._holders = PortHolders(wall)

    def plan(self, planned: tuple[PlannedForward, ...]) -> None:
        """These forwards are configured, with these ports. A refusal is over when the port is another."""
        self._planned = planned
        ports = {forward.name: forward.remote_port for forward in planned}
        self._refusals = {
            name: refusal for name, refusal in self._refusals.items() if ports.get(name) == refusal[0]
        }

    def explain(self, server: TunnelServer, remote: Remote, reason: str) -> str:
        """The server's C{reason} for refusing C{remote}, with who may hold the port."""
        return self._holders.explain(server, remote, reason)

    def refuse(self, reasons: Mapping[Remote, str]) -> None:
        """The server does not let us have these."""
        for remote, reason in reasons.items():
            self._refusals[remote.forward] = (remote.remote_port, reason)

    def carry(self, sessions: Iterable[Session]) -> None:
        """These are the sessions now. What was known of a forward's target goes with its session."""
        sessions = tuple(sessions)
        self._holders.carry(sessions)
        carriers = {remote.forward: (session, remote) for session in sessions for remote in session.remotes}
        for name in self._carriers.keys() | carriers.keys():
            before, now = self._carriers.get(name), carriers.get(name)
            if before is None or now is None or before[0] is not now[0]:
                self._dials.pop(name, None)
        for name in carriers:
            self._refusals.pop(name, None)
        self._carriers = carriers

    def dialled(self, name: str, problem: str | None) -> bool:
        """A channel has reached the target of C{name}, or has not, and why; return whether that is news."""
        if name not in self._carriers:
            return False
        known = name in self._dials and self._dials[name] == problem
        self._dials[name] = problem
        shown = self._shown.get(name)
        return not known or (problem is None and shown is not None and shown.state == "stale")

    def statuses(self) -> tuple[ForwardStatus, ...]:
        """All forwards, in the order of the settings, as they are at this moment."""
        now = self._clock.seconds()
        shown = tuple(self._status(forward, now) for forward in self._planned)
        self._shown = {status.name: status for status in shown}
        self._watch(now)
        return shown

    def _status(self, planned: PlannedForward, now: float) -> ForwardStatus:
        state, port, message = self._judge(planned, now)
        before = self._shown.get(planned.name)
        unchanged = before is not None and (before.state, before.remote_port) == (state, port)
        return ForwardStatus(
            name=planned.name,
            local_addr=planned.local_addr,
            state=state,
            since=before.since if before is not None and unchanged else self._wall(),
            remote_port=port,
            message=message,
        )

    def _judge(self, planned: PlannedForward, now: float) -> tuple[ForwardState, int | None, str]:
        """The state, the port and the message of a forward."""
        name, port = planned.name, planned.remote_port
        if name in self._carriers:
            session, remote = self._carriers[name]
            state, message = self._judge_carried(name, session, now)
            return state, remote.remote_port, message
        if name in self._refusals:
            return "refused", port, self._refusals[name][1]
        if port is not None:
            return "allocated", port, "no session carries it"
        return "configured", None, planned.note

    def _judge_carried(self, name: str, session: Session, now: float) -> tuple[ForwardState, str]:
        if now >= session.confirmed + self._late:
            return "stale", f"no ping has been answered since {_shown(session.confirmed)}"
        if name not in self._dials:
            return "listening", "not used yet"
        problem = self._dials[name]
        if problem is not None:
            return "stale", problem
        proof = self._proof(name, now)
        if now >= proof + self._lifetime:
            return "stale", f"its target was last heard of at {_shown(proof)}"
        return "proven", "its target was reached"

    def _proof(self, name: str, now: float) -> float:
        """
        When the target of C{name} last proved to be there: it was reached, or sent something.

        All channels are asked for their last byte only where the last dial alone is no proof any more.
        """
        counters = self._counters.forward(name)
        dialled = counters.last_dial or 0.0
        return dialled if now < dialled + self._lifetime else max(dialled, counters.last_out or 0.0)

    # What time alone does.

    def _watch(self, now: float) -> None:
        """Look again when the first of the proofs is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = min((self._holds_until(name, now) for name in self._carriers), default=_NEVER)
        if due < _NEVER:
            self._timer = self._clock.callLater(max(0.0, due - now), self._look_again)

    def _holds_until(self, name: str, now: float) -> float:
        """When time alone will change the state of a forward that is carried."""
        session, _ = self._carriers[name]
        moments = [session.confirmed + self._late]
        if self._dials.get(name, "") is None:
            moments.append(self._proof(name, now) + self._lifetime)
        return min((due for due in moments if due > now), default=_NEVER)

    def _look_again(self) -> None:
        self._timer = None
        self._changed()


def _shown(seconds: float) -> str:
    at = moment(seconds)
    assert at is not None
    return rfc3339(at)
