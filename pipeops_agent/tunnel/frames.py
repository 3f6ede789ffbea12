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
_MEDIUM: Final = 0xFFFF
_KEY: Final = 4
_KNOWN: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})

_WHOLE: Final = _FIN | BINARY
"""How a message begins that is one frame: nearly all."""

_HEAD: Final = struct.Struct(">BB")
_HEAD16: Final = struct.Struct(">BBH")
_HEAD64: Final = struct.Struct(">BBQ")


class FrameError(Exception):
    """What came is no frame that may come here."""


Payload = bytes | memoryview
"""What a message holds: a view of what came, where that was possible without a copy."""


class Message(NamedTuple):
    """One message, or one control frame, whose payload is always C{bytes}."""

    opcode: int
    payload: Payload


class FrameReader:
    """
    Cuts a byte stream into messages.

    @param masked: whether the peer is a client: then each of its frames must be masked, else none.
    @param limit: the longest message, in bytes, however many frames it comes in.
    """

    def __init__(self, *, masked: bool, limit: int) -> None:
        self._mask_bit = _MASKED if masked else 0
        self._key_size = _KEY if masked else 0
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
        needed = 2
        while end - position >= needed:
            first, second = source[position], source[position + 1]
            length, begin = second & _LENGTH, position + 2
            if length > _SHORT:
                begin += 2 if length == 126 else 8
            if second & _MASKED != self._mask_bit:
                raise FrameError("a frame is not masked" if self._mask_bit else "the peer masks its frames")
            payload = begin + self._key_size
            if payload > end:
                needed = payload - position
                break
            if length > _SHORT:
                length = int.from_bytes(source[position + 2 : begin], "big")
            if first != _WHOLE or length > self._limit or self._opcode is not None:
                self._check(first, length)
            after = payload + length
            if after > end:
                needed = after - position
                break
            message = self._take(first, source, begin, payload, after)
            position = after
            if message is not None:
                yield message
        if position < end:
            self._rest = bytearray(memoryview(source)[position:])
            self._needed = needed

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

    def _take(
        self, first: int, source: bytes | bytearray, begin: int, payload: int, after: int
    ) -> Message | None:
        """
        Put a frame where it belongs; return the message that is complete with it.

        @param begin: where its key is in C{source}, if it has one.
        @param payload: where its payload is, until C{after}.
        """
        view = memoryview(source)[payload:after]
        content: Payload = _unmasked(source[begin:payload], view) if self._mask_bit else view
        if first == _WHOLE and self._opcode is None:
            return Message(BINARY, content)
        opcode, final = first & _OPCODE, first & _FIN
        if opcode >= CLOSE:
            return Message(opcode, bytes(content))
        if final and self._opcode is None:
            return Message(opcode, content)
        if self._opcode is None:
            self._opcode = opcode
        if content:  # empty frames without end must not add up
            self._parts.append(bytes(content))
            self._length += len(content)
        if not final:
            return None
        message = Message(self._opcode, b"".join(self._parts))
        self._opcode, self._parts, self._length = None, [], 0
        return message


def header_size(length: int, *, masked: bool) -> int:
    """Return how many bytes stand before a payload of C{length} bytes."""
    size = 2 if length <= _SHORT else 4 if length <= _MEDIUM else 10
    return size + _KEY if masked else size


def frame_in_place(buffer: memoryview, begin: int, end: int, opcode: int, *, masked: bool) -> None:
    """
    Make one final frame of the payload C{buffer[begin:end]}: write its header before it, and mask it.

    @param buffer: with room for a header of L{header_size} before C{begin}.
    @param masked: whether this side is the client. The key comes from the system's random source (5.3).
    """
    length = end - begin
    bit = 0
    if masked:
        bit = _MASKED
        key = random_bytes(_KEY)
        if length:
            mask(key, buffer[begin:end])
        begin -= _KEY
        buffer[begin : begin + _KEY] = key
    if length <= _SHORT:
        _HEAD.pack_into(buffer, begin - 2, _FIN | opcode, bit | length)
    elif length <= _MEDIUM:
        _HEAD16.pack_into(buffer, begin - 4, _FIN | opcode, bit | 126, length)
    else:
        _HEAD64.pack_into(buffer, begin - 10, _FIN | opcode, bit | 127, length)


def _unmasked(key: bytes | bytearray, payload: memoryview) -> bytes:
    buffer = bytearray(payload)
    if buffer:
        with memoryview(buffer) as view:
            mask(bytes(key), view)
    return bytes(buffer)
