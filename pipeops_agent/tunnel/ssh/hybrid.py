"""
C{mlkem768x25519-sha256}, the hybrid key exchange (draft-ietf-sshm-mlkem-hybrid-kex), and its client's side.

ML-KEM-768 protects what is sent today against a quantum computer of tomorrow, X25519 against a mistake in
ML-KEM: the secret is the hash of both. Conch knows the name and has the server's side, in newer versions.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from twisted.conch.error import ConchError
from twisted.conch.ssh import _kex
from twisted.conch.ssh.common import NS

from pipeops_agent.tunnel.ssh.cipher import PacketError
from pipeops_agent.tunnel.ssh.messages import DISCONNECT_KEY_EXCHANGE_FAILED

HYBRID: Final = b"mlkem768x25519-sha256"

CIPHERTEXT: Final = 1088
"""The bytes of ML-KEM-768's ciphertext (FIPS 203, table 3)."""
POINT: Final = 32


class HybridClient:
    """
    One key exchange.

    @ivar init: C_INIT: ML-KEM's public key, then X25519's.
    """

    def __init__(self) -> None:
        self._kem = MLKEM768PrivateKey.generate()
        self._ecdh = X25519PrivateKey.generate()
        self.init = self._kem.public_key().public_bytes_raw() + self._ecdh.public_key().public_bytes_raw()

    def secret(self, reply: bytes) -> bytes:
        """
        Return the shared secret, as an SSH string: this exchange has no number (section 2.4).

        @param reply: S_REPLY: ML-KEM's ciphertext, then X25519's public key.
        @raise PacketError: it is too long or short, or a point that makes no secret.
        """
        if len(reply) != CIPHERTEXT + POINT:
            raise _failed(f"its share has {len(reply)} bytes")
        try:
            quantum = self._kem.decapsulate(reply[:CIPHERTEXT])
            classic = self._ecdh.exchange(X25519PublicKey.from_public_bytes(reply[CIPHERTEXT:]))
        except ValueError as error:
            raise _failed("its share makes no secret") from error
        return NS(hashlib.sha256(quantum + classic).digest())


def _failed(why: str) -> PacketError:
    return PacketError(f"the key exchange with the server failed: {why}", DISCONNECT_KEY_EXCHANGE_FAILED)


def hybrid_supported() -> bool:
    """Whether this OpenSSL has ML-KEM, and this Conch the exchange's name and the server's side."""
    try:
        _kex.getHashProcessor(HYBRID)
    except ConchError:
        return False
    return backend.mlkem_supported()
