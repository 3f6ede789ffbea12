"""The connection layer beside its model: any messages in any order, and an owner that does what it likes."""

from __future__ import annotations

import struct
from typing import Any, Final

from twisted.conch.ssh.common import NS
from twisted.internet.defer import Deferred

from pipeops_agent.tunnel.ssh.channel import Channel
from pipeops_agent.tunnel.ssh.cipher import PacketError
from pipeops_agent.tunnel.ssh.common import SSHError
from pipeops_agent.tunnel.ssh.connection import ConnectionLayer, OpenRequest
from pipeops_agent.tunnel.ssh.messages import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
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
)
from pipeops_agent.tunnel.ssh.windows import Windows
from tests.fuzz.model import Model, Verdict
from tests.fuzz.source import Source, held

WINDOW: Final = 4096
MAX_CHANNELS: Final = 5

PER_CHANNEL: Final = 256
"""Bytes that the layer may hold for a channel, or a request, beside what was written to it."""

_MESSAGES: Final = (
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_SUCCESS,
    MSG_REQUEST_FAILURE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_REQUEST,
)


class End:
    """A channel's handler: holds what comes against the order that L{ChannelHandler} promises."""

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.data = bytearray()
        self.owed = 0
        self.eof = self.paused = False
        self.closed = 0

    def data_received(self, data: bytes | memoryview) -> None:
        assert not (self.eof or self.closed), "data after the end"
        self.data += data
        self.owed += len(data)

    def eof_received(self) -> None:
        assert not (self.eof or self.closed), "a second end"
        self.eof = True

    def channel_closed(self, lost: bool) -> None:
        assert not self.closed, "closed twice"
        self.closed += 1

    def pause_writing(self) -> None:
        assert not (self.paused or self.closed)
        self.paused = True

    def resume_writing(self) -> None:
        assert self.paused and not self.closed
        self.paused = False


class Bench:
    """
    A connection layer whose transport and owner are the model's ears.

    @ivar broken: the far side has broken the rules, and the connection is over.
    """

    def __init__(self) -> None:
        self.model = Model(WINDOW, MAX_CHANNELS)
        self.layer = ConnectionLayer(self, windows=Windows.fixed(WINDOW), max_channels=MAX_CHANNELS)
        self.layer.transport = self
        self.error: SSHError | None = None
        self.broken = False
        self.ends: list[End] = []
        self.requests: list[OpenRequest] = []
        self.waiting: list[Deferred[Any]] = []
        self.abandoned = 0
        self.opened = 0
        self.layer.serviceStarted()

    # -- the transport

    @property
    def congested(self) -> bool:
        """Whether the carrier is full."""
        return self.model.congested

    def sendPacket(self, message: int, payload: bytes) -> None:  # noqa: N802  # Conch's name
        """The layer sends something."""
        self.model.sent(message, bytes(payload))

    def send_data(self, recipient: int, data: memoryview, size: int) -> None:
        """The layer sends data of a channel, in packets."""
        assert not self.congested, "data was sent into a full carrier"
        for start in range(0, len(data), size):
            part = bytes(data[start : start + size])
            self.model.sent(MSG_CHANNEL_DATA, struct.pack(">LL", recipient, len(part)) + part)

    def sendUnimplemented(self) -> None:  # noqa: N802  # Conch's name
        """The layer does not know the message."""

    # -- the owner of the layer

    def channel_requested(self, request: OpenRequest) -> None:
        self.requests.append(request)
        request.abandoned = self._abandon

    def _abandon(self) -> None:
        self.abandoned += 1

    def global_requested(self, name: bytes, payload: bytes) -> bytes | None:
        return payload if name != b"no" else None

    # -- what can be done

    def receive(self, message: int, payload: bytes) -> None:
        """The far side sends C{message}."""
        verdict = self.model.judge(message, payload)
        if verdict is not Verdict.BAD:
            self.model.comes(message, payload)
        try:
            if message == MSG_CHANNEL_DATA:
                self.layer.data_received(memoryview(payload))
            else:
                self.layer.packetReceived(message, payload)
        except PacketError as error:
            assert verdict is not Verdict.GOOD, f"message {message} was refused: {error}"
            self.broken = True
            return
        assert verdict is not Verdict.BAD, f"message {message} was taken"
        self.settle()

    def settle(self) -> None:
        """Whatever has just been done, everything is in order."""
        self.model.settled()
        assert len(self.layer) == len(self.model.lines)
        for local, end in self.known():
            line = self.model.lines[local]
            assert end.data == line.received
            assert end.paused == bool(line.waits) or line.close_out or self.model.ambiguous
            end.data.clear()
            line.received.clear()
        limit = sum(line.waits + PER_CHANNEL for line in self.model.lines.values())
        limit += sum(len(request.extra) + len(request.kind) for request in self.requests)
        assert held(self.layer, beside=[self, *self.ends, *self.requests]) <= limit + PER_CHANNEL

    def known(self) -> list[tuple[int, End]]:
        """The open channels: the layer's number, and the handler."""
        return [
            (end.channel.local_id, end)
            for end in self.ends
            if end.channel is not None and end.channel.local_id in self.model.lines
        ]

    def accept(self, place: int) -> None:
        """Confirm a channel that was asked for."""
        if self.requests:
            request = self.requests.pop(place % len(self.requests))
            self._join(request.accept, End())

    def _join(self, accept: Any, end: End) -> None:
        self.ends.append(end)
        end.channel = accept(end)
        self.opened += 1
        self.settle()

    def refuse(self, place: int) -> None:
        """Refuse a channel that was asked for."""
        if self.requests:
            self.requests.pop(place % len(self.requests)).refuse(1, "no")
            self.settle()

    def open(self) -> None:
        """Ask the far side for a channel."""
        end = End()
        waiting = self.layer.open_channel(b"chisel", b"", end)
        self.waiting.append(waiting)

        def joined(channel: Channel) -> None:
            end.channel = channel
            self.ends.append(end)
            self.opened += 1

        waiting.addCallbacks(joined, lambda _: None)
        self.settle()

    def request(self, *, cancel: bool) -> None:
        """Ask the far side something, and perhaps listen no more for the answer."""
        waiting = self.layer.request(b"ping")
        waiting.addErrback(lambda _: None)
        self.waiting.append(waiting)
        if cancel:
            waiting.cancel()
        self.settle()

    def write(self, place: int, count: int) -> None:
        """Write to a channel."""
        known = self.known()
        if not known:
            return
        local, end = known[place % len(known)]
        line = self.model.lines[local]
        data = bytes(octet & 0xFF for octet in range(len(line.written), len(line.written) + count))
        if not (line.eof_wanted or line.close_wanted):
            line.written += data
        assert end.channel is not None
        end.channel.write(data)
        self.settle()

    def end(self, place: int, how: int) -> None:
        """End a channel: 0 one way, 1 both after what waits, 2 at once."""
        known = self.known()
        if not known:
            return
        local, end = known[place % len(known)]
        line = self.model.lines[local]
        assert end.channel is not None
        if how == 0:
            line.eof_wanted = True
            end.channel.write_eof()
        else:
            line.close_wanted = True
            line.dropped |= how == 2
            (end.channel.close if how == 1 else end.channel.abort)()
        self.settle()

    def consume(self, place: int) -> None:
        """Say that everything that came on a channel was delivered."""
        known = self.known()
        if known:
            _, end = known[place % len(known)]
            assert end.channel is not None
            owed, end.owed = end.owed, 0
            end.channel.consumed(owed)
            self.settle()

    def congest(self, congested: bool) -> None:
        """The carrier is full, or free again."""
        self.model.congested = congested
        self.layer.set_congested(congested)
        self.settle()

    def finish(self) -> None:
        """The connection ends: everybody who waits hears of it, once, and nothing is left."""
        waiting = len(self.requests)
        self.layer.serviceStopped()
        assert all(each.called for each in self.waiting), "somebody waits for ever"
        assert self.abandoned == waiting, "a request was not abandoned"
        assert [end.closed for end in self.ends] == [1] * self.opened
        assert len(self.layer) == 0
        assert held(self.layer, beside=[self, *self.ends]) <= PER_CHANNEL
        self.layer.serviceStopped()


def connection(data: bytes) -> None:
    """A connection's life, as C{data} has it."""
    source, bench = Source(data), Bench()
    while source and not bench.broken:
        step(bench, source)
    bench.finish()


def step(bench: Bench, source: Source) -> None:
    """One thing that the far side or the owner does."""
    choice = source.byte()
    kind, place = choice % 16, choice // 16
    if kind < 6:
        bench.receive(*_sensible(bench, source))
    elif kind < 8:
        bench.receive(_MESSAGES[source.below(len(_MESSAGES))], source.fields())
    elif kind == 8:
        bench.receive(source.byte(), source.take(source.below(32)))
    else:
        _act(bench, kind, place, source)


def _act(bench: Bench, kind: int, place: int, source: Source) -> None:
    """What the owner does."""
    if kind == 9:
        bench.accept(place)
    elif kind == 10:
        bench.refuse(place) if place % 4 == 0 else bench.open()
    elif kind == 11:
        bench.request(cancel=place == 0)
    elif kind == 12:
        bench.write(place, source.amount())
    elif kind == 13:
        bench.end(place, source.below(3))
    elif kind == 14:
        bench.consume(place)
    else:
        bench.congest(bool(place & 1))


def _sensible(bench: Bench, source: Source) -> tuple[int, bytes]:
    """A message that is most likely in order: for a channel that there is."""
    message = _MESSAGES[source.below(len(_MESSAGES))]
    place = source.byte()
    if message == MSG_GLOBAL_REQUEST:
        return message, NS(b"no" if place & 1 else b"ping") + bytes((place & 2,)) + source.take(4)
    if message == MSG_CHANNEL_OPEN:
        numbers = (1000 + bench.opened * 8 + len(bench.requests), source.number(), 1024 + place)
        return message, NS(b"chisel") + _numbers(*numbers) + source.take(8)
    opening = sorted(bench.model.opening) or [0]
    if message == MSG_CHANNEL_OPEN_CONFIRMATION:
        asked = opening[place % len(opening)]
        return message, _numbers(asked, 5000 + bench.opened, source.number(), 2048)
    if message == MSG_CHANNEL_OPEN_FAILURE:
        return message, _numbers(opening[place % len(opening)], 0) + NS(b"no") + NS(b"")
    lines = sorted(bench.model.lines) or [0]
    return message, _numbers(lines[place % len(lines)]) + _of_a_channel(message, place, source)


def _of_a_channel(message: int, place: int, source: Source) -> bytes:
    """What follows the channel's number."""
    if message == MSG_CHANNEL_WINDOW_ADJUST:
        return _numbers(source.number())
    if message == MSG_CHANNEL_DATA:
        return NS(bytes(source.amount()))
    if message == MSG_CHANNEL_EXTENDED_DATA:
        return bytes(4) + NS(bytes(source.amount()))
    return NS(b"shell") + bytes((place & 1,)) if message == MSG_CHANNEL_REQUEST else b""


def _numbers(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)
