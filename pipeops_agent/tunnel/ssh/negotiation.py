"""
Algorithm negotiation (RFC 4253, section 7.1).

Conch's would fail where an authenticated cipher makes the MAC pointless and the two sides have no MAC in
common, as RFC 5647 (section 5.1) and OpenSSH allow; and it could not say what was missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from twisted.conch.ssh.common import getNS

from pipeops_agent.tunnel.ssh.cipher import PacketError
from pipeops_agent.tunnel.ssh.hybrid import HYBRID, hybrid_supported
from pipeops_agent.tunnel.ssh.messages import MSG_KEXINIT
from pipeops_agent.tunnel.ssh.suites import CIPHERS, MACS

KEY_EXCHANGES: Final = (
    *((HYBRID,) if hybrid_supported() else ()),
    b"curve25519-sha256",
    b"curve25519-sha256@libssh.org",
    b"ecdh-sha2-nistp256",
    b"ecdh-sha2-nistp384",
    b"ecdh-sha2-nistp521",
)

HOST_KEYS: Final = (
    b"ecdsa-sha2-nistp256",
    b"ecdsa-sha2-nistp384",
    b"ecdsa-sha2-nistp521",
    b"ssh-ed25519",
    b"rsa-sha2-512",
    b"rsa-sha2-256",
)

STRICT_CLIENT: Final = b"kex-strict-c-v00@openssh.com"
STRICT_SERVER: Final = b"kex-strict-s-v00@openssh.com"

_COOKIE: Final = 16
_LISTS: Final = 10


class Proposal(NamedTuple):
    """What one side offers in its KEXINIT. Directions: C{cs} is client to server."""

    key_exchanges: Sequence[bytes]
    host_keys: Sequence[bytes]
    ciphers_cs: Sequence[bytes]
    ciphers_sc: Sequence[bytes]
    macs_cs: Sequence[bytes]
    macs_sc: Sequence[bytes]
    compressions_cs: Sequence[bytes]
    compressions_sc: Sequence[bytes]
    guessed: bool = False
    """Whether a key exchange packet follows that was sent on a guess."""


def propose(
    key_exchanges: Sequence[bytes],
    host_keys: Sequence[bytes],
    ciphers: Sequence[bytes],
    macs: Sequence[bytes],
) -> Proposal:
    """A proposal of the same for both directions, without compression."""
    none = (b"none",)
    return Proposal(key_exchanges, host_keys, ciphers, ciphers, macs, macs, none, none)


class Agreement(NamedTuple):
    """What both sides use from now on; the MACs count only with ciphers that don't authenticate."""

    key_exchange: bytes
    host_key: bytes
    cipher_cs: bytes
    cipher_sc: bytes
    mac_cs: bytes
    mac_sc: bytes


def parse_proposal(payload: bytes) -> Proposal:
    """
    Read a KEXINIT without its message number.

    @raise PacketError: it is malformed.
    """
    try:
        *lists, rest = getNS(payload[_COOKIE:], _LISTS)
        names = [field.split(b",") for field in lists]
        guessed = rest[0] != 0
    except Exception as error:  # struct.error and whatever slicing raises
        raise PacketError(f"message {MSG_KEXINIT} is malformed") from error
    kex, keys, ciphers_cs, ciphers_sc, macs_cs, macs_sc, none_cs, none_sc = names[:8]
    return Proposal(kex, keys, ciphers_cs, ciphers_sc, macs_cs, macs_sc, none_cs, none_sc, guessed)


def agree(client: Proposal, server: Proposal) -> Agreement:
    """
    Choose the client's first that the server has too, for each part.

    @raise PacketError: there is none for some part.
    """
    cipher_cs = _first("cipher", client.ciphers_cs, server.ciphers_cs)
    cipher_sc = _first("cipher", client.ciphers_sc, server.ciphers_sc)
    _first("compression", client.compressions_cs, server.compressions_cs)
    _first("compression", client.compressions_sc, server.compressions_sc)
    return Agreement(
        _first("key exchange", client.key_exchanges, server.key_exchanges),
        _first("type of host key", client.host_keys, server.host_keys),
        cipher_cs,
        cipher_sc,
        _mac(cipher_cs, client.macs_cs, server.macs_cs),
        _mac(cipher_sc, client.macs_sc, server.macs_sc),
    )


def guess_was_wrong(ours: Proposal, theirs: Proposal) -> bool:
    """Whether the packet that follows C{theirs} was sent on a wrong guess and must be ignored."""
    return theirs.guessed and (
        ours.key_exchanges[0] != theirs.key_exchanges[0] or ours.host_keys[0] != theirs.host_keys[0]
    )


def _mac(cipher: bytes, client: Sequence[bytes], server: Sequence[bytes]) -> bytes:
    return next(iter(MACS)) if CIPHERS[cipher].aead else _first("MAC", client, server)


def _first(what: str, client: Sequence[bytes], server: Sequence[bytes]) -> bytes:
    for name in client:
        if name in server:
            return name
    raise PacketError(f"the two sides have no {what} in common")
