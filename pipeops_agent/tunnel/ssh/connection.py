"""
The connection protocol (RFC 4254): channels and global requests, the same for either side.

Unlike Conch's this layer has backpressure both ways: a channel's window is opened again only when
what came was *consumed*, and who writes to a channel is told to pause while the peer's window, the
carrier or a key exchange holds it up. EOF waits for the data before it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from twisted.conch.ssh.common import NS, getNS
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from pipeops_agent.tunnel.ssh.auth import CONNECTION
from pipeops_agent.tunnel.ssh.channel import Channel, ChannelHandler
from pipeops_agent.tunnel.ssh.cipher import PacketError
from pipeops_agent.tunnel.ssh.common import Service, SSHError, peer_text
from pipeops_agent.tunnel.ssh.messages import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_RESOURCE_SHORTAGE,
)
from pipeops_agent.tunnel.ssh.turns import Turns
from pipeops_agent.tunnel.ssh.windows import Window, Windows

_log = Logger(namespace="tunnel.ssh")

MAX_DATA: Final = 32 * 1024
"""The most data in one packet that this side accepts and sends (RFC 4253, section 6.1)."""

MIN_PACKET: Final = 1024
"""The least maximum packet size of a peer: with a few bytes a packet, sending is all overhead."""

MAX_REQUEST: Final = 64 * 1024
"""The longest global request or reply accepted, in bytes."""

_ONE: Final = struct.Struct(">L")
_TWO: Final = struct.Struct(">LL")
_FOUR: Final = struct.Struct(">LLLL")

_Opening = tuple[Deferred[Channel], ChannelHandler, Window]
"""A channel that this side has asked for: who waits for it, and what it will have."""


class RequestRefused(Exception):
    """
    The peer answered a global request with REQUEST_FAILURE.

    @ivar reason: the payload; chisel puts a sentence there.
    """

    def __init__(self, reason: bytes) -> None:
        super().__init__(peer_text(reason) or "no reason given")
        self.reason = reason


class OpenRefused(Exception):
    """The peer refused to open a channel: code of RFC 4254, section 5.1, and a sentence."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(description)
        self.code = code


class OpenRequest:
    """
    The peer asks for a channel; L{accept} or L{refuse} it, now or later.

    @ivar abandoned: called when the connection ends before either; neither may be called after it.
    """

    def __init__(
        self, layer: ConnectionLayer, kind: bytes, extra: bytes, remote: tuple[int, int, int]
    ) -> None:
        self._layer = layer
        self._remote = remote
        self.kind = kind
        self.extra = extra
        self.abandoned: Callable[[], None] | None = None

    def accept(self, handler: ChannelHandler) -> Channel:
        """Confirm the channel; C{handler} hears of everything that comes on it."""
        return self._layer.confirm(self, handler, *self._remote)

    def refuse(self, code: int, description: str) -> None:
        """Refuse the channel, with a code of RFC 4254, section 5.1."""
        self._layer.refuse(self, self._remote[0], code, description)


class ConnectionOwner(Protocol):
    """Who decides what may be done on a connection."""

    def channel_requested(self, request: OpenRequest) -> None:
        """Accept or refuse C{request}, now or later."""

    def global_requested(self, name: bytes, payload: bytes) -> bytes | None:
        """Return the reply's payload, or None to refuse."""


class ConnectionLayer(Service):
    """
    One connection's channels and requests.

    @ivar turns: in which order the channels send what waits in them.
    @param windows: how much unconsumed data the peer may have under way: the bound on what channels can
        hold here.
    @param max_channels: how many channels may be open, and asked for, at once.
    """

    name = CONNECTION

    def __init__(self, owner: ConnectionOwner, *, windows: Windows, max_channels: int) -> None:
        self._owner = owner
        self._windows = windows
        self._max_channels = max_channels
        self._channels: dict[int, Channel] = {}
        self._opening: dict[int, _Opening] = {}
        self._requested: set[OpenRequest] = set()
        self._replies: deque[Deferred[bytes]] = deque()
        self._next_id = 0
        self.turns = Turns()
        self._over = False

    # -- what the owner asks for

    def __len__(self) -> int:
        return len(self._channels)

    def request(self, name: bytes, payload: bytes = b"") -> Deferred[bytes]:
        """
        Send a global request; fires with the reply's payload.

        Fails with L{RequestRefused}, or with L{SSHError} where the connection ended first. Replies
        come in the order of the requests (RFC 4254, section 4), so cancelling only stops listening.
        """
        if self._over:
            return fail(SSHError("the connection has ended"))
        waiting: Deferred[bytes] = Deferred()
        self._replies.append(waiting)
        self.transport.sendPacket(MSG_GLOBAL_REQUEST, NS(name) + b"\1" + payload)
        return waiting

    def open_channel(self, kind: bytes, extra: bytes, handler: ChannelHandler) -> Deferred[Channel]:
        """
        Ask the peer for a channel; fires when it is open.

        Fails with L{OpenRefused}, or with L{SSHError} where the connection ended first.
        """
        if self._over:
            return fail(SSHError("the connection has ended"))
        local = self._new_id()
        waiting: Deferred[Channel] = Deferred()
        window = self._windows.open()
        self._opening[local] = (waiting, handler, window)
        numbers = struct.pack(">LLL", local, window.size, MAX_DATA)
        self.transport.sendPacket(MSG_CHANNEL_OPEN, NS(kind) + numbers + extra)
        return waiting

    def set_congested(self, congested: bool) -> None:
        """
        Note that the way out is full, or free again.

        It happens with every few packets of a busy channel, so it must not cost anything for each idle
        one: a channel pauses its handler when that writes while the way out is full.
        """
        self.turns.congested = congested
        self.turns.serve()

    # -- what a request or a channel does

    def confirm(
        self, request: OpenRequest, handler: ChannelHandler, remote: int, window: int, packet: int
    ) -> Channel:
        self._requested.remove(request)
        local = self._new_id()
        ours = self._windows.open()
        numbers = _FOUR.pack(remote, local, ours.size, MAX_DATA)
        self.transport.sendPacket(MSG_CHANNEL_OPEN_CONFIRMATION, numbers)
        return self._add(handler, local, ours, remote, window, packet)

    def refuse(self, request: OpenRequest, remote: int, code: int, description: str) -> None:
        self._requested.remove(request)
        self._send_open_failure(remote, code, description)

    def send(self, message: int, payload: bytes) -> None:
        """Send one message of a channel."""
        self.transport.sendPacket(message, payload)

    def send_data(self, recipient: int, data: memoryview, size: int) -> None:
        """Send C{data} in a channel, in packets of at most C{size} bytes of it."""
        self.transport.send_data(recipient, data, size)

    def forget(self, channel: Channel) -> None:
        """Both sides have closed C{channel}."""
        del self._channels[channel.local_id]
        self.turns.leave(channel)

    def _add(
        self, handler: ChannelHandler, local: int, ours: Window, remote: int, window: int, size: int
    ) -> Channel:
        channel = Channel(
            self,
            handler,
            local_id=local,
            remote_id=remote,
            send_window=window,
            send_size=size,
            window=ours,
        )
        self._channels[local] = channel
        self.turns.enter()
        return channel

    def _new_id(self) -> int:
        local = self._next_id
        self._next_id = (local + 1) & 0xFFFFFFFF
        return local

    def _send_open_failure(self, remote: int, code: int, description: str) -> None:
        payload = _TWO.pack(remote, code) + NS(description.encode()) + NS(b"en")
        self.transport.sendPacket(MSG_CHANNEL_OPEN_FAILURE, payload)

    # -- what the transport tells

    def serviceStarted(self) -> None:
        self.turns.congested = self.transport.congested

    def serviceStopped(self) -> None:
        """End every channel and every wait: nothing is left uncalled."""
        if self._over:
            return
        self._over = True
        error = self.transport.error or SSHError("the connection has ended")
        self.turns.clear()
        replies, self._replies = self._replies, deque()
        opening, self._opening = self._opening, {}
        requested, self._requested = self._requested, set()
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.connection_lost()
        for request in requested:
            if request.abandoned is not None:
                request.abandoned()
        for waiting, *_ in opening.values():
            waiting.errback(error)
        for reply in replies:
            if not reply.called:
                reply.errback(error)

    def data_received(self, packet: memoryview) -> None:
        recipient, length = _unpack(_TWO, packet)
        if length != len(packet) - 8:
            raise PacketError("CHANNEL_DATA is not as long as it says")
        self._channel(recipient).data_received(packet[8:])

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        handle = _HANDLERS.get(messageNum)
        if handle is None:
            self.transport.sendUnimplemented()
        else:
            handle(self, packet)

    def _channel(self, recipient: int) -> Channel:
        try:
            return self._channels[recipient]
        except KeyError:
            raise PacketError(f"channel {recipient} is not open") from None

    def _adjusted(self, packet: bytes) -> None:
        recipient, more = _unpack(_TWO, packet)
        self._channel(recipient).window_adjusted(more)

    def _extended(self, packet: bytes) -> None:
        recipient, _ = _unpack(_TWO, packet)
        self._channel(recipient).extended_received(len(packet) - 12)

    def _ended(self, packet: bytes) -> None:
        self._channel(*_unpack(_ONE, packet)).eof_received()

    def _closed(self, packet: bytes) -> None:
        self._channel(*_unpack(_ONE, packet)).close_received()

    def _channel_request(self, packet: bytes) -> None:
        (recipient,) = _unpack(_ONE, packet)
        channel = self._channel(recipient)
        _, rest = _string(packet[4:])
        if rest[:1] not in (b"", b"\0"):
            channel.send_failure()

    def _open(self, packet: bytes) -> None:
        kind, rest = _string(packet)
        if len(rest) < 12:
            raise PacketError("CHANNEL_OPEN is too short")
        remote, window, size = struct.unpack(">LLL", rest[:12])
        if size < MIN_PACKET:
            self._send_open_failure(remote, OPEN_ADMINISTRATIVELY_PROHIBITED, _too_small(size))
            return
        if len(self._channels) + len(self._requested) >= self._max_channels:
            self._send_open_failure(remote, OPEN_RESOURCE_SHORTAGE, "too many channels")
            return
        request = OpenRequest(self, kind, rest[12:], (remote, window, size))
        self._requested.add(request)
        self._owner.channel_requested(request)

    def _open_confirmed(self, packet: bytes) -> None:
        local, remote, window, size = _unpack(_FOUR, packet)
        if size < MIN_PACKET:
            raise PacketError(_too_small(size))
        waiting, handler, ours = self._was_opening(local)
        waiting.callback(self._add(handler, local, ours, remote, window, size))

    def _open_failed(self, packet: bytes) -> None:
        local, code = _unpack(_TWO, packet)
        description, _ = _string(packet[8:])  # who waits is asked for last: an error here must reach it too
        waiting, _, ours = self._was_opening(local)
        ours.close()
        waiting.errback(OpenRefused(code, peer_text(description)))

    def _was_opening(self, local: int) -> _Opening:
        try:
            return self._opening.pop(local)
        except KeyError:
            raise PacketError(f"channel {local} was not being opened") from None

    def _global_request(self, packet: bytes) -> None:
        name, rest = _string(packet)
        if len(rest) > MAX_REQUEST:
            raise PacketError(f"global request {peer_text(name)!r} is too long")
        reply = self._owner.global_requested(name, rest[1:])
        if rest[:1] in (b"", b"\0"):
            return
        if reply is None:
            self.transport.sendPacket(MSG_REQUEST_FAILURE, b"")
        else:
            self.transport.sendPacket(MSG_REQUEST_SUCCESS, reply)

    def _request_succeeded(self, packet: bytes) -> None:
        waiting = self._next_reply()
        if not waiting.called:
            waiting.callback(packet)

    def _request_failed(self, packet: bytes) -> None:
        waiting = self._next_reply()
        if not waiting.called:
            waiting.errback(RequestRefused(packet[:MAX_REQUEST]))

    def _next_reply(self) -> Deferred[bytes]:
        if not self._replies:
            raise PacketError("a reply came to a request that was not sent")
        return self._replies.popleft()


_HANDLERS: Final = {
    MSG_GLOBAL_REQUEST: ConnectionLayer._global_request,
    MSG_REQUEST_SUCCESS: ConnectionLayer._request_succeeded,
    MSG_REQUEST_FAILURE: ConnectionLayer._request_failed,
    MSG_CHANNEL_OPEN: ConnectionLayer._open,
    MSG_CHANNEL_OPEN_CONFIRMATION: ConnectionLayer._open_confirmed,
    MSG_CHANNEL_OPEN_FAILURE: ConnectionLayer._open_failed,
    MSG_CHANNEL_WINDOW_ADJUST: ConnectionLayer._adjusted,
    MSG_CHANNEL_EXTENDED_DATA: ConnectionLayer._extended,
    MSG_CHANNEL_EOF: ConnectionLayer._ended,
    MSG_CHANNEL_CLOSE: ConnectionLayer._closed,
    MSG_CHANNEL_REQUEST: ConnectionLayer._channel_request,
}


def _too_small(size: int) -> str:
    return f"a maximum packet size of {size}: {MIN_PACKET} is the least"


def _unpack(form: struct.Struct, packet: bytes | memoryview) -> tuple[int, ...]:
    if len(packet) < form.size:
        raise PacketError("a channel message is too short")
    return form.unpack_from(packet)


def _string(data: bytes) -> tuple[bytes, bytes]:
    """Split off one string (RFC 4251, section 5), strictly."""
    (length,) = _unpack(_ONE, data)
    if length > len(data) - 4:
        raise PacketError("a string is longer than its message")
    text, rest = getNS(data)
    return text, rest
