"""ChaCha20-Poly1305 as OpenSSH has it: known answers, and another way to put the same packet together."""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.poly1305 import Poly1305
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.ssh.cipher import Keys, PacketError
from pipeops_agent.tunnel.ssh.ciphers.chacha import ChaChaOpener, ChaChaSealer

KEYS = Keys(b"", bytes(range(64)), b"")
BODY = b"\x04" + b"payload" * 5 + bytes(4)


def seal(sealer: ChaChaSealer, sequence: int, body: bytes) -> bytes:
    """C{body} as a packet."""
    packet = bytearray(struct.pack(">L", len(body)) + bytes(len(body) + sealer.tail))
    sealer.seal(sequence, memoryview(body), memoryview(packet))
    return bytes(packet)


def key_stream(key: bytes, sequence: int, block: int, size: int) -> bytes:
    """ChaCha20 as its author has it: a 64-bit block counter, little-endian, then a 64-bit nonce."""
    nonce = struct.pack("<Q", block) + struct.pack(">Q", sequence)
    return Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor().update(bytes(size))


def cross(text: bytes, stream: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(text, stream, strict=True))


class ChaChaTests(SynchronousTestCase):
    """One direction at a time."""

    def test_known_answer(self) -> None:
        """
        The zero key's key stream is that of RFC 7539, appendix A.1.

        Vector 1 is the block at counter 0 (which encrypts the length and makes the Poly1305 key), vector 2
        that at counter 1 (which encrypts the body).
        """
        packet = seal(ChaChaSealer(Keys(b"", bytes(64), b"")), 0, bytes(16))
        zero = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
        self.assertEqual(packet[:4], cross(struct.pack(">L", 16), zero[:4]))
        self.assertEqual(packet[4:20].hex(), "9f07e7be5551387a98ba977c732d080d")
        self.assertEqual(packet[20:], Poly1305.generate_tag(zero, packet[:20]))

    def test_layout(self) -> None:
        """
        PROTOCOL.chacha20poly1305, by its words: K_2 is the first half of the key, K_1 the second.

        K_1 encrypts the length, K_2 from block 1 on the body; block 0 of K_2 is the tag's key.
        """
        sealer = ChaChaSealer(KEYS)
        for sequence in (0, 3, 0xFFFFFFFF):
            packet = seal(sealer, sequence, BODY)
            length = cross(packet[:4], key_stream(KEYS.key[32:], sequence, 0, 4))
            body = cross(packet[4:-16], key_stream(KEYS.key[:32], sequence, 1, len(BODY)))
            poly_key = key_stream(KEYS.key[:32], sequence, 0, 32)
            self.assertEqual((length, body), (struct.pack(">L", len(BODY)), BODY))
            self.assertEqual(packet[-16:], Poly1305.generate_tag(poly_key, packet[:-16]))

    def test_no_aead_of_rfc_8439(self) -> None:
        """It is not C{cryptography}'s ChaCha20Poly1305: the tag is another one."""
        packet = seal(ChaChaSealer(KEYS), 1, BODY)
        nonce = bytes(4) + struct.pack(">Q", 1)
        other = ChaCha20Poly1305(KEYS.key[:32]).encrypt(nonce, BODY, packet[:4])
        self.assertEqual(other[:-16], packet[4:-16])
        self.assertNotEqual(other[-16:], packet[-16:])

    def test_length_may_be_asked_again(self) -> None:
        """Reading the length changes nothing: a packet that comes in parts is asked for it with each part."""
        packet = memoryview(seal(ChaChaSealer(KEYS), 5, BODY))
        opener = ChaChaOpener(KEYS)
        for _ in range(3):
            self.assertEqual(opener.read_length(5, packet[:4]), len(BODY))
        self.assertEqual(opener.open(5, packet), BODY)

    def test_length_out_of_bounds(self) -> None:
        """A length that decrypts to what none can be is refused before anything is kept."""
        for length in (0, 5, 41, 1 << 20, 0xFFFFFFFF):
            head = cross(struct.pack(">L", length), key_stream(KEYS.key[32:], 0, 0, 4))
            self.assertRaises(PacketError, ChaChaOpener(KEYS).read_length, 0, memoryview(head))

    def test_each_bit(self) -> None:
        """A flipped bit anywhere is no packet; nor is a packet under another number, or one cut short."""
        packet = seal(ChaChaSealer(KEYS), 0, BODY)
        for position in range(len(packet)):
            damaged = bytearray(packet)
            damaged[position] ^= 1
            error = self.assertRaises(PacketError, ChaChaOpener(KEYS).open, 0, memoryview(damaged))
            self.assertEqual(error.code, PacketError.MAC_ERROR)
        self.assertRaises(PacketError, ChaChaOpener(KEYS).open, 1, memoryview(packet))
        self.assertRaises(PacketError, ChaChaOpener(KEYS).open, 0, memoryview(packet)[:-8])
