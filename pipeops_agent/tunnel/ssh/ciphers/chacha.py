"""
C{chacha20-poly1305@openssh.com} (OpenSSH's PROTOCOL.chacha20poly1305).

It is not the AEAD of RFC 8439: there are two ChaCha20 instances with the sequence number as nonce, one for
the length alone and one for the body, whose first block of key stream makes the Poly1305 key; the tag is
over the encrypted length and the encrypted body, without padding. The length has to be decrypted before
the packet can be checked: what it says is only how many bytes to wait for, within the bounds.
"""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
from cryptography.hazmat.primitives.poly1305 import Poly1305

from pipeops_agent.tunnel.ssh.cipher import LENGTH, Keys, check_length, not_authentic

BLOCK: Final = 8
TAG: Final = 16

_FIRST_BLOCK: Final = bytes(64)
"""A block of zeros, whose encryption is the key stream."""
_POLY_KEY: Final = 32


class _ChaCha:
    """One direction's two instances: the first half of the key is the body's, the second the length's."""

    tail = TAG

    def __init__(self, keys: Keys) -> None:
        self._body = _stream(keys.key[:32])
        self._length = _stream(keys.key[32:64])

    def _start(self, sequence: int) -> bytes:
        """Begin with packet C{sequence}: return its Poly1305 key; the body's key stream comes next."""
        self._body.reset_nonce(_nonce(sequence))
        return self._body.update(_FIRST_BLOCK)[:_POLY_KEY]

    def _cross_length(self, sequence: int, head: memoryview) -> bytes:
        """Encrypt or decrypt a packet's length (it is the same)."""
        self._length.reset_nonce(_nonce(sequence))
        return self._length.update(head)


class ChaChaSealer(_ChaCha):
    """See L{Sealer<pipeops_agent.tunnel.ssh.cipher.Sealer>}."""

    block = BLOCK
    counted = 0

    def seal(self, sequence: int, body: memoryview, packet: memoryview) -> None:
        end = 4 + len(body)
        poly_key = self._start(sequence)
        packet[:4] = self._cross_length(sequence, packet[:4])
        self._body.update_into(body, packet[4:end])
        packet[end:] = Poly1305.generate_tag(poly_key, packet[:end])


class ChaChaOpener(_ChaCha):
    """The other side of L{ChaChaSealer}: the body is not decrypted before its tag was checked."""

    def read_length(self, sequence: int, head: memoryview) -> int:
        (length,) = LENGTH.unpack(self._cross_length(sequence, head))
        return check_length(length, BLOCK, 0)

    def open(self, sequence: int, packet: memoryview) -> bytes:
        end = len(packet) - TAG
        poly_key = self._start(sequence)
        if not hmac.compare_digest(Poly1305.generate_tag(poly_key, packet[:end]), packet[end:]):
            raise not_authentic(sequence)
        return self._body.update(packet[4:end])


def _stream(key: bytes) -> CipherContext:
    """ChaCha20 with C{key}; the nonce is set with each packet."""
    return Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()


def _nonce(sequence: int) -> bytes:
    """The block counter, at 0, little-endian, and the packet's number, big-endian: 64 bits each."""
    return sequence.to_bytes(16, "big")
