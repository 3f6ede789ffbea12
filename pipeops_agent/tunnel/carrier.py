"""
The carrier: one byte stream over the binary messages of a WebSocket (RFC 6455), in either role.

Autobahn does the upgrade; from then on the frames are those of C{frames}, whose cost per frame is a small
part of Autobahn's. Autobahn's own timers are all switched off: they would run on the global reactor;
deadlines are the session's. Whatever goes wrong is kept as one sentence.

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
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITransport
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pipeops_agent.net.websocket import SilentLog, protocol_options
from pipeops_agent.tunnel.frames import BINARY, CLOSE, PING, PONG, FrameError, FrameReader, Payload
from pipeops_agent.tunnel.outbox import Outbox
from pipeops_agent.tunnel.prompt import Write, prompt_writer, tune
from pipeops_agent.tunnel.refusal import explain_close, explain_loss, explain_refusal

_log = Logger(namespace="tunnel.carrier")

SUBPROTOCOL: Final = "chisel-v3"

MAX_MESSAGE: Final = 1024 * 1024
"""The longest message accepted, in bytes: chisel sends one SSH packet in each, of up to 256 KiB."""

MAX_HANDSHAKE: Final = 64 * 1024
"""The most bytes that the answer to the upgrade may have."""

BUFFER: Final = 256 * 1024
"""Bytes read at once from the connection, and those that may wait to be written before all channels pause."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that the peer has to answer a close frame before the connection is cut."""

PROTOCOL_OPTIONS: Final = protocol_options(MAX_MESSAGE)

_NORMAL_CLOSURE: Final = (1000).to_bytes(2, "big")


class CarrierLost(Exception):
    """The WebSocket ended; the text says why."""


class Stream(Protocol):
    """What runs on a carrier: a protocol that can be told to write no more for now."""

    def makeConnection(self, transport: Any) -> None:
        """The upgrade has succeeded: write to C{transport}."""

    def dataReceived(self, data: Payload) -> None:
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


@implementer(IPushProducer)
class _Carrier(TwistedProtocol):
    """What both roles share; it stands before Autobahn's protocol in the class order."""

    log = SilentLog()

    # What Autobahn's protocols bring.
    transport: Any
    factory: Any
    state: int
    data: bytes
    STATE_CONNECTING: int
    wasNotCleanReason: str | None

    def __init__(self, clock: IReactorTime, inner: Stream, owner: CarrierOwner) -> None:
        super().__init__()
        self._clock = clock
        self._inner = inner
        self._owner = owner
        self._frames: FrameReader | None = None
        self._outbox: Outbox
        self._write: Write
        self._cut: IDelayedCall | None = None
        self._problem: str | None = None
        self._said_close = self._closed = self._failed = self._lost = False
        self._full = False
        self._unanswered: bytes | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.last_received = clock.seconds()

    # -- what Twisted and Autobahn call

    def dataReceived(self, data: bytes) -> None:
        self.bytes_in += len(data)
        self.last_received = self._clock.seconds()
        if self._frames is not None:
            self._receive_frames(self._frames, data)
        else:
            self._receive_handshake(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # no default here
        self._lost = True
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None
        super().connectionLost(reason)
        sentence = self._problem or explain_loss(reason) or self.wasNotCleanReason or "the peer closed it"
        try:
            if self._frames is not None:
                self._inner.connectionLost(Failure(CarrierLost(sentence)))
        finally:  # whatever happens above: a loss that nobody hears of would be a tunnel dead for ever
            self._owner.carrier_lost(CarrierLost(sentence))

    def onOpen(self) -> None:
        """Take over from Autobahn, with what it has read beyond the upgrade."""
        early, self.data = self.data, b""
        self._frames = frames = FrameReader(masked=self.factory.isServer, limit=MAX_MESSAGE)
        self._outbox = Outbox(self.send_frames, masked=not self.factory.isServer)
        self._write = prompt_writer(self.transport)
        tune(self.transport, BUFFER)
        self.transport.registerProducer(self, True)
        self._inner.makeConnection(CarrierTransport(self, self._outbox))
        self._owner.carrier_open()
        if early:
            self._receive_frames(frames, early)

    # -- in

    def _receive_handshake(self, data: bytes) -> None:
        try:
            super().dataReceived(data)
        except Exception as error:
            if self._frames is not None:  # it was open already: not Autobahn's parser, but we
                self._own_mistake(error)
                return
            # Autobahn's parser of the handshake raises on what is no HTTP, among others.
            _log.debug("the carrier's peer does not speak WebSocket")
            self.fail("the peer's answer is not HTTP")
            return
        if self.state == self.STATE_CONNECTING and len(self.data) > MAX_HANDSHAKE:
            self.fail("the peer's answer to the upgrade does not end")

    def _receive_frames(self, frames: FrameReader, data: bytes) -> None:
        if self._given_up():
            return
        try:
            for opcode, payload in frames.feed(data):
                if opcode == BINARY:
                    self._inner.dataReceived(payload)
                else:
                    self._receive_control(opcode, bytes(payload))
                if self._given_up():
                    return
        except FrameError as error:
            self.fail(f"the peer breaks the rules of WebSockets: {error}")
        except Exception as error:
            self._own_mistake(error)

    def _given_up(self) -> bool:
        """Whether nothing that comes matters any more."""
        return self._failed or self._closed

    def _own_mistake(self, error: Exception) -> None:
        _log.failure("a carrier was cut because of a mistake of our own")
        self.fail(f"an internal error ({type(error).__name__}); the log has more")

    def _receive_control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self._answer(payload)
        elif opcode == PONG:
            self._owner.carrier_pong()
        elif opcode == CLOSE:
            self._receive_close(payload)
        else:
            self.fail("the peer sent text, where only binary messages are allowed")

    def _receive_close(self, payload: bytes) -> None:
        """Answer a close frame (RFC 6455, section 5.5.1). The server ends the connection, soon (7.1.1)."""
        if self._problem is None:
            self._problem = explain_close(payload)
        if not self._said_close:
            self._say_close(payload[:2] if len(payload) > 1 else b"")
        self._closed = True
        if self.factory.isServer:
            self.transport.loseConnection()
        self._cut_soon()

    def _answer(self, payload: bytes) -> None:
        if self._full:
            self._unanswered = payload
        else:
            self._send(PONG, payload)

    # -- what the TCP connection calls

    def pauseProducing(self) -> None:
        self._full = True
        if self._frames is not None:
            self._inner.pauseProducing()

    def resumeProducing(self) -> None:
        self._full = False
        payload, self._unanswered = self._unanswered, None
        if payload is not None:
            self._answer(payload)
        self._inner.resumeProducing()

    def stopProducing(self) -> None:
        """The connection is gone; L{connectionLost} says so too."""

    # -- what the session and the transport above call

    def ping(self) -> None:
        """Send a ping; L{CarrierOwner.carrier_pong} hears the answer."""
        self._send(PING, b"")

    def close(self) -> None:
        """Say goodbye, and cut the connection where the peer does not answer in time."""
        if not self._lost:
            self._cut_soon()
            self._say_close(_NORMAL_CLOSURE)

    def fail(self, sentence: str) -> None:
        """Cut the connection at once because of C{sentence}."""
        self._failed = True
        if self._problem is None:
            self._problem = sentence
        if not self._lost:
            self.transport.abortConnection()

    # -- out

    def _send(self, opcode: int, payload: bytes) -> None:
        """Send a control frame."""
        if self._frames is not None:
            self._outbox.room(len(payload), opcode)[:] = payload
            self._outbox.flush()

    def send_frames(self, frames: memoryview) -> None:
        """Send what the outbox holds; nothing follows a close frame."""
        if not (self._said_close or self._failed or self._lost):
            self.bytes_out += len(frames)
            self._write(frames)

    def _say_close(self, payload: bytes) -> None:
        self._send(CLOSE, payload)
        self._said_close = True

    def _cut_soon(self) -> None:
        if self._cut is None and not self._lost:
            self._cut = self._clock.callLater(CLOSE_TIMEOUT, self._cut_off)

    def _cut_off(self) -> None:
        self._cut = None
        self.transport.abortConnection()


class ClientCarrier(_Carrier, WebSocketClientProtocol):  # type: ignore[misc]  # Autobahn's attributes
    """The agent's side; L{client_factory} makes it."""

    def failHandshake(self, reason: str) -> None:
        """Keep what a person needs to understand why the upgrade was refused."""
        self.fail(explain_refusal(self.data, reason))


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
    factory.log = SilentLog()
    factory.noisy = False
    factory.setProtocolOptions(serverConnectionDropTimeout=0, **PROTOCOL_OPTIONS)
    factory.protocol = make
    return factory


@implementer(ITransport)
class CarrierTransport:
    """
    The carrier as the transport of what runs on it.

    @ivar room: L{Outbox.room}: for who fills a message in its place.
    @ivar flush: L{Outbox.flush}, after that.
    """

    def __init__(self, carrier: _Carrier, outbox: Outbox) -> None:
        self._carrier = carrier
        self.room = outbox.room
        self.flush = outbox.flush

    def write(self, data: bytes) -> None:
        self.room(len(data))[:] = data
        self.flush()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self._carrier.close()

    def abortConnection(self) -> None:
        self._carrier.fail("cut by this side")

    def getPeer(self) -> Any:
        return self._carrier.transport.getPeer()

    def getHost(self) -> Any:
        return self._carrier.transport.getHost()
