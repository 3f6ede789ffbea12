"""The packet layer: every cipher, every boundary, every way to tamper."""

from __future__ import annotations

import contextlib
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.ssh.cipher import MAX_PACKET, Keys, Opener, PacketError, Sealer
from pipeops_agent.tunnel.ssh.packets import PacketReader, PacketWriter
from pipeops_agent.tunnel.ssh.suites import CHACHA, CIPHERS, MACS, make_opener, make_sealer
from tests.tunnel.ssh.sealing import plain_packet, sealed

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
            stream = b"".join(sealed(writer, payload) for payload in payloads)
            self.assertEqual(list(reader.feed(stream)), payloads, (cipher, mac))

    def test_plain(self) -> None:
        """Before the first key exchange packets are only framed, padded to 8 bytes."""
        writer, reader = PacketWriter(), PacketReader()
        packet = sealed(writer, b"hello")
        self.assertEqual(len(packet) % 8, 0)
        self.assertEqual(list(reader.feed(packet)), [b"hello"])

    def test_byte_by_byte(self) -> None:
        """A packet that comes in single bytes is yielded once, with its last byte."""
        for cipher, mac in SUITES:
            writer, reader = writer_and_reader(cipher, mac)
            packet = sealed(writer, b"x" * 100)
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
        stream = b"".join(sealed(writer, payload) for payload in payloads)
        got: list[bytes | memoryview] = []
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
        first = sealed(writer, b"newkeys")
        sealer, opener = pair(*SUITES[0])
        writer.renew(sealer, reset_sequence=False)
        second = sealed(writer, b"secret")
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
            packet = sealed(writer, b"payload")
            for position in range(4, len(packet)):
                _, reader = writer_and_reader(cipher, mac)
                damaged = bytearray(packet)
                damaged[position] ^= 1
                self.assert_refused(reader, bytes(damaged), PacketError.MAC_ERROR)

    def test_replayed_packet(self) -> None:
        """The same packet twice: the second has the wrong number."""
        for cipher, mac in SUITES:
            writer, reader = writer_and_reader(cipher, mac)
            packet = sealed(writer, b"payload")
            self.assertEqual(list(reader.feed(packet)), [b"payload"])
            if cipher == CHACHA:  # even the length reads as another one then, most often one that none can be
                with contextlib.suppress(PacketError):
                    self.assertEqual(list(reader.feed(packet)), [])
            else:
                self.assert_refused(reader, packet, PacketError.MAC_ERROR)

    def test_length_is_authentic(self) -> None:
        """Another length that fits the block size fails as soon as the packet is complete."""
        for cipher, mac in SUITES:
            writer, reader = writer_and_reader(cipher, mac)
            packet = bytearray(sealed(writer, bytes(107)))
            packet[3] ^= 16  # 112 becomes 96, in clear or as the key stream hides it
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

    def test_sequence_numbers_wrap(self) -> None:
        """Packet numbers are 32 bits wide (RFC 4253, 6.4)."""
        writer, reader = writer_and_reader(b"aes128-ctr", MAC_NAMES[0])
        writer._sequence = reader.sequence = 0xFFFFFFFF
        self.assertEqual(list(reader.feed(sealed(writer, b"last"))), [b"last"])
        self.assertEqual(reader.sequence, 0)
        self.assertEqual(list(reader.feed(sealed(writer, b"first"))), [b"first"])

    def test_padding(self) -> None:
        """At least four bytes of padding, and a whole number of blocks (RFC 4253, 6)."""
        for size in range(1, 40):
            packet = plain_packet(b"x" * size)
            length, padding = struct.unpack(">LB", packet[:5])
            self.assertGreaterEqual(padding, 4)
            self.assertEqual(length, len(packet) - 4)
            self.assertEqual(len(packet) % 8, 0)


class Counting(SynchronousTestCase):
    """What rekeying by volume goes by."""

    def test_counts_since_the_last_keys(self) -> None:
        """Bytes and packets are counted from the last renewal on."""
        writer, reader = writer_and_reader(*SUITES[0])
        packet = sealed(writer, b"x" * 10)
        list(reader.feed(packet))
        self.assertEqual((writer.bytes_sealed, writer.packets_sealed), (len(packet), 1))
        self.assertEqual((reader.bytes_opened, reader.packets_opened), (len(packet), 1))
        sealer, opener = pair(*SUITES[0])
        writer.renew(sealer, reset_sequence=False)
        reader.renew(opener, reset_sequence=False)
        self.assertEqual((writer.bytes_sealed, reader.packets_opened), (0, 0))
