"""A stand-in for what runs on a connection until a proxy has made it."""

from __future__ import annotations

from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, ITransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure

from pipeops_agent.net.connect_proxy import ConnectExchange
from pipeops_agent.net.problems import ProxyRefusal
from pipeops_agent.net.socks5 import Socks5Exchange
from pipeops_agent.settings.proxy_url import Proxy


class Exchange(Protocol):
    """What is said to a proxy, and heard: L{ConnectExchange}, L{Socks5Exchange}."""

    done: bool
    rest: bytes

    def begin(self) -> bytes:
        """What is said first."""

    def feed(self, data: bytes) -> bytes:
        """Take in C{data}; return what is to be said next. @raise ProxyRefusal: it is over."""


def exchange_with(proxy: Proxy, host: str, port: int) -> Exchange:
    """
    What asks C{proxy} for a connection to C{host}, as it is named.

    @raise UnicodeError: C{host} is no host name.
    """
    kind = Socks5Exchange if proxy.scheme == "socks5" else ConnectExchange
    return kind(host, port, proxy.credentials)


class ProxyRelay(TwistedProtocol):
    """Talks to the proxy, then gives its place to the protocol of another factory."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._next: IProtocol | None = None
        self._outcome: Deferred[None] = Deferred(lambda _: self._abort())

    def connectionMade(self) -> None:
        """The proxy is reached: ask it."""
        self._write(self._exchange.begin())

    def completed(self) -> Deferred[None]:
        """
        Fires once, when the target is reached.

        @raise ProxyRefusal: through the result. It may fail with the loss of the connection, too.
        """
        return self._outcome

    def dataReceived(self, data: bytes) -> None:
        """The proxy's words, later the target's."""
        if self._next is not None:
            self._next.dataReceived(data)
        elif not self._outcome.called:
            self._hear(data)

    def _hear(self, data: bytes) -> None:
        try:
            self._write(self._exchange.feed(data))
        except ProxyRefusal as refusal:
            self._abort()
            self._outcome.errback(refusal)
            return
        if not self._exchange.done:
            return
        self._outcome.callback(None)
        if self._next is not None and self._exchange.rest:
            self._next.dataReceived(self._exchange.rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection ended, before the proxy was done or after."""
        if self._next is not None:
            self._next.connectionLost(reason)
        elif not self._outcome.called:
            self._outcome.errback(reason)

    def hand_over(self, factory: IProtocolFactory) -> IProtocol:
        """
        Let a protocol of C{factory} take over, and return it.

        Called from within the callbacks of L{completed}, so that no byte of the target's is lost.

        @raise NoProtocol: the factory makes none.
        """
        transport = cast(ITransport, self.transport)
        try:
            protocol = factory.buildProtocol(transport.getPeer())
            if protocol is None:
                raise NoProtocol
            self._next = protocol
            protocol.makeConnection(transport)
        except BaseException:
            self._next = None
            self._abort()
            raise
        return protocol

    def _write(self, data: bytes) -> None:
        if data:
            cast(ITransport, self.transport).write(data)

    def _abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()


class ProxyFactory(Factory):
    """Makes the L{ProxyRelay} of one connection."""

    noisy = False

    def __init__(self, proxy: Proxy, host: str, port: int) -> None:
        """@raise UnicodeError: C{host} is no host name."""
        self._exchange = lambda: exchange_with(proxy, host, port)
        self._exchange()

    def buildProtocol(self, addr: IAddress | None) -> ProxyRelay:
        """See L{IProtocolFactory}."""
        return ProxyRelay(self._exchange())
