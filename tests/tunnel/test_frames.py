"""WebSocket frames: the vectors of RFC 6455, every way to cut them, and every way to break the rules."""

from __future__ import annotations

import contextlib
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    FrameError,
    FrameReader,
    Message,
    frame_in_place,
    header_size,
)
from pipeops_agent.tunnel.masking import mask, mask_as_integer

LIMIT = 1 << 20


def make_frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """C{payload} as one final frame."""
    head = header_size(len(payload), masked=masked)
    buffer = bytearray(head) + payload
    frame_in_place(memoryview(buffer), head, len(buffer), opcode, masked=masked)
    return bytes(buffer)


def reader(*, masked: bool = False, limit: int = LIMIT) -> FrameReader:
    """A reader of what a server sends, or with C{masked} a client."""
    return FrameReader(masked=masked, limit=limit)


class VectorTests(SynchronousTestCase):
    """The examples of section 5.7."""

    def test_unmasked_text(self) -> None:
        """A single-frame unmasked text message."""
        self.assertEqual(list(reader().feed(b"\x81\x05Hello")), [Message(TEXT, b"Hello")])
        self.assertEqual(make_frame(TEXT, b"Hello", masked=False), b"\x81\x05Hello")

    def test_masked_text(self) -> None:
        """A single-frame masked text message."""
        frame = bytes.fromhex("818537fa213d7f9f4d5158")
        self.assertEqual(list(reader(masked=True).feed(frame)), [Message(TEXT, b"Hello")])

    def test_fragmented(self) -> None:
        """A message in two frames, and a ping between them."""
        data = b"\x01\x03Hel" + b"\x89\x05Hello" + b"\x80\x02lo"
        self.assertEqual(list(reader().feed(data)), [Message(PING, b"Hello"), Message(TEXT, b"Hello")])

    def test_lengths(self) -> None:
        """256 bytes have a 16-bit length, 64 KiB a 64-bit one."""
        self.assertEqual(make_frame(BINARY, bytes(256), masked=False)[:4], b"\x82\x7e\x01\x00")
        self.assertEqual(
            make_frame(BINARY, bytes(65536), masked=False)[:10], b"\x82\x7f" + struct.pack(">Q", 65536)
        )


class RoundTripTests(SynchronousTestCase):
    """What is framed comes back."""

    def test_every_boundary(self) -> None:
        """Lengths around each change of the header, in both roles."""
        for masked in (False, True):
            for size in (0, 1, 125, 126, 127, 128, 129, 65535, 65536, 100_000):
                payload = bytes(n % 251 for n in range(size))
                frame = make_frame(BINARY, payload, masked=masked)
                self.assertEqual(list(reader(masked=masked).feed(frame)), [Message(BINARY, payload)])

    def test_keys_differ(self) -> None:
        """Every frame has a key of its own."""
        frames = {make_frame(BINARY, b"same", masked=True) for _ in range(50)}
        self.assertGreater(len(frames), 45)

    @settings(max_examples=80, deadline=None)
    @given(
        st.lists(st.binary(max_size=400), min_size=1, max_size=8),
        st.lists(st.integers(1, 300), min_size=1, max_size=20),
        st.booleans(),
    )
    def test_any_cut(self, payloads: list[bytes], cuts: list[int], masked: bool) -> None:
        """However the stream is cut, the same messages come."""
        stream = b"".join(make_frame(BINARY, payload, masked=masked) for payload in payloads)
        frames, position, turn = reader(masked=masked), 0, 0
        got: list[Message] = []
        while position < len(stream):
            size = cuts[turn % len(cuts)]
            got += frames.feed(stream[position : position + size])
            position, turn = position + size, turn + 1
        self.assertEqual([message.payload for message in got], payloads)

    @settings(max_examples=60, deadline=None)
    @given(st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=5000))
    def test_both_ways_to_mask_agree(self, key: bytes, data: bytes) -> None:
        """The native function and the integer do what section 5.3 says."""
        expected = bytes(octet ^ key[place % 4] for place, octet in enumerate(data))
        for function in (mask, mask_as_integer):
            buffer = bytearray(data)
            function(key, memoryview(buffer))
            self.assertEqual(bytes(buffer), expected)


class ViolationTests(SynchronousTestCase):
    """A peer that breaks the rules."""

    def assert_refused(self, data: bytes, *, masked: bool = False, limit: int = LIMIT) -> None:
        """C{data} is an error, as soon as it can be told."""
        self.assertRaises(FrameError, lambda: list(reader(masked=masked, limit=limit).feed(data)))

    def test_wrong_role(self) -> None:
        """A server must not mask, a client must."""
        self.assert_refused(make_frame(BINARY, b"x", masked=True))
        self.assert_refused(make_frame(BINARY, b"x", masked=False), masked=True)

    def test_reserved_bits_and_opcodes(self) -> None:
        """Nothing was negotiated that uses them."""
        for first in (0xC2, 0xA2, 0x92, 0x83, 0x87, 0x8B, 0x8F):
            self.assert_refused(bytes((first, 0)))

    def test_control_frames(self) -> None:
        """Control frames are neither fragmented nor long."""
        self.assert_refused(b"\x09\x00")
        self.assert_refused(b"\x89\x7e\x00\x7e" + bytes(126))
        self.assert_refused(b"\x88\x7f" + struct.pack(">Q", 1 << 62))

    def test_too_long_at_once(self) -> None:
        """An announced length beyond the limit is refused before anything is kept."""
        self.assert_refused(b"\x82\x7f" + struct.pack(">Q", 1 << 62))
        self.assert_refused(b"\x82\x7f" + struct.pack(">Q", LIMIT + 1))

    def test_too_long_in_pieces(self) -> None:
        """So is a message whose frames add up to more."""
        first = b"\x02\x64" + bytes(100)
        self.assert_refused(first + b"\x00\x64" + bytes(100), limit=150)

    def test_order_of_frames(self) -> None:
        """A continuation needs a beginning, and a beginning an end."""
        self.assert_refused(b"\x80\x01x")
        self.assert_refused(b"\x02\x01x" + b"\x82\x01y")

    def test_nothing_is_kept_twice(self) -> None:
        """A long frame that comes byte by byte is collected once, and then forgotten."""
        frame = make_frame(BINARY, bytes(3000), masked=False)
        frames = reader()
        for place in range(len(frame) - 1):
            self.assertEqual(list(frames.feed(frame[place : place + 1])), [])
        self.assertEqual(len(list(frames.feed(frame[-1:]))), 1)
        self.assertEqual(len(frames._rest), 0)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.binary(max_size=60), max_size=6), st.booleans())
    def test_noise(self, pieces: list[bytes], masked: bool) -> None:
        """Whatever comes, there is nothing but messages and the one error."""
        frames = reader(masked=masked, limit=1000)
        with contextlib.suppress(FrameError):
            for piece in pieces:
                for message in frames.feed(piece):
                    self.assertIn(message.opcode, (TEXT, BINARY, CLOSE, PING, PONG))
