"""AES-GCM packets: a known answer, the nonce, and the streaming interface as another opinion."""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.ssh.cipher import Keys, PacketError
from pipeops_agent.tunnel.ssh.ciphers.gcm import GCMOpener, GCMSealer


def seal(sealer: GCMSealer, body: bytes) -> bytes:
    """C{body} as a packet."""
    packet = bytearray(struct.pack(">L", len(body)) + bytes(len(body) + sealer.tail))
    sealer.seal(0, memoryview(body), memoryview(packet))
    return bytes(packet)


class GCMTests(SynchronousTestCase):
    """One direction at a time."""

    def test_layout(self) -> None:
        """RFC 5647, 7.1-7.3: length as associated data, a nonce of 4 fixed bytes and a counter, tag last."""
        for size in (16, 32):
            keys = Keys(b"\x00\x01\x02\x03" + struct.pack(">Q", 7), bytes(range(size)), b"")
            sealer = GCMSealer(keys)
            for counter in (7, 8, 9):
                packet = seal(sealer, b"b" * 48)
                nonce = keys.iv[:4] + struct.pack(">Q", counter)
                opening = Cipher(algorithms.AES(keys.key), modes.GCM(nonce, packet[-16:])).decryptor()
                opening.authenticate_additional_data(packet[:4])
                self.assertEqual(opening.update(packet[4:-16]) + opening.finalize(), b"b" * 48)
                self.assertEqual(packet[:4], struct.pack(">L", 48))

    def test_known_answer(self) -> None:
        """Test case 2 of the GCM specification: the ciphertext where key, nonce and text are zeros."""
        keys = Keys(bytes(12), bytes(16), b"")
        self.assertEqual(seal(GCMSealer(keys), bytes(16))[4:20].hex(), "0388dace60b6a392f328c2b971b2fe78")

    def test_counter_wraps(self) -> None:
        """The invocation counter is 64 bits wide and wraps (RFC 5647, 7.1); opener and sealer keep step."""
        keys = Keys(b"\x00\x01\x02\x03" + b"\xff" * 8, b"k" * 16, b"")
        sealer, opener = GCMSealer(keys), GCMOpener(keys)
        for body in (b"last" * 4, b"1st " * 4):
            self.assertEqual(opener.open(0, memoryview(seal(sealer, body))), body)

    def test_each_bit(self) -> None:
        """A flipped bit anywhere, the length included, is no packet."""
        keys = Keys(bytes(12), bytes(16), b"")
        packet = seal(GCMSealer(keys), b"body" * 4)
        for position in range(len(packet)):
            damaged = bytearray(packet)
            damaged[position] ^= 0x80
            opener = GCMOpener(keys)
            error = self.assertRaises(PacketError, opener.open, 0, memoryview(damaged))
            self.assertEqual(error.code, PacketError.MAC_ERROR)
