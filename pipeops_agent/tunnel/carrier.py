"""
The carrier: one byte stream over the binary messages of a WebSocket (RFC 6455), in either role.

Autobahn does the WebSocket. Its own timers are all switched off: they would run on the global
reactor; deadlines are the session's. Whatever it says about its troubles is kept as one sentence.

A carrier is the push producer of its TCP connection, and passes pauses on to what runs on it. While
it is paused a ping is not answered but remembered, the last one only (RFC 6455, section 5.5.3): a peer
that sends pings and reads nothing must not fill the memory with answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerProtocol,
)
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.interfaces import (
    IDelayedCall,
    IPushProducer,
    IReactorTime,
    ITransport,
)
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_log = Logger(namespace="tunnel.carrier")

SUBPROTOCOL: Final = "chisel-v3"

MAX_MESSAGE: Final = 1024 * 1024
"""The longest message accepted, in bytes: chisel sends one SSH packet in each, of up to 256 KiB."""

MAX_HANDSHAKE: Final = 64 * 1024
"""The most bytes that the answer to the upgrade may have."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that the peer has to answer a close frame before the connection is cut."""

PROTOCOL_OPTIONS: Final[dict[str, Any]] = {
    "maxFramePayloadSize": MAX_MESSAGE,
    "maxMessagePayloadSize": MAX_MESSAGE,
    "openHandshakeTimeout": 0,
    "closeHandshakeTimeout": 0,
    "autoPingInterval": 0,
    "autoPingTimeout": 0,
    "failByDrop": True,
    "tcpNoDelay": True,
}
"""Limits, and no timer that is not ours."""


class CarrierLost(Exception):
    """The WebSocket ended; the text says why."""


class Stream(Protocol):
    """What runs on a carrier: a protocol that can be told to write no more for now."""

    def makeConnection(self, transport: Any) -> None:
        """The upgrade has succeeded: write to C{transport}."""

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come."""

    def connectionLost(self, reason: Failure) -> None:
        """The carrier is gone."""

    def pauseProducing(self) -> None:
        """The TCP connection takes no more."""

    def resumeProducing(self) -> None:
        """It does again."""


class CarrierOwner(Protocol):
    """Who is told of a carrier's life."""

    def carrier_open(self) -> None:
        """The upgrade has succeeded; bytes may flow."""

    def carrier_lost(self, error: CarrierLost) -> None:
        """The carrier is gone; said once."""

    def carrier_pong(self) -> None:
        """The peer answered a ping."""


class _Silent:
    """Takes Autobahn's own records: what matters in them is said by the session, once."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


@implementer(IPushProducer)
class _Carrier(TwistedProtocol):
    """What both roles share; it stands before Autobahn's protocol in the class order."""

    log = _Silent()

    # What Autobahn's protocols bring.
    transport: Any
    state: int
    data: bytes
    STATE_OPEN: int
    STATE_CONNECTING: int
    wasNotCleanReason: str | None
    sendMessage: Callable[..., None]
    sendPing: Callable[..., None]
    sendPong: Callable[..., None]
    sendClose: Callable[..., None]

    def __init__(self, clock: IReactorTime, inner: Stream, owner: CarrierOwner) -> None:
        super().__init__()
        self._clock = clock
        self._inner = inner
        self._owner = owner
        self._cut: IDelayedCall | None = None
        self._problem: str | None = None
        self._was_open = False
        self._lost = False
        self._full = False
        self._unanswered: bytes | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.last_received = clock.seconds()

    # -- what Twisted and Autobahn call

    def dataReceived(self, data: bytes) -> None:
        self.bytes_in += len(data)
        self.last_received = self._clock.seconds()
        try:
            super().dataReceived(data)
        except Exception as error:
            if self.state != self.STATE_CONNECTING:
                _log.failure("a carrier was cut because of a mistake of our own")
                self.fail(f"an internal error ({type(error).__name__}); the log has more")
                return
            # Autobahn's parser of the handshake raises on what is no HTTP, among others.
            _log.debug("the carrier's peer does not speak WebSocket")
            self.fail("the peer's answer is not HTTP")
        if self.state == self.STATE_CONNECTING and len(self.data) > MAX_HANDSHAKE:
            self.fail("the peer's answer to the upgrade does not end")

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # no default here
        self._lost = True
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None
        super().connectionLost(reason)
        sentence = self._problem or self.wasNotCleanReason or "the peer closed it"
        if self._was_open:
            self._inner.connectionLost(Failure(CarrierLost(sentence)))
        self._owner.carrier_lost(CarrierLost(sentence))

    def onOpen(self) -> None:
        self._was_open = True
        self.transport.registerProducer(self, True)
        self._inner.makeConnection(_CarrierTransport(self))
        self._owner.carrier_open()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self._problem is not None:
            return  # given up; Autobahn goes on with what had come already
        if isBinary:
            self._inner.dataReceived(payload)
        else:
            self.fail("the peer sent text, where only binary messages are allowed")

    def onPing(self, payload: bytes) -> None:
        if self._full:
            self._unanswered = payload
        elif self.state == self.STATE_OPEN:
            self.sendPong(payload)

    def onPong(self, payload: bytes) -> None:
        self._owner.carrier_pong()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if wasClean and self._problem is None:
            detail = f" with code {code}" if code is not None else ""
            self._problem = f"the peer closed the WebSocket{detail}" + (
                f" ({_shown(reason)})" if reason else ""
            )

    # -- what the TCP connection calls

    def pauseProducing(self) -> None:
        self._full = True
        if self._was_open:
            self._inner.pauseProducing()

    def resumeProducing(self) -> None:
        self._full = False
        payload, self._unanswered = self._unanswered, None
        if payload is not None:
            self.onPing(payload)
        self._inner.resumeProducing()

    def stopProducing(self) -> None:
        """The connection is gone; L{connectionLost} says so too."""

    # -- what the session and the transport above call

    def write(self, data: bytes) -> None:
        """Send C{data} as one binary message."""
        if self.state == self.STATE_OPEN:
            self.bytes_out += len(data)
            self.sendMessage(data, isBinary=True)

    def ping(self) -> None:
        """Send a ping; L{CarrierOwner.carrier_pong} hears the answer."""
        if self.state == self.STATE_OPEN:
            self.sendPing(b"")

    def close(self) -> None:
        """Say goodbye, and cut the connection where the peer does not answer in time."""
        if self._cut is None and not self._lost:
            self._cut_soon()
            self.sendClose(1000)

    def _cut_soon(self) -> None:
        if self._cut is None and not self._lost:
            self._cut = self._clock.callLater(CLOSE_TIMEOUT, self._cut_off)

    def fail(self, sentence: str) -> None:
        """Cut the connection at once because of C{sentence}."""
        if self._problem is None:
            self._problem = sentence
        self.transport.abortConnection()

    def _cut_off(self) -> None:
        self._cut = None
        self.transport.abortConnection()


class ClientCarrier(_Carrier, WebSocketClientProtocol):  # type: ignore[misc]  # Autobahn's attributes
    """The agent's side; L{client_factory} makes it."""

    def onCloseFrame(self, code: Any, reasonRaw: Any) -> bool | None:
        """The server is to close the connection now (RFC 6455, section 7.1.1), and soon."""
        failed: bool | None = super().onCloseFrame(code, reasonRaw)
        self._cut_soon()
        return failed

    def failHandshake(self, reason: str) -> None:
        """Keep what a person needs to understand why the upgrade was refused."""
        self._problem = explain_refusal(self.data, reason)
        self.transport.abortConnection()


class ServerCarrier(_Carrier, WebSocketServerProtocol):  # type: ignore[misc]  # as above
    """The chisel server's side, for the sandbox."""

    def onConnect(self, request: ConnectionRequest) -> str:
        if SUBPROTOCOL not in request.protocols:
            raise ConnectionDeny(404, "not found")
        return SUBPROTOCOL


def client_factory(clock: Any, url: str, user_agent: str, make: Callable[[], ClientCarrier]) -> Any:
    """
    A factory for one L{ClientCarrier} to C{url}.

    @param clock: the reactor; Autobahn wants it whole, uses its time only.
    """
    factory: Any = WebSocketClientFactory(url, protocols=[SUBPROTOCOL], useragent=user_agent, reactor=clock)
    factory.log = _Silent()
    factory.noisy = False
    factory.setProtocolOptions(serverConnectionDropTimeout=0, **PROTOCOL_OPTIONS)
    factory.protocol = make
    return factory


def explain_refusal(answer: bytes, reason: str) -> str:
    """
    A sentence about a refused upgrade: status, C{Location}, C{Server}, the body's first line, a guess.

    @param answer: what has come of the HTTP answer.
    @param reason: Autobahn's word for it, for an answer that is no refusal but wrong.
    """
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    code = status.split(" ")[1] if status.startswith("HTTP/") and " " in status else ""
    if not code or code == "101":
        return f"the upgrade to a WebSocket failed: {_shown(reason)}"
    headers = {
        name.strip().lower(): value.strip()
        for name, colon, value in (line.partition(":") for line in lines)
        if colon
    }
    parts = [f"the server answered the upgrade with {_shown(status.partition(' ')[2])}"]
    parts += [f"{name} {_shown(headers[name])}" for name in ("location", "server") if name in headers]
    first = body.decode("utf-8", "replace").strip().partition("\n")[0].strip()
    if first:
        parts.append(f"body begins {_shown(first)!r}")
    guess = _GUESSES.get(code, "")
    return ", ".join(parts) + (f" ({guess})" if guess else "")


_GUESSES: Final = {
    "301": "a redirect is not followed: set the address it names",
    "302": "a redirect is not followed: set the address it names",
    "307": "a redirect is not followed: set the address it names",
    "308": "a redirect is not followed: set the address it names",
    "200": "something on the way does not pass WebSockets",
    "400": "something on the way does not pass WebSockets",
    "404": "no chisel server at this path, or an ingress that does not pass WebSockets",
    "502": "the chisel server behind a proxy is down",
    "503": "the chisel server behind a proxy is down",
    "504": "the chisel server behind a proxy does not answer",
}


def _shown(text: str) -> str:
    """What a peer said: bounded and printable."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:200])


@implementer(ITransport)
class _CarrierTransport:
    """The carrier as the transport of what runs on it."""

    def __init__(self, carrier: _Carrier) -> None:
        self._carrier = carrier

    def write(self, data: bytes) -> None:
        self._carrier.write(data)

    def writeSequence(self, data: Any) -> None:
        self._carrier.write(b"".join(data))

    def loseConnection(self) -> None:
        self._carrier.close()

    def abortConnection(self) -> None:
        self._carrier.fail("cut by this side")

    def getPeer(self) -> Any:
        return self._carrier.transport.getPeer()

    def getHost(self) -> Any:
        return self._carrier.transport.getHost()
