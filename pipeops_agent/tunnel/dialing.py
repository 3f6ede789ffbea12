"""Dialling a target: its addresses in turn, all of it within one deadline, and given up at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Final
from typing import Protocol as Interface

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IConnector, IDelayedCall, IReactorTime
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure

from pipeops_agent.net.resolver import Address, Resolver
from pipeops_agent.own_sockets import OwnSockets
from pipeops_agent.scheduling import DeadlineExceeded

_LOOPBACK: Final = ("127.0.0.1", "::1")
"""What C{localhost} is, without asking: a look-up for each connection would cost a thread."""

Connect = Callable[[str, int, ClientFactory], object]
"""As C{IReactorTCP.connectTCP}, for a literal address; it may come to its end before it returns."""


class DialOwner(Interface):
    """Who wants a connection. One of these is called, once, perhaps before L{Dialer.dial} returns."""

    def dialled(self) -> Protocol:
        """Return the protocol for the connection, which is there."""

    def dial_failed(self, error: BaseException) -> None:
        """No address could be reached, in time; C{error} is what the last one said."""


class Dialer:
    """
    Makes connections to local targets; never through a proxy.

    @ivar sockets: what is known of them, for the agent's own interface; by default nobody else asks.
    """

    def __init__(
        self, clock: IReactorTime, resolver: Resolver, connect: Connect, sockets: OwnSockets | None = None
    ) -> None:
        self._clock = clock
        self._resolver = resolver
        self._connect = connect
        self.sockets = OwnSockets(clock) if sockets is None else sockets

    def dial(self, host: str, port: int, owner: DialOwner, timeout: float) -> Dial:
        """Connect to the first address of C{host} that answers, within C{timeout} seconds."""
        dial = Dial(self._connect, port, owner)
        known = _known_addresses(host)
        if known is not None:
            dial.try_each(known)
        else:
            dial.look_up(self._resolver.resolve(host, port))
        dial.limit(self._clock, timeout, f"connecting to {host}")
        return dial


class Dial(ClientFactory):
    """One dial; a factory for the one connection that comes of it."""

    noisy = False

    def __init__(self, connect: Connect, port: int, owner: DialOwner) -> None:
        self._connect = connect
        self._port = port
        self._owner: DialOwner | None = owner
        self._addresses: Iterator[str] = iter(())
        self._give_up: Callable[[], object] = _nothing
        self._timer: IDelayedCall | None = None

    def look_up(self, looking: Deferred[list[Address]]) -> None:
        """Try the addresses that C{looking} will fire with."""
        self._give_up = looking.cancel
        looking.addCallbacks(lambda found: self.try_each(address.host for address in found), self._failed)

    def try_each(self, addresses: Iterable[str]) -> None:
        """Try these addresses, at least one, until one answers."""
        self._addresses = iter(addresses)
        self._try(next(self._addresses))

    def limit(self, clock: IReactorTime, seconds: float, what: str) -> None:
        """Give it so many seconds from now, unless it has ended already."""
        if self._owner is not None:
            self._timer = clock.callLater(seconds, self._expire, f"{what} took longer than {seconds:g} s")

    def cancel(self) -> None:
        """Give up; the owner hears no more of it."""
        if self._owner is not None:
            give_up = self._give_up
            self._end()
            give_up()

    def _try(self, address: str) -> None:
        self._connect(address, self._port, self)

    def _failed(self, reason: Failure) -> None:
        if self._owner is None:
            return  # it was given up, and this is what came of that
        assert reason.value is not None
        address = next(self._addresses, None)
        if address is None:
            self._end().dial_failed(reason.value)
        else:
            self._try(address)

    def _expire(self, message: str) -> None:
        self._timer = None
        give_up = self._give_up
        owner = self._end()
        give_up()
        owner.dial_failed(DeadlineExceeded(message))

    def _end(self) -> DialOwner:
        """Let go of everything; return the owner, who is told nothing later than now."""
        assert self._owner is not None
        owner, self._owner = self._owner, None
        self._give_up = _nothing
        if self._timer is not None:
            self._timer.cancel()
        return owner

    # -- as a factory

    def startedConnecting(self, connector: IConnector) -> None:  # noqa: N802 - Twisted's
        self._give_up = connector.stopConnecting

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        return None if self._owner is None else self._end().dialled()

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:  # noqa: N802 - Twisted's
        self._failed(reason)


def _nothing() -> None:
    """There is nothing to give up yet."""


@lru_cache(maxsize=256)
def _known_addresses(host: str) -> tuple[str, ...] | None:
    """The addresses of C{host} that are known without a look-up; None: it needs one."""
    if isIPAddress(host) or isIPv6Address(host):
        return (host,)
    return _LOOPBACK if host == "localhost" else None
