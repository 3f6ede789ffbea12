"""The ciphers and MACs that this side offers, by their names on the wire and in its order of preference."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.backends.openssl.backend import backend

from pipeops_agent.tunnel.ssh.cipher import Keys, Opener, Sealer
from pipeops_agent.tunnel.ssh.ciphers.chacha import ChaChaOpener, ChaChaSealer
from pipeops_agent.tunnel.ssh.ciphers.ctr import CTROpener, CTRSealer
from pipeops_agent.tunnel.ssh.ciphers.gcm import GCMOpener, GCMSealer

CPU_INFO: Final = Path("/proc/cpuinfo")

GIB: Final = 1 << 30


class CipherSuite(NamedTuple):
    """
    One cipher.

    @ivar iv: the bytes of it that the key exchange must derive.
    @ivar key: likewise.
    @ivar aead: it authenticates by itself, without a MAC.
    @ivar volume: the most bytes under one key, whatever the settings say (RFC 4344, section 3.2: 2**(L/4)
        blocks of L bits for AES; ChaCha20 has no such bound, and OpenSSH takes 1 GiB for it).
    """

    iv: int
    key: int
    aead: bool
    volume: int


AES_VOLUME: Final = 64 * GIB
"""2**32 blocks of 128 bits."""

CHACHA: Final = b"chacha20-poly1305@openssh.com"

CIPHERS: Final = {
    b"aes128-gcm@openssh.com": CipherSuite(iv=12, key=16, aead=True, volume=AES_VOLUME),
    b"aes256-gcm@openssh.com": CipherSuite(iv=12, key=32, aead=True, volume=AES_VOLUME),
    CHACHA: CipherSuite(iv=0, key=64, aead=True, volume=GIB),
    b"aes128-ctr": CipherSuite(iv=16, key=16, aead=False, volume=AES_VOLUME),
    b"aes256-ctr": CipherSuite(iv=16, key=32, aead=False, volume=AES_VOLUME),
}
"""By preference, where the processor has instructions for AES."""

MACS: Final = {
    b"hmac-sha2-256-etm@openssh.com": ("sha256", 32),
    b"hmac-sha2-512-etm@openssh.com": ("sha512", 64),
}
"""Digest and key size by name, by preference; not used with an AEAD cipher."""


def preferred_ciphers(cpu_info: Path = CPU_INFO) -> list[bytes]:
    """
    The names that this machine offers, the fastest first.

    ChaCha20 goes first where the processor has no instructions for AES, and is left out where OpenSSL
    has no Poly1305 (as under FIPS).
    """
    names = list(CIPHERS)
    if not backend.poly1305_supported():
        names.remove(CHACHA)
    elif not has_aes(cpu_info):
        names.sort(key=lambda name: name != CHACHA)
    return names


def has_aes(cpu_info: Path) -> bool:
    """
    Whether the processor has instructions for AES.

    x86 lists them in C{flags}, ARM in C{Features}; where nothing can be read it is taken to have them.
    """
    try:
        text = cpu_info.read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
    lists = [
        line.partition(":")[2].split() for line in text.splitlines() if line.startswith(("flags", "Features"))
    ]
    return not lists or any("aes" in words for words in lists)


def make_sealer(cipher: bytes, mac: bytes, keys: Keys) -> Sealer:
    """The sealer for these negotiated names; C{keys} may be longer than needed."""
    keys = _cut(cipher, mac, keys)
    if cipher == CHACHA:
        return ChaChaSealer(keys)
    return GCMSealer(keys) if CIPHERS[cipher].aead else CTRSealer(keys, MACS[mac][0])


def make_opener(cipher: bytes, mac: bytes, keys: Keys) -> Opener:
    """The opener for these negotiated names; C{keys} may be longer than needed."""
    keys = _cut(cipher, mac, keys)
    if cipher == CHACHA:
        return ChaChaOpener(keys)
    return GCMOpener(keys) if CIPHERS[cipher].aead else CTROpener(keys, MACS[mac][0])


def _cut(cipher: bytes, mac: bytes, keys: Keys) -> Keys:
    suite = CIPHERS[cipher]
    return Keys(keys.iv[: suite.iv], keys.key[: suite.key], keys.integrity[: MACS[mac][1]])
