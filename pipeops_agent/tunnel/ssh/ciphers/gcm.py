"""
C{aes128-gcm@openssh.com} and C{aes256-gcm@openssh.com}: RFC 5647, negotiated as OpenSSH does (PROTOCOL, 1.6).

The length is authenticated but not encrypted; the body is both, in one call.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeops_agent.tunnel.ssh.cipher import LENGTH, Keys, check_length, not_authentic

BLOCK: Final = 16
TAG: Final = 16

_COUNTER_MASK: Final = 0xFFFFFFFFFFFFFFFF


class _GCM:
    """One direction's key, and its nonce: four fixed bytes and a 64-bit invocation counter (section 7.1)."""

    tail = TAG

    def __init__(self, keys: Keys) -> None:
        self._aead = AESGCM(keys.key)
        self._fixed = keys.iv[:4]
        self._counter = int.from_bytes(keys.iv[4:12], "big")

    def _nonce(self) -> bytes:
        counter = self._counter
        self._counter = (counter + 1) & _COUNTER_MASK
        return self._fixed + counter.to_bytes(8, "big")


class GCMSealer(_GCM):
    """See L{Sealer<pipeops_agent.tunnel.ssh.cipher.Sealer>}."""

    block = BLOCK
    counted = 0

    def seal(self, sequence: int, body: memoryview, packet: memoryview) -> None:
        self._aead.encrypt_into(self._nonce(), body, packet[:4], packet[4:])


class GCMOpener(_GCM):
    """The other side of L{GCMSealer}."""

    def read_length(self, sequence: int, head: memoryview) -> int:
        (length,) = LENGTH.unpack_from(head)
        return check_length(length, BLOCK, 0)

    def open(self, sequence: int, packet: memoryview) -> bytes:
        try:
            return self._aead.decrypt(self._nonce(), packet[4:], packet[:4])
        except InvalidTag:
            raise not_authentic(sequence) from None
