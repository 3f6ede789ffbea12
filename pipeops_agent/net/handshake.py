"""A stand-in for the application's protocol until the TLS handshake is done."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import IAddress, IHandshakeListener, IProtocol, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IHandshakeListener)
class Handshake(Protocol):
    """
    Waits for the handshake, then gives its place to the application's protocol.

    A TLS transport tells its protocol of the connection before the handshake; an endpoint that
    fired then would call a server connected whose certificate has not been seen.
    """

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory
        self._outcome: Deferred[None] = Deferred(lambda _: self._carrier.abortConnection())

    @property
    def _carrier(self) -> TLSMemoryBIOProtocol:
        carrier: Any = self.transport
        assert isinstance(carrier, TLSMemoryBIOProtocol)
        return carrier

    def completed(self) -> Deferred[None]:
        """Fires once, when the handshake is done, or fails with why the connection was lost."""
        return self._outcome

    def handshakeCompleted(self) -> None:  # noqa: N802  # IHandshakeListener's name
        """See L{IHandshakeListener}."""
        if not self._outcome.called:
            self._outcome.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection ended before the handshake did."""
        if not self._outcome.called:
            self._outcome.errback(reason)

    def hand_over(self) -> IProtocol:
        """
        Let the application's protocol take over, and return it.

        Called from within L{handshakeCompleted}, so that no byte that follows the handshake is lost.

        @raise NoProtocol: the factory makes none.
        """
        carrier = self._carrier
        try:
            protocol = self._factory.buildProtocol(carrier.getPeer())
            if protocol is None:
                raise NoProtocol
            carrier.wrappedProtocol = protocol
            protocol.makeConnection(carrier)
        except BaseException:
            carrier.wrappedProtocol = self
            carrier.abortConnection()
            raise
        return protocol


class HandshakeFactory(Factory):
    """Makes a L{Handshake} per connection, in front of the application's factory."""

    noisy = False

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory

    def doStart(self) -> None:
        """See L{IProtocolFactory}."""
        self._factory.doStart()

    def doStop(self) -> None:
        """See L{IProtocolFactory}."""
        self._factory.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Handshake:
        """See L{IProtocolFactory}."""
        return Handshake(self._factory)
