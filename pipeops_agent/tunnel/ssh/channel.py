"""One channel (RFC 4254, section 5): two windows, a half-close each way, and who reads and writes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Protocol

from pipeops_agent.tunnel.ssh.cipher import PacketError
from pipeops_agent.tunnel.ssh.messages import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_WINDOW_ADJUST,
)
from pipeops_agent.tunnel.ssh.windows import Window

if TYPE_CHECKING:
    from pipeops_agent.tunnel.ssh.connection import ConnectionLayer

MAX_SENT: Final = 32 * 1024
"""The most data sent in one packet, whatever the peer would take (RFC 4253, section 6.1)."""

_MAX_WINDOW: Final = 0xFFFFFFFF

_ONE: Final = struct.Struct(">L")
_TWO: Final = struct.Struct(">LL")


class ChannelHandler(Protocol):
    """Who is at this end of a channel."""

    def data_received(self, data: bytes | memoryview) -> None:
        """Take C{data}; say L{Channel.consumed} when it has been delivered."""

    def eof_received(self) -> None:
        """The peer will send no more data."""

    def channel_closed(self, lost: bool) -> None:
        """
        The channel is gone; said once, and nothing comes after it.

        @param lost: the connection broke; what was sent may not be whole.
        """

    def pause_writing(self) -> None:
        """Write no more until L{resume_writing}; what is written all the same is kept."""

    def resume_writing(self) -> None:
        """Go on."""


class Channel:
    """
    One end of an open channel.

    Data flows out while the peer's window and the carrier allow, else it waits in C{_pending}, and
    the handler was told to pause: what waits is one write of it, and what it had under way. Data flows in
    while our window allows; a peer that sends more is cut off (the window is a hard limit).
    """

    def __init__(
        self,
        layer: ConnectionLayer,
        handler: ChannelHandler,
        *,
        local_id: int,
        remote_id: int,
        send_window: int,
        send_size: int,
        window: Window,
    ) -> None:
        self._layer = layer
        self._turns = layer.turns
        self._handler = handler
        self.local_id = local_id
        self.remote_id = remote_id
        self._send_window = send_window
        self._send_size = min(send_size, MAX_SENT)
        self._window = window
        self._pending = bytearray()
        self._paused = False
        self._eof_wanted = self._eof_sent = self._eof_received = False
        self._close_wanted = self._close_sent = self._over = False

    @property
    def send_window(self) -> int:
        """How many bytes more the peer takes."""
        return self._send_window

    # -- out

    def write(self, data: bytes | memoryview) -> None:
        """Send C{data}, now or when it may go; dropped once the channel is being closed."""
        if self._over or self._close_wanted or self._eof_wanted:
            return
        if self._pending or self._turns.congested:
            self._pending += data
            self._turns.hold(self)
        else:
            sent = self._send(data)
            if sent < len(data):
                self._pending += memoryview(data)[sent:]
        self._update_flow()

    def write_eof(self) -> None:
        """Send no more data; EOF goes out after what waits."""
        if not self._eof_wanted:
            self._eof_wanted = True
            self._finish()

    def close(self) -> None:
        """Close both ways, after what waits to be sent."""
        if not self._close_wanted:
            self._close_wanted = True
            self._finish()

    def abort(self) -> None:
        """Close both ways at once; what waits is dropped."""
        self._pending.clear()
        self._close_wanted = True  # perhaps it was already, and what has just been dropped was in the way
        self._finish()

    def _send(self, data: bytes | memoryview) -> int:
        """Send what the window allows; return how many bytes that was."""
        allowed = min(len(data), self._send_window)
        if allowed:
            self._send_window -= allowed
            self._layer.send_data(self.remote_id, memoryview(data)[:allowed], self._send_size)
        return allowed

    def _finish(self) -> None:
        """Send EOF and CLOSE as wanted, once nothing waits before them."""
        if self._over or self._close_sent or self._pending:
            return
        if self._eof_wanted and not self._eof_sent:
            self._eof_sent = True
            self._layer.send(MSG_CHANNEL_EOF, _ONE.pack(self.remote_id))
        if self._close_wanted or (self._eof_sent and self._eof_received):
            self._close_wanted = self._close_sent = True
            self._layer.send(MSG_CHANNEL_CLOSE, _ONE.pack(self.remote_id))

    def window_adjusted(self, more: int) -> None:
        """The peer has room for C{more} bytes more."""
        self._send_window += more
        if self._send_window > _MAX_WINDOW:
            raise PacketError("a window was opened beyond 4 GiB (RFC 4254, section 5.2)")
        if self._pending:
            self._turns.hold(self)
            self._turns.serve()

    def flush(self, size: int) -> bool:
        """Send C{size} bytes of what waits, as far as the window allows; return whether it allows more."""
        with memoryview(self._pending) as pending:
            sent = self._send(pending[:size])
        del self._pending[:sent]
        self._finish()
        self._update_flow()
        return bool(self._pending and self._send_window)

    def _update_flow(self) -> None:
        """Tell the handler to pause or to go on, where that has changed."""
        paused = bool(self._pending)
        if paused == self._paused or self._over:
            return
        self._paused = paused
        if paused:
            self._handler.pause_writing()
        else:
            self._handler.resume_writing()

    # -- in

    def data_received(self, data: bytes | memoryview) -> None:
        """The peer sent C{data}."""
        if self._eof_received:
            raise PacketError("data came after EOF")
        if not self._window.received(len(data)):
            raise PacketError("the peer ignores the window")
        if self._close_wanted:
            self.consumed(len(data))
        else:
            self._handler.data_received(data)

    def extended_received(self, length: int) -> None:
        """Drop extended data, which chisel does not have: it counts against the window all the same."""
        length = max(length, 0)
        if not self._window.received(length):
            raise PacketError("the peer ignores the window")
        self.consumed(length)

    def consumed(self, count: int) -> None:
        """Note that C{count} bytes were delivered; the window is opened again in good time."""
        if self._close_sent or self._over:
            return
        more = self._window.consumed(count)
        if more:
            self._layer.send(MSG_CHANNEL_WINDOW_ADJUST, _TWO.pack(self.remote_id, more))

    def eof_received(self) -> None:
        """The peer sends no more data."""
        if self._eof_received:
            return
        self._eof_received = True
        if not self._close_wanted:
            self._handler.eof_received()
        self._finish()

    def close_received(self) -> None:
        """The peer has closed; answer in kind, and the channel is gone."""
        self._pending.clear()
        if not self._close_sent:
            self._close_wanted = self._close_sent = True
            self._layer.send(MSG_CHANNEL_CLOSE, _ONE.pack(self.remote_id))
        self._layer.forget(self)
        self._end(lost=False)

    def send_failure(self) -> None:
        """Answer a channel request: none is known here."""
        if not self._close_sent:
            self._layer.send(MSG_CHANNEL_FAILURE, _ONE.pack(self.remote_id))

    def connection_lost(self) -> None:
        """The connection below is gone, and the channel with it."""
        self._end(lost=True)

    def _end(self, *, lost: bool) -> None:
        if not self._over:
            self._over = True
            self._window.close()
            self._pending.clear()
            self._handler.channel_closed(lost)
