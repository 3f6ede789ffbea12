"""
Connecting a TCP socket in the turn of the reactor that asks for it, where the kernel can.

Twisted's C{connectTCP} takes three turns: it begins in the next one, waits until the socket is writable, and
looks again. On loopback, where the agent's targets are, the handshake is over by the time that C{connect}
returns (with EINPROGRESS all the same): asked once more the kernel says so, nothing has to be waited for, and
the socket is handed to the reactor connected. Any other handshake is waited for as Twisted does.
"""

from __future__ import annotations

import os
import socket
from errno import EALREADY, ECONNREFUSED, EINPROGRESS, EISCONN
from typing import Any, Final

from twisted.internet.error import ConnectError, UserError, getConnectError
from twisted.internet.interfaces import IAddress, IProtocol, IReadWriteDescriptor
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure
from zope.interface import implementer

_UNDER_WAY: Final = frozenset((EINPROGRESS, EALREADY))
_CONNECTED: Final = frozenset((0, EISCONN))


def connect_tcp(reactor: Any, host: str, port: int, factory: ClientFactory) -> None:
    """
    Connect to C{host}, an IPv4 or IPv6 address, as C{IReactorTCP.connectTCP} does, without a timeout.

    What is told to C{factory}, in this order: C{startedConnecting} with what can be told C{stopConnecting},
    then either C{buildProtocol} or C{clientConnectionFailed}. All of it may have happened on return.

    @param reactor: C{IReactorFDSet} and C{IReactorSocket}.
    """
    _Attempt(reactor, factory).begin(host, port)


@implementer(IReadWriteDescriptor)
class _Attempt:
    """One socket until it is connected; the reactor knows it only while the handshake is waited for."""

    __slots__ = ("_adopted", "_factory", "_place", "_reactor", "_socket", "_waiting")

    def __init__(self, reactor: Any, factory: ClientFactory) -> None:
        self._reactor = reactor
        self._factory = factory
        self._socket: socket.socket | None = None
        self._waiting = self._adopted = False

    def begin(self, host: str, port: int) -> None:
        """Ask the kernel, and ask it once more."""
        self._factory.startedConnecting(self)  # type: ignore[arg-type]  # all of an IConnector that is used
        try:
            family, self._place = _socket_address(host, port)
            self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._socket.connect_ex(self._place)
        except OSError as error:
            self._fail(error.errno or 0, error.strerror)
            return
        self._look()

    def stopConnecting(self) -> None:  # noqa: N802 - Twisted's
        """Give up, which is a failure too."""
        if self._socket is not None:
            self._end(UserError())

    # -- what the reactor calls while the handshake lasts

    def fileno(self) -> int:
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:  # noqa: N802 - Twisted's
        return "connecting"

    def doWrite(self) -> None:  # noqa: N802 - Twisted's
        self._look()

    def doRead(self) -> None:  # noqa: N802 - Twisted's
        """What had this descriptor before may have been readable."""

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has let go of it: the socket has an error, or everything ends."""
        self._look()
        if self._socket is not None:
            self._end(ConnectError(string=reason.getErrorMessage()))

    # -- how it goes on

    def _look(self) -> None:
        """Ask how the handshake stands: for a socket that is connecting that is what C{connect} tells."""
        if self._socket is None:
            return
        code = self._socket.connect_ex(self._place)
        if code in _UNDER_WAY:
            if not self._waiting:
                self._waiting = True
                self._reactor.addWriter(self)
        elif code in _CONNECTED:
            self._hand_over(self._release())
        else:
            self._fail(code)

    def _hand_over(self, connected: socket.socket) -> None:
        with connected:  # the reactor takes a duplicate
            try:
                if is_own_peer(connected):
                    raise ConnectionRefusedError(ECONNREFUSED, os.strerror(ECONNREFUSED))
                self._reactor.adoptStreamConnection(connected.fileno(), connected.family, self)
            except OSError as error:  # no descriptor is left, or the peer has reset it already
                if self._adopted:
                    raise  # by the protocol: the connection was made, and that is no failure to connect
                self._fail(error.errno or 0, error.strerror)

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        """The reactor has taken the socket: from now on it is the factory's."""
        self._adopted = True
        return self._factory.buildProtocol(addr)

    def _fail(self, code: int, text: str | None = None) -> None:
        self._end(getConnectError((code, text or os.strerror(code))))

    def _end(self, error: Exception) -> None:
        if self._socket is not None:
            self._release().close()
        self._factory.clientConnectionFailed(self, Failure(error))  # type: ignore[arg-type]  # as above

    def _release(self) -> socket.socket:
        assert self._socket is not None
        if self._waiting:
            self._reactor.removeWriter(self)
        released, self._socket = self._socket, None
        return released


def _socket_address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """
    What a socket connects to.

    @raise OSError: the scope of an IPv6 address (C{%eth0}) does not exist.
    """
    if ":" not in host:
        return socket.AF_INET, (host, port)
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return socket.AF_INET6, socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)[0][4]


def is_own_peer(connected: socket.socket) -> bool:
    """
    Whether a socket is connected with itself, so that no target was reached.

    That is what TCP makes (RFC 9293, section 3.5: simultaneous open) of a connection to a local port that
    nobody listens on, where the kernel happens to choose that same port for this side.
    """
    return bool(connected.getsockname() == connected.getpeername())
