"""The frame reader beside a decoder that is written for nothing but being right (RFC 6455, section 5.2)."""

from __future__ import annotations

from typing import Final, NamedTuple

from pipeops_agent.tunnel.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MAX_CONTROL,
    PING,
    PONG,
    TEXT,
    FrameError,
    FrameReader,
)
from tests.fuzz.source import Source, held

LIMITS: Final = (0, 1, 125, 126, 1000, 70_000)
"""The longest message: one of these."""

_LONGEST_HEAD: Final = 14
_MAX_PIECES: Final = 512


class Decoded(NamedTuple):
    """What a stream means: its messages, and whether it breaks the rules or may be said to."""

    messages: list[tuple[int, bytes]]
    broken: bool
    doubtful: bool
    """It ends inside a header whose first bytes break the rules: this may be noticed, or not yet."""


def decode(data: bytes, *, masked: bool, limit: int) -> Decoded:
    """Decode a whole stream, one octet after the other."""
    messages: list[tuple[int, bytes]] = []
    opcode: int | None = None
    collected = b""
    at = 0
    while True:
        head = data[at : at + _LONGEST_HEAD]
        wrong = _wrong(head, masked=masked, room=limit - len(collected), inside=opcode is not None)
        size = _head_size(head, masked=masked)
        if wrong and len(head) >= size:
            return Decoded(messages, broken=True, doubtful=False)
        if wrong or len(head) < size:
            return Decoded(messages, broken=False, doubtful=wrong)
        length = _length(head)
        payload = data[at + size : at + size + length]
        if len(payload) < length:
            return Decoded(messages, broken=False, doubtful=False)
        at += size + length
        if masked:
            key = head[size - 4 : size]
            payload = bytes(octet ^ key[place % 4] for place, octet in enumerate(payload))
        kind, final = head[0] & 0x0F, head[0] & 0x80
        if kind >= CLOSE:
            messages.append((kind, payload))
            continue
        opcode = kind if opcode is None else opcode
        collected += payload
        if final:
            messages.append((opcode, collected))
            opcode, collected = None, b""


def _head_size(head: bytes, *, masked: bool) -> int:
    """How long a header that begins so is; the wrong role is known after two octets."""
    if len(head) < 2 or bool(head[1] & 0x80) != masked:
        return 2
    return 2 + {126: 2, 127: 8}.get(head[1] & 0x7F, 0) + (4 if masked else 0)


def _length(head: bytes) -> int:
    short = head[1] & 0x7F
    size = {126: 2, 127: 8}.get(short, 0)
    return int.from_bytes(head[2 : 2 + size], "big") if size else short


def _wrong(head: bytes, *, masked: bool, room: int, inside: bool) -> bool:
    """Whether what is known of a header breaks a rule."""
    if not head:
        return False
    kind, final = head[0] & 0x0F, bool(head[0] & 0x80)
    control = kind >= CLOSE
    wrong = bool(head[0] & 0x70) or kind not in {CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG}
    wrong = wrong or (control and not final)
    wrong = wrong or (not control and (kind == CONTINUATION) != inside)
    if len(head) < 2:
        return wrong
    size = {126: 4, 127: 10}.get(head[1] & 0x7F, 2)
    wrong = wrong or bool(head[1] & 0x80) != masked
    if len(head) < size:
        return wrong or (control and size > 2)
    return wrong or _length(head) > (MAX_CONTROL if control else room)


def frames(data: bytes) -> None:
    """A stream in pieces: the decoder's messages and verdict, and nothing kept beyond a message."""
    source = Source(data)
    choice = source.byte()
    masked, limit = bool(choice & 1), LIMITS[choice // 2 % len(LIMITS)]
    size = 1 + source.byte() if choice & 0x80 else 1 << 16
    stream = _stretched(source)
    size = max(size, len(stream) // _MAX_PIECES)
    expected = decode(stream, masked=masked, limit=limit)
    reader = FrameReader(masked=masked, limit=limit)
    got: list[tuple[int, bytes]] = []
    broken = False
    try:
        for start in range(0, len(stream), size):
            piece = stream[start : start + size]
            for opcode, payload in reader.feed(piece):
                got.append((opcode, bytes(payload)))  # what comes before the error counts
            # At most one message without its last octet, one control frame, and a header of each.
            assert held(reader) <= limit + MAX_CONTROL + 2 * _LONGEST_HEAD
    except FrameError:
        broken = True
    # What is complete before the violation in the same piece comes first.
    assert got == expected.messages, (got, expected.messages)
    assert broken == expected.broken or expected.doubtful, (broken, expected)


def _stretched(source: Source) -> bytes:
    """The input, in which FE stands for more octets than an input has."""
    parts = []
    while source:
        octet = source.byte()
        parts.append(bytes(source.amount()) if octet == 0xFE else bytes((octet,)))
    return b"".join(parts)[: 1 << 17]
