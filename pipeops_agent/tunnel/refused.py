"""A session with as many forwards as the server lets us have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from pipeops_agent.tunnel.errors import RemotesRefused
from pipeops_agent.tunnel.remotes import Remote
from pipeops_agent.tunnel.session_api import Session


class Opened(msgspec.Struct, frozen=True):
    """A session, and why each of the remotes that it does not carry was left out."""

    session: Session
    refused: Mapping[Remote, str]


async def open_most(
    open_session: Callable[[tuple[Remote, ...]], Awaitable[Session]],
    remotes: tuple[Remote, ...],
    turn: int,
    explain: Callable[[Remote, str], str] = lambda remote, reason: reason,
) -> Opened:
    """
    Open a session that carries C{remotes}, or those of them that the server does not refuse.

    A server takes or refuses a configuration as a whole. chisel's reason names the first port that it can't
    have; that forward is left out and the others are asked for again, at once: at most one attempt per
    forward, each a session of its own. Where the reason names none of the ports asked for, one forward is
    tried alone, another in each C{turn}: a single bad one can't keep the others out for ever, and a server
    that refuses everything is not asked more than twice in a row.

    @param explain: makes of a remote, and the server's reason, what is told of it.
    @raise RemotesRefused: all are refused; C{ports} are those of all of C{remotes}.
    @raise SessionError: no answer; the attempt is over.
    """
    refused: dict[Remote, str] = {}
    wanted = remotes
    while True:
        try:
            return Opened(await open_session(wanted), refused)
        except RemotesRefused as error:
            named = {remote for remote in wanted if remote.remote_port in error.ports}
            if named:
                left = tuple(remote for remote in wanted if remote not in named)
            elif len(wanted) > 1:
                left = (wanted[turn % len(wanted)],)
            else:
                left = ()
            for remote in wanted:
                if remote not in left:
                    refused[remote] = explain(remote, error.sentence)
            wanted = left
            if not wanted:
                raise AllRefused(_summary(refused), refused) from None


def _summary(reasons: Mapping[Remote, str]) -> str:
    """One sentence for all: the first reason, and how many more there are."""
    first, *others = dict.fromkeys(reasons.values())
    return f"{first}; and {len(others)} more" if others else first


class AllRefused(RemotesRefused):
    """
    None of the forwards can be had.

    @ivar reasons: why, for each of them.
    """

    def __init__(self, reason: str, reasons: Mapping[Remote, str]) -> None:
        super().__init__(reason, frozenset(remote.remote_port for remote in reasons))
        self.reasons = reasons
