"""The packet layer: every cipher, every boundary, every way to tamper."""

from __future__ import annotations

import contextlib
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.ssh.packets import (
    CIPHERS,
    MACS,
    MAX_PACKET,
    GCMSealer,
    Keys,
    Opener,
    PacketError,
    PacketReader,
    PacketWriter,
    Plain,
    Sealer,
    make_opener,
    make_sealer,
)

KEYS = Keys(bytes(range(64)), bytes(range(64, 128)), bytes(range(128, 192)))
MAC_NAMES = list(MACS)
SUITES = [(cipher, mac) for cipher in CIPHERS for mac in MACS]


def pair(cipher: bytes, mac: bytes) -> tuple[Sealer, Opener]:
    """A sealer and the opener that fits it."""
    return make_sealer(cipher, mac, KEYS), make_opener(cipher, mac, KEYS)


def writer_and_reader(cipher: bytes, mac: bytes) -> tuple[PacketWriter, PacketReader]:
    """The same, with their numbering."""
    writer, reader = PacketWriter(), PacketReader()
    sealer, opener = pair(cipher, mac)
    writer.renew(sealer, reset_sequence=True)
    reader.renew(opener, reset_sequence=True)
    return writer, reader


class RoundTrips(SynchronousTestCase):
    """What is sealed can be opened, however it is cut."""

    def test_every_suite_and_size(self) -> None:
        """Payloads of every length around the block size come back, in order."""
        for cipher, mac in SUITES:
            writer, reader = writer_and_reader(cipher, mac)
            payloads = [bytes([size % 251]) * size for size in [*range(1, 70), 32768, 35000]]
            stream = b"".join(writer.seal(payload) for payload in payloads)
            self.assertEqual(list(reader.feed(stream)), payloads, (cipher, mac))

    def test_plain(self) -> None:
        """Before the first key exchange packets are only framed, padded to 8 bytes."""
        writer, reader = PacketWriter(), PacketReader()
        packet = writer.seal(b"hello")
        self.assertEqual(len(packet) % 8, 0)
        self.assertEqual(list(reader.feed(packet)), [b"hello"])

    def test_byte_by_byte(self) -> None:
        """A packet that comes in single bytes is yielded once, with its last byte."""
        for cipher, mac in SUITES:
            writer, reader = writer_and_reader(cipher, mac)
            packet = writer.seal(b"x" * 100)
            for position in range(len(packet) - 1):
                self.assertEqual(list(reader.feed(packet[position : position + 1])), [])
            self.assertEqual(list(reader.feed(packet[-1:])), [b"x" * 100])

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=12),
        st.lists(st.integers(1, 400), min_size=1, max_size=40),
        st.sampled_from(SUITES),
    )
    def test_any_split(self, payloads: list[bytes], cuts: list[int], suite: tuple[bytes, bytes]) -> None:
        """However the stream is cut, the same payloads come out."""
        writer, reader = writer_and_reader(*suite)
        stream = b"".join(writer.seal(payload) for payload in payloads)
        got: list[bytes] = []
        position = turn = 0
        while position < len(stream):
            size = cuts[turn % len(cuts)]
            got += reader.feed(stream[position : position + size])
            position += size
            turn += 1
        self.assertEqual(got, payloads)

    def test_renewed_between_two_packets(self) -> None:
        """An opener replaced after a packet opens the next, though both came in one piece."""
        writer, reader = PacketWriter(), PacketReader()
        first = writer.seal(b"newkeys")
        sealer, opener = pair(*SUITES[0])
        writer.renew(sealer, reset_sequence=False)
        second = writer.seal(b"secret")
        stream = reader.feed(first + second)
        self.assertEqual(next(stream), b"newkeys")
        reader.renew(opener, reset_sequence=False)
        self.assertEqual(list(stream), [b"secret"])


class Tampering(SynchronousTestCase):
    """What was not sealed by the peer is not opened."""

    def assert_refused(self, reader: PacketReader, data: bytes, code: int) -> None:
        """Feeding C{data} is a L{PacketError} with C{code}."""
        error = self.assertRaises(PacketError, lambda: list(reader.feed(data)))
        self.assertEqual(error.code, code)

    def test_each_flipped_bit(self) -> None:
        """A flipped bit anywhere behind the length fails the MAC or tag."""
        for cipher, mac in SUITES:
            writer, _ = writer_and_reader(cipher, mac)
            packet = writer.seal(b"payload")
            for position in range(4, len(packet)):
                _, reader = writer_and_reader(cipher, mac)
                damaged = bytearray(packet)
                damaged[position] ^= 1
                self.assert_refused(reader, bytes(damaged), PacketError.MAC_ERROR)

    def test_replayed_packet(self) -> None:
        """The same packet twice: the second has the wrong number."""
        for cipher, mac in SUITES:
            writer, reader = writer_and_reader(cipher, mac)
            packet = writer.seal(b"payload")
            self.assertEqual(list(reader.feed(packet)), [b"payload"])
            self.assert_refused(reader, packet, PacketError.MAC_ERROR)

    def test_length_is_authentic(self) -> None:
        """Another length that fits the block size fails as soon as the packet is complete."""
        for cipher, mac in SUITES:
            writer, reader = writer_and_reader(cipher, mac)
            packet = bytearray(writer.seal(b"p" * 100))
            (length,) = struct.unpack(">L", packet[:4])
            packet[:4] = struct.pack(">L", length - 16)
            self.assert_refused(reader, bytes(packet), PacketError.MAC_ERROR)

    def test_length_out_of_bounds(self) -> None:
        """A length of nothing, or of more than the limit, is refused before anything is kept."""
        for cipher, mac in SUITES:
            for length in (0, 1, 5, MAX_PACKET + 16, 0xFFFFFFF0):
                _, reader = writer_and_reader(cipher, mac)
                self.assert_refused(reader, struct.pack(">L", length), PacketError.PROTOCOL_ERROR)

    def test_length_off_the_block_size(self) -> None:
        """A length that is no multiple of the block size is refused at once."""
        _, reader = writer_and_reader(*SUITES[0])
        self.assert_refused(reader, struct.pack(">L", 33), PacketError.PROTOCOL_ERROR)

    def test_impossible_padding(self) -> None:
        """Padding that leaves no payload, or is under 4 bytes, is refused."""
        for padding in (0, 3, 11, 255):
            body = bytes([padding]) + bytes(11)
            packet = struct.pack(">L", len(body)) + body
            self.assert_refused(PacketReader(), packet, PacketError.PROTOCOL_ERROR)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=400), st.sampled_from(SUITES))
    def test_noise(self, noise: bytes, suite: tuple[bytes, bytes]) -> None:
        """Noise yields nothing, and nothing but the one error."""
        _, reader = writer_and_reader(*suite)
        with contextlib.suppress(PacketError):
            self.assertEqual(list(reader.feed(noise)), [])


class Formats(SynchronousTestCase):
    """What goes onto the wire is what the RFCs say."""

    def test_gcm_layout(self) -> None:
        """RFC 5647, 7.1-7.3: clear length as associated data, nonce = 4 fixed bytes + counter."""
        keys = Keys(b"\x00\x01\x02\x03" + struct.pack(">Q", 7), b"k" * 16, b"")
        sealer = GCMSealer(keys)
        for counter in (7, 8, 9):
            packet = sealer.seal(0, b"payload")
            nonce = keys.iv[:4] + struct.pack(">Q", counter)
            body = AESGCM(keys.key).decrypt(nonce, packet[4:], packet[:4])
            self.assertEqual(body[1 : -body[0]], b"payload")
            self.assertEqual((len(packet) - 4 - 16) % 16, 0)

    def test_gcm_counter_wraps(self) -> None:
        """The invocation counter is 64 bits wide and wraps (RFC 5647, 7.1)."""
        keys = Keys(b"\x00\x01\x02\x03" + b"\xff" * 8, b"k" * 16, b"")
        sealer = GCMSealer(keys)
        sealer.seal(0, b"last")
        packet = sealer.seal(1, b"first")
        AESGCM(keys.key).decrypt(keys.iv[:4] + bytes(8), packet[4:], packet[:4])

    def test_sequence_numbers_wrap(self) -> None:
        """Packet numbers are 32 bits wide (RFC 4253, 6.4)."""
        writer, reader = writer_and_reader(b"aes128-ctr", MAC_NAMES[0])
        writer._sequence = reader.sequence = 0xFFFFFFFF
        self.assertEqual(list(reader.feed(writer.seal(b"last"))), [b"last"])
        self.assertEqual(reader.sequence, 0)
        self.assertEqual(list(reader.feed(writer.seal(b"first"))), [b"first"])

    def test_padding(self) -> None:
        """At least four bytes of padding, and a whole number of blocks (RFC 4253, 6)."""
        for size in range(1, 40):
            packet = Plain().seal(0, b"x" * size)
            length, padding = struct.unpack(">LB", packet[:5])
            self.assertGreaterEqual(padding, 4)
            self.assertEqual(length, len(packet) - 4)
            self.assertEqual(len(packet) % 8, 0)


class Counting(SynchronousTestCase):
    """What rekeying by volume goes by."""

    def test_counts_since_the_last_keys(self) -> None:
        """Bytes and packets are counted from the last renewal on."""
        writer, reader = writer_and_reader(*SUITES[0])
        packet = writer.seal(b"x" * 10)
        list(reader.feed(packet))
        self.assertEqual((writer.bytes_sealed, writer.packets_sealed), (len(packet), 1))
        self.assertEqual((reader.bytes_opened, reader.packets_opened), (len(packet), 1))
        sealer, opener = pair(*SUITES[0])
        writer.renew(sealer, reset_sequence=False)
        reader.renew(opener, reset_sequence=False)
        self.assertEqual((writer.bytes_sealed, reader.packets_opened), (0, 0))
