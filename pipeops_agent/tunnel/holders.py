"""Who holds a port that the server refuses: which of our own sessions had it, and a guess in a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pipeops_agent.clock import WallClock, rfc3339
from pipeops_agent.orders import TunnelServer
from pipeops_agent.tunnel.remotes import Remote, named_ports
from pipeops_agent.tunnel.session_api import Session

MAX_REMEMBERED: Final = 256
"""Ports of sessions that have ended which are remembered; allocations come from outside."""

_Place = tuple[str, int, int]
"""A server's host and port, and a port that it listens on for us."""


class PortHolders:
    """Remembers the ports of our sessions, those that serve and those that have ended."""

    def __init__(self, wall: WallClock) -> None:
        self._wall = wall
        self._held: dict[_Place, str] = {}
        self._ended: dict[_Place, str] = {}

    def carry(self, sessions: Iterable[Session]) -> None:
        """These are the sessions now."""
        held = {
            _place(session.server, remote.remote_port): session.server.address.url
            for session in sessions
            for remote in session.remotes
        }
        for place in self._held.keys() - held.keys():
            self._ended.pop(place, None)
            self._ended[place] = rfc3339(self._wall())
        for place in held:
            self._ended.pop(place, None)
        while len(self._ended) > MAX_REMEMBERED:
            del self._ended[next(iter(self._ended))]
        self._held = held

    def explain(self, server: TunnelServer, remote: Remote, reason: str) -> str:
        """
        Why C{server} does not give C{remote} its port: which that is, who may hold it, what helps.

        The moment at which a session ended is told rather than how long ago that is, since the sentence is
        kept, shown, and compared with the one of the next attempt.

        @param reason: the server's own words. Where they name other ports than this one nothing is guessed.
        """
        sentence = f"port {remote.remote_port} for {remote.forward}: {reason}"
        if remote.remote_port not in named_ports(reason):
            return sentence
        return f"{sentence} ({self._guess(server, remote.remote_port, reason)})"

    def _guess(self, server: TunnelServer, port: int, reason: str) -> str:
        if "denied" in reason:
            return (
                "the server's rules do not give this port to our user: the control plane has to allocate"
                " one that they allow"
            )
        place = _place(server, port)
        if place in self._held:
            return "another session of this agent holds it, and gives it up when it ends"
        ended = self._ended.get(place)
        if ended is not None:
            return (
                f"held, it seems, by our own session that ended at {ended}, until the server notices that:"
                " it is asked for again"
            )
        for (_, _, other), url in self._held.items():
            if other == port:
                return f"held by our session to {url}, should that be the same server by another name"
        return (
            "held by somebody else: an earlier run of this agent, which the server has not given up yet;"
            " another agent with the same allocation; or another program on the server. It is asked for again"
        )


def _place(server: TunnelServer, port: int) -> _Place:
    return server.address.host.lower(), server.address.port, port
