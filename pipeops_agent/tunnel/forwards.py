"""
What is known of each forward.

=============  =====================================================================================
C{configured}  in the settings; has no port
C{allocated}   has a port; no session carries it
C{listening}   a session carries it: the server listens on its port
C{proven}      and since that session was opened its target has been reached
C{stale}       and the last attempt to reach its target has failed; the next success makes it proven
C{refused}     the server refused its port; the message has the server's reason
=============  =====================================================================================

The end of its session makes any of the last four C{allocated}; only a refusal outlasts it, until the port is
had, or another one allocated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipeops_agent.clock import WallClock
from pipeops_agent.status import ForwardState, ForwardStatus
from pipeops_agent.tunnel.allocation import PlannedForward
from pipeops_agent.tunnel.remotes import Remote
from pipeops_agent.tunnel.session_api import Session


class ForwardBook:
    """Keeps what is known of each forward, by name, and shows it."""

    def __init__(self, wall: WallClock) -> None:
        self._wall = wall
        self._planned: tuple[PlannedForward, ...] = ()
        self._refusals: dict[str, tuple[int, str]] = {}
        self._carriers: dict[str, tuple[Session, Remote]] = {}
        self._dials: dict[str, str | None] = {}
        """The last dial of each forward that has had one: None, or why it failed."""
        self._shown: dict[str, ForwardStatus] = {}

    def plan(self, planned: tuple[PlannedForward, ...]) -> None:
        """These forwards are configured, with these ports. A refusal is over when the port is another."""
        self._planned = planned
        ports = {forward.name: forward.remote_port for forward in planned}
        self._refusals = {
            name: refusal for name, refusal in self._refusals.items() if ports.get(name) == refusal[0]
        }

    def refuse(self, reasons: Mapping[Remote, str]) -> None:
        """The server does not let us have these."""
        for remote, reason in reasons.items():
            self._refusals[remote.forward] = (remote.remote_port, reason)

    def carry(self, sessions: Iterable[Session]) -> None:
        """These are the sessions now. What was known of a forward's target goes with its session."""
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
        if name not in self._carriers or (name in self._dials and self._dials[name] == problem):
            return False
        self._dials[name] = problem
        return True

    def statuses(self) -> tuple[ForwardStatus, ...]:
        """All forwards, in the order of the settings."""
        shown = tuple(self._status(forward) for forward in self._planned)
        self._shown = {status.name: status for status in shown}
        return shown

    def _status(self, planned: PlannedForward) -> ForwardStatus:
        state, port, message = self._judge(planned)
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

    def _judge(self, planned: PlannedForward) -> tuple[ForwardState, int | None, str]:
        """The state, the port and the message of a forward."""
        name, port = planned.name, planned.remote_port
        if name in self._carriers:
            port = self._carriers[name][1].remote_port
            if name not in self._dials:
                return "listening", port, "not used yet"
            problem = self._dials[name]
            return ("proven", port, "its target was reached") if problem is None else ("stale", port, problem)
        if name in self._refusals:
            return "refused", port, self._refusals[name][1]
        if port is not None:
            return "allocated", port, "no session carries it"
        return "configured", None, planned.note
