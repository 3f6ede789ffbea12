"""
WebSocket frames (RFC 6455, section 5), bytes in, messages out: the carrier's hot path.

Autobahn does the upgrade; its frame layer formats a debug record for every frame, which costs more than
the encryption. What comes in one piece is handed on as a view of where it lies.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from pipeops_agent.tunnel.masking import mask
from pipeops_agent.tunnel.randomness import random_bytes

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

MAX_CONTROL: Final = 125
"""The most payload of a control frame (section 5.5)."""

_FIN: Final = 0x80
_RESERVED: Final = 0x70
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_SHORT: Final = 125
_KNOWN: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})

_HEAD16: Final = struct.Struct(">BBH")
_HEAD64: Final = struct.Struct(">BBQ")


class FrameError(Exception):
    """What came is no frame that may come here."""


class Message(NamedTuple):
    """One message, or one control frame."""

    opcode: int
    payload: bytes


class _Head(NamedTuple):
    opcode: int
    final: bool
    begin: int
    end: int
    key: bytes | None


class FrameReader:
    """
    Cuts a byte stream into messages.

    @param masked: whether the peer is a client: then each of its frames must be masked, else none.
    @param limit: the longest message, in bytes, however many frames it comes in.
    """

    def __init__(self, *, masked: bool, limit: int) -> None:
        self._masked = masked
        self._limit = limit
        self._rest = bytearray()
        self._needed = 2
        self._opcode: int | None = None
        self._parts: list[bytes] = []
        self._length = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """
        Yield each message that is complete now. Whoever stops early must not call again.

        @raise FrameError: the peer breaks the rules, or a message is too long.
        """
        source: bytes | bytearray = data
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return  # more of a frame whose length is known: no need to look again
            source, self._rest = self._rest, bytearray()
        position, end = 0, len(source)
        while True:
            head = self._head(source, position, end)
            if head is None or head.end > end:
                break
            payload = bytes(memoryview(source)[head.begin : head.end])
            if head.key is not None:
                payload = _unmasked(head.key, payload)
            position = head.end
            message = self._take(head, payload)
            if message is not None:
                yield message
        if position < end:
            self._rest = bytearray(memoryview(source)[position:])
            self._needed = 2 if head is None else head.end - position

    def _head(self, source: bytes | bytearray, at: int, end: int) -> _Head | None:
        """Read a frame's header at C{at}; None where it is not complete."""
        if end - at < 2:
            return None
        first, second = source[at], source[at + 1]
        begin, length = at + 2, second & _LENGTH
        if length == 126:
            begin += 2
        elif length == 127:
            begin += 8
        if bool(second & _MASKED) != self._masked:
            raise FrameError("the peer masks its frames" if second & _MASKED else "a frame is not masked")
        after = begin + 4 if self._masked else begin
        if end < after:
            return None
        if length > _SHORT:
            length = int.from_bytes(source[at + 2 : begin], "big")
        self._check(first, length)
        key = bytes(source[begin:after]) if self._masked else None
        return _Head(first & _OPCODE, bool(first & _FIN), after, after + length, key)

    def _check(self, first: int, length: int) -> None:
        opcode, final = first & _OPCODE, first & _FIN
        if first & _RESERVED or opcode not in _KNOWN:
            raise FrameError(f"a frame begins with {first:#04x}, which nobody agreed on")
        if opcode >= CLOSE:
            if not final or length > MAX_CONTROL:
                raise FrameError("a control frame is fragmented or too long")
        elif self._length + length > self._limit:
            raise FrameError(f"a message is longer than {self._limit} bytes")
        elif (opcode == CONTINUATION) != (self._opcode is not None):
            raise FrameError("a message's frames are out of order")

    def _take(self, head: _Head, payload: bytes) -> Message | None:
        """Put a frame where it belongs; return the message that is complete with it."""
        if head.opcode >= CLOSE:
            return Message(head.opcode, payload)
        if head.final and self._opcode is None:
            return Message(head.opcode, payload)
        if self._opcode is None:
            self._opcode = head.opcode
        if payload:  # empty frames without end must not add up
            self._parts.append(payload)
            self._length += len(payload)
        if not head.final:
            return None
        message = Message(self._opcode, b"".join(self._parts))
        self._opcode, self._parts, self._length = None, [], 0
        return message


def make_frame(opcode: int, payload: bytes, *, masked: bool) -> bytearray:
    """
    Return C{payload} as one final frame.

    @param masked: whether this side is the client. The key comes from the system's random source (5.3).
    """
    length = len(payload)
    bit = _MASKED if masked else 0
    if length <= _SHORT:
        frame = bytearray((_FIN | opcode, bit | length))
    elif length <= 0xFFFF:
        frame = bytearray(_HEAD16.pack(_FIN | opcode, bit | 126, length))
    else:
        frame = bytearray(_HEAD64.pack(_FIN | opcode, bit | 127, length))
    if not masked:
        frame += payload
        return frame
    key = random_bytes(4)
    frame += key
    begin = len(frame)
    frame += payload
    if length:
        with memoryview(frame) as whole, whole[begin:] as view:
            mask(key, view)
    return frame


def _unmasked(key: bytes, payload: bytes) -> bytes:
    buffer = bytearray(payload)
    if buffer:
        with memoryview(buffer) as view:
            mask(key, view)
    return bytes(buffer)
