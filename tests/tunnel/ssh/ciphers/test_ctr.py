"""AES-CTR with encrypt-then-MAC: a known answer, and what the MAC is over."""

from __future__ import annotations

import hashlib
import hmac
import struct

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.ssh.cipher import Keys, PacketError
from pipeops_agent.tunnel.ssh.ciphers.ctr import CTROpener, CTRSealer

# NIST SP 800-38A, F.5.1 (CTR-AES128).
KEYS = Keys(
    bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"),
    bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"),
    bytes(range(64)),
)
PLAIN = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
CRYPT = "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"


def seal(sealer: CTRSealer, sequence: int, body: bytes) -> bytes:
    """C{body} as a packet."""
    packet = bytearray(struct.pack(">L", len(body)) + bytes(len(body) + sealer.tail))
    sealer.seal(sequence, memoryview(body), memoryview(packet))
    return bytes(packet)


class CTRTests(SynchronousTestCase):
    """One direction at a time."""

    def test_known_answer(self) -> None:
        """The ciphertext is NIST's, over the end of one packet into the next: the counter goes on."""
        sealer = CTRSealer(KEYS, "sha256")
        packets = [seal(sealer, number, PLAIN[start : start + 16]) for number, start in enumerate((0, 16))]
        self.assertEqual("".join(packet[4:20].hex() for packet in packets), CRYPT)

    def test_mac(self) -> None:
        """It is over number, length and ciphertext (OpenSSH's PROTOCOL, section 1.7)."""
        for digest in ("sha256", "sha512"):
            packet = seal(CTRSealer(KEYS, digest), 9, PLAIN)
            end = 4 + len(PLAIN)
            expected = hmac.new(KEYS.integrity, struct.pack(">L", 9) + packet[:end], getattr(hashlib, digest))
            self.assertEqual(packet[end:], expected.digest())

    def test_each_bit(self) -> None:
        """A flipped bit anywhere, or another number, is no packet; the key stream has not moved on then."""
        packet = seal(CTRSealer(KEYS, "sha256"), 0, PLAIN)
        opener = CTROpener(KEYS, "sha256")
        for position in range(len(packet)):
            damaged = bytearray(packet)
            damaged[position] ^= 1
            error = self.assertRaises(PacketError, opener.open, 0, memoryview(damaged))
            self.assertEqual(error.code, PacketError.MAC_ERROR)
        self.assertRaises(PacketError, opener.open, 1, memoryview(packet))
        self.assertEqual(opener.open(0, memoryview(packet)), PLAIN)
