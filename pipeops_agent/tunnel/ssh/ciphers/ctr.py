"""
C{aes128-ctr} and C{aes256-ctr} (RFC 4344) with an HMAC over the ciphertext (C{-etm@openssh.com}).

Encrypt-then-MAC (OpenSSH's PROTOCOL, section 1.7): the length stays in the clear, the MAC is over sequence
number, length and ciphertext, and nothing is decrypted before it was checked.
"""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from pipeops_agent.tunnel.ssh.cipher import LENGTH, Keys, check_length, not_authentic

BLOCK: Final = 16


class _MAC:
    """One direction's HMAC."""

    def __init__(self, key: bytes, digest: str) -> None:
        self._key = key
        self._digest = digest
        self.size = len(hmac.digest(b"", b"", digest))

    def over(self, sequence: int, signed: memoryview) -> bytes:
        """The MAC over a packet's number, length and ciphertext."""
        return hmac.digest(self._key, b"".join((LENGTH.pack(sequence), signed)), self._digest)


class CTRSealer:
    """See L{Sealer<pipeops_agent.tunnel.ssh.cipher.Sealer>}."""

    block = BLOCK
    counted = 0

    def __init__(self, keys: Keys, digest: str) -> None:
        self._encryptor = Cipher(algorithms.AES(keys.key), modes.CTR(keys.iv)).encryptor()
        self._mac = _MAC(keys.integrity, digest)
        self.tail = self._mac.size

    def seal(self, sequence: int, body: memoryview, packet: memoryview) -> None:
        end = 4 + len(body)
        packet[4:end] = self._encryptor.update(body)
        packet[end:] = self._mac.over(sequence, packet[:end])


class CTROpener:
    """The other side of L{CTRSealer}."""

    def __init__(self, keys: Keys, digest: str) -> None:
        self._decryptor = Cipher(algorithms.AES(keys.key), modes.CTR(keys.iv)).decryptor()
        self._mac = _MAC(keys.integrity, digest)
        self.tail = self._mac.size

    def read_length(self, sequence: int, head: memoryview) -> int:
        (length,) = LENGTH.unpack_from(head)
        return check_length(length, BLOCK, 0)

    def open(self, sequence: int, packet: memoryview) -> bytes:
        end = len(packet) - self.tail
        if not hmac.compare_digest(self._mac.over(sequence, packet[:end]), packet[end:]):
            raise not_authentic(sequence)
        return self._decryptor.update(packet[4:end])
