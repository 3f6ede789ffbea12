"""What the policy needs of a session: the seam between "when to connect" and "how"."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

import msgspec
from twisted.internet.defer import Deferred

from pipeops_agent.net.trace import Trace
from pipeops_agent.orders import ServerAddress, TunnelServer
from pipeops_agent.tunnel.remotes import Remote


class Session(Protocol):
    """One SSH connection to a chisel server that has accepted its configuration and answered a ping."""

    @property
    def remotes(self) -> tuple[Remote, ...]:
        """What it carries."""

    @property
    def server(self) -> TunnelServer:
        """Where it leads."""

    @property
    def confirmed(self) -> float:
        """The clock's seconds when the server last proved to be there: its configuration, or a ping."""

    @property
    def rtt(self) -> float | None:
        """The round trip of the last ping, in seconds."""

    @property
    def channels(self) -> int:
        """How many connections it carries now, with those that are being made."""

    def last_activity(self) -> float:
        """The clock's seconds at the last byte on a channel; at the opening, before the first."""

    def when_lost(self) -> Deferred[str]:
        """Fires once with a sentence when the session has ended, for any reason; one Deferred per call."""

    def close(self, why: str) -> Deferred[None]:
        """End it, in bounded time; the result fires when it has ended. A second call waits for the first."""

    def abort(self, why: str) -> None:
        """End it now, without a word to the server, also where L{close} has been called."""


class Target(msgspec.Struct, frozen=True):
    """Where a session shall lead, and what it shall carry."""

    server: TunnelServer
    remotes: tuple[Remote, ...]

    @property
    def ports(self) -> frozenset[int]:
        """The server's ports that a session to this target binds."""
        return frozenset(remote.remote_port for remote in self.remotes)

    def collides_with(self, other: Target) -> bool:
        """Whether sessions to both can't be there at once: the same server, and a port of both."""
        return self.listener == other.listener and not self.ports.isdisjoint(other.ports)

    @property
    def listener(self) -> tuple[str, int]:
        """What tells one server from another: the address, whatever path or protection."""
        address: ServerAddress = self.server.address
        return (address.host.lower(), address.port)


class Opener(Protocol):
    """Opens sessions."""

    def __call__(
        self, server: TunnelServer, remotes: tuple[Remote, ...], trace: Trace, *, hurried: bool
    ) -> Awaitable[Session]:
        """
        Open one that carries exactly C{remotes}. Cancelling ends the attempt and leaves nothing behind.

        @param hurried: give up soon on an address that does not answer: another attempt follows at once.
        @raise SessionError: it can't be opened; C{RemotesRefused}, where it is the remotes that can't be had.
        """
