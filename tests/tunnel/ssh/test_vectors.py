"""
The packet layer against other implementations of the same.

Stock Conch can't be the peer: its MACs are all of the kind that encrypts and authenticates separately
(C{hmac-sha2-256}), this side's are encrypt-then-MAC, and it has no AES-GCM; the two have no MAC in common,
which L{NothingInCommon} holds fast. So packets are taken apart and put together here with other code:
AES-GCM by C{cryptography}'s streaming interface instead of its one-call one, AES-CTR by Conch's own cipher
objects, HMAC by C{hmac.new}, all by the layouts of RFC 5647 and of OpenSSH's PROTOCOL,
section 1.7 (encrypt-then-MAC).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from twisted.conch.ssh.transport import SSHCiphers, SSHTransportBase
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.ssh.cipher import Keys
from pipeops_agent.tunnel.ssh.packets import PacketReader, PacketWriter
from pipeops_agent.tunnel.ssh.suites import CIPHERS, MACS, make_opener, make_sealer
from tests.tunnel.ssh.sealing import sealed

KEYS = Keys(bytes(range(100, 164)), bytes(range(64)), bytes(range(50, 114)))
PAYLOADS = [b"\x14", b"payload", bytes(1000), b"x" * 32768]
DIGESTS = {
    b"hmac-sha2-256-etm@openssh.com": (hashlib.sha256, 32),
    b"hmac-sha2-512-etm@openssh.com": (hashlib.sha512, 64),
}


class GCM:
    """AES-GCM packets as RFC 5647 draws them, by the streaming interface."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._fixed, self._counter = KEYS.iv[:4], int.from_bytes(KEYS.iv[4:12], "big")

    def _nonce(self) -> bytes:
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        self._counter += 1
        return nonce

    def put_together(self, payload: bytes) -> bytes:
        padding = 16 - (1 + len(payload)) % 16 + 16
        head = struct.pack(">L", 1 + len(payload) + padding)
        cipher = Cipher(algorithms.AES(self._key), modes.GCM(self._nonce())).encryptor()
        cipher.authenticate_additional_data(head)
        body = cipher.update(bytes((padding,)) + payload + bytes(padding)) + cipher.finalize()
        return head + body + cipher.tag

    def take_apart(self, packet: bytes) -> bytes:
        head, body, tag = packet[:4], packet[4:-16], packet[-16:]
        cipher = Cipher(algorithms.AES(self._key), modes.GCM(self._nonce(), tag)).decryptor()
        cipher.authenticate_additional_data(head)
        plain = cipher.update(body) + cipher.finalize()
        assert struct.unpack(">L", head) == (len(plain),)
        return plain[1 : -plain[0]]


class Vectors(SynchronousTestCase):
    """Packets of the one are packets of the other, in both directions, several in a row."""

    def writer_and_reader(self, cipher: bytes, mac: bytes) -> tuple[PacketWriter, PacketReader]:
        """Ours."""
        writer, reader = PacketWriter(), PacketReader()
        writer.renew(make_sealer(cipher, mac, KEYS), reset_sequence=True)
        reader.renew(make_opener(cipher, mac, KEYS), reset_sequence=True)
        return writer, reader

    def test_gcm(self) -> None:
        """AES-GCM with either key size: length in the clear and authenticated, a nonce that counts."""
        for name, size in ((b"aes128-gcm@openssh.com", 16), (b"aes256-gcm@openssh.com", 32)):
            writer, reader = self.writer_and_reader(name, next(iter(MACS)))
            theirs, taken = GCM(KEYS.key[:size]), GCM(KEYS.key[:size])
            for payload in PAYLOADS:
                self.assertEqual(list(reader.feed(theirs.put_together(payload))), [payload])
                self.assertEqual(taken.take_apart(sealed(writer, payload)), payload)

    def test_ctr_and_hmac(self) -> None:
        """AES-CTR of Conch with either key size, and either HMAC over number, length and ciphertext."""
        for name, size in ((b"aes128-ctr", 16), (b"aes256-ctr", 32)):
            for mac, (digest, length) in DIGESTS.items():
                self.check_ctr(name, size, mac, digest, length)

    def check_ctr(self, name: bytes, size: int, mac: bytes, digest: Any, length: int) -> None:
        """One pair of algorithms."""
        writer, reader = self.writer_and_reader(name, mac)
        conch = SSHCiphers(name, name, b"none", b"none")
        conch.setKeys(KEYS.iv[:16], KEYS.key[:size], KEYS.iv[:16], KEYS.key[:size], b"", b"")
        for number, payload in enumerate(PAYLOADS):
            padding = 16 - (1 + len(payload)) % 16 + 16
            head = struct.pack(">L", 1 + len(payload) + padding)
            signed = head + conch.encrypt(bytes((padding,)) + payload + bytes(padding))
            tag = hmac.new(KEYS.integrity[:length], struct.pack(">L", number) + signed, digest).digest()
            self.assertEqual(list(reader.feed(signed + tag)), [payload])
            packet = sealed(writer, payload)
            signed, tag = packet[:-length], packet[-length:]
            expected = hmac.new(KEYS.integrity[:length], struct.pack(">L", number) + signed, digest)
            self.assertEqual(tag, expected.digest())
            plain = conch.decrypt(signed[4:])
            self.assertEqual(plain[1 : -plain[0]], payload)

    def test_published_vector(self) -> None:
        """
        Test case 4 of the GCM specification (McGrew and Viega, appendix B) comes out of what plays the
        peer here: what ours agrees with is the standard.
        """
        key = bytes.fromhex("feffe9928665731c6d6a8f9467308308")
        cipher = Cipher(algorithms.AES(key), modes.GCM(bytes.fromhex("cafebabefacedbaddecaf888"))).encryptor()
        cipher.authenticate_additional_data(bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2"))
        plain = bytes.fromhex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        )
        cipher.update(plain)
        cipher.finalize()
        self.assertEqual(cipher.tag.hex(), "5bc94fbc3221a5db94fae95ae7121a47")


class NothingInCommon(SynchronousTestCase):
    """Why stock Conch is not the peer of these tests."""

    def test_no_common_mac(self) -> None:
        """Conch has none of this side's MACs and none of its ciphers that need none."""
        self.assertEqual(set(MACS) & set(SSHTransportBase.supportedMACs), set())
        aead = {name for name, suite in CIPHERS.items() if suite.aead}
        self.assertEqual(aead & set(SSHTransportBase.supportedCiphers), set())
