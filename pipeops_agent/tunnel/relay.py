"""
The relay: one channel joined with one TCP connection, each the mirror of the other.

Either side's data, EOF and end become the other's, and either side's slowness slows the other: a
local socket that takes no more keeps the channel's window shut; a channel that takes no more stops
the reading of the local socket. What is held in between is bounded by the window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from pipeops_agent.tunnel.prompt import Write, close_now, prompt_writer, tune
from pipeops_agent.tunnel.reading import Reading
from pipeops_agent.tunnel.ssh.channel import Channel
from pipeops_agent.tunnel.traffic import ChannelTally

LINGER: Final = 120.0
"""Seconds that the TCP peer has to take what was sent before the end, once the channel is gone."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class Relay(Protocol):
    """
    The protocol of the TCP connection, and the handler of the channel.

    While it has no channel the TCP connection is not read.

    @param tally: what it carries is added there.
    @param reading: how much it may read at once.
    @param ended: called once, when both sides are gone.
    @param reached: called when the TCP connection is there; it may L{attach} the channel.
    """

    transport: Any

    def __init__(
        self,
        clock: IReactorTime,
        tally: ChannelTally,
        reading: Reading,
        ended: Callable[[Relay], None],
        reached: Callable[[Relay], None] | None = None,
    ) -> None:
        self._clock = clock
        self.tally = tally
        self._reading = reading
        self._piece = 0
        self._ended = ended
        self._reached = reached
        self._channel: Channel | None = None
        self._write: Write
        self._held = 0
        self._full = self._waiting = False
        self._connected = self._channel_open = self._producing = self._over = False
        self._linger: IDelayedCall | None = None

    # -- the TCP side

    def connectionMade(self) -> None:
        self._connected = True
        self._reading.readers += 1
        self._piece = self._reading.small()
        tune(self.transport, self._piece)
        self._write = prompt_writer(self.transport)
        self.transport.registerProducer(self, True)
        self._producing = True
        reached, self._reached = self._reached, None
        if reached is not None:
            reached(self)
        if self._channel is None:
            self.transport.pauseProducing()

    def attach(self, channel: Channel) -> None:
        """Join C{channel}, which has just been opened with this relay as its handler."""
        self._channel = channel
        self._channel_open = True
        self.transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        if self._channel is not None:
            tally = self.tally
            tally.bytes_out += len(data)
            tally.last_out = self._clock.seconds()
            self._channel.write(data)
            if len(data) == self._piece and not self._waiting:
                self._piece = self.transport.bufferSize = self._reading.next()

    def readConnectionLost(self) -> None:
        """The TCP peer sends no more."""
        if self._channel is not None:
            self._channel.write_eof()

    def writeConnectionLost(self) -> None:
        """Our half of the TCP connection is closed, after everything before it was sent."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # no default here
        self._connected = False
        self._reading.readers -= 1
        self._stop_linger()
        if self._channel is not None and self._channel_open:
            self._channel.close()
        self._end_if_over()

    # -- as the producer of what the TCP side is sent

    def pauseProducing(self) -> None:
        self._full = True
        self.tally.wait_in.begin(self._clock.seconds())

    def resumeProducing(self) -> None:
        """The TCP side took what it was sent: open the channel's window again."""
        if self._full:
            self._full = False
            self.tally.wait_in.end(self._clock.seconds())
        held, self._held = self._held, 0
        if held and self._channel is not None:
            self._channel.consumed(held)

    def stopProducing(self) -> None:
        """The TCP connection is gone; L{connectionLost} says so too."""

    # -- the channel side

    def data_received(self, data: bytes | memoryview) -> None:
        tally = self.tally
        tally.bytes_in += len(data)
        tally.last_in = self._clock.seconds()
        self._write(data)
        if self._full:
            self._held += len(data)
        elif self._channel is not None:
            self._channel.consumed(len(data))

    def eof_received(self) -> None:
        if self._connected:
            self._stop_producing()
            self.transport.loseWriteConnection()

    def channel_closed(self, lost: bool) -> None:
        self._channel_open = False
        if lost:
            # A reset, not an end: the target must not take a stream that was cut for a whole one.
            self.abort()
        elif self._connected:
            self._stop_producing()
            close_now(self.transport)
            if self._connected:
                self._linger = self._clock.callLater(LINGER, self._cut)
        self._end_if_over()

    @property
    def send_window(self) -> int:
        """How many bytes more the peer takes."""
        return 0 if self._channel is None else self._channel.send_window

    def pause_writing(self) -> None:
        self._waiting = True
        self.tally.wait_out.begin(self._clock.seconds())
        if self._connected:
            self._piece = self.transport.bufferSize = self._reading.small()
            self.transport.pauseProducing()

    def resume_writing(self) -> None:
        self._waiting = False
        self.tally.wait_out.end(self._clock.seconds())
        if self._connected:
            self.transport.resumeProducing()

    # -- the end

    def _stop_producing(self) -> None:
        """Send nothing more to the TCP side: it may end when it has taken what it was sent."""
        if self._producing:
            self._producing = False
            self.transport.unregisterProducer()
            self.resumeProducing()

    def abort(self) -> None:
        """Cut the TCP connection; the channel follows."""
        if self._connected:
            self.transport.abortConnection()

    def _cut(self) -> None:
        self._linger = None
        self.abort()

    def _stop_linger(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def _end_if_over(self) -> None:
        if not self._connected and not self._channel_open and not self._over:
            self._over = True
            self._channel = None  # they hold each other; thousands may come and go
            self._ended(self)
