"""
The binary packet protocol (RFC 4253, section 6), one direction at a time.

A L{Sealer} turns payloads into packets, an L{Opener} packets into payloads. Both are replaced as a
whole when new keys are taken into use; nothing else knows which cipher is in force. Offered are
C{aes128-gcm@openssh.com} and C{aes256-gcm@openssh.com} (RFC 5647 as OpenSSH uses it: authenticated
encryption in one call), and AES-CTR with an encrypt-then-MAC HMAC. All of them carry the packet
length in the clear, so a packet is opened in one step and nothing unauthenticated is ever parsed.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeops_agent.tunnel.randomness import random_bytes

MAX_PACKET: Final = 256 * 1024
"""The longest C{packet_length} accepted, in bytes: Go's own limit; RFC 4253 asks for 35,000."""

_LENGTH: Final = struct.Struct(">L")
_HEAD: Final = struct.Struct(">LB")
_SEQUENCE_MASK: Final = 0xFFFFFFFF


class PacketError(Exception):
    """
    What came is no packet of this connection: too long, malformed, or not authentic.

    @ivar code: the reason for SSH_MSG_DISCONNECT (RFC 4253, section 11.1).
    """

    PROTOCOL_ERROR: Final = 2
    MAC_ERROR: Final = 5

    def __init__(self, sentence: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(sentence)
        self.code = code


class Sealer(Protocol):
    """Makes packets for one direction, in order."""

    def seal(self, sequence: int, payload: bytes) -> bytes:
        """Return C{payload} as one packet for the wire."""


class Opener(Protocol):
    """
    Opens packets of one direction, in order.

    @ivar tail: how many bytes follow the C{packet_length} ones: the tag or MAC.
    """

    tail: int

    def check_length(self, length: int) -> None:
        """@raise PacketError: no packet of this cipher has this C{packet_length}."""

    def open(self, sequence: int, packet: memoryview) -> bytes:
        """
        Return the payload of one whole packet.

        @raise PacketError: it is not authentic or not well formed.
        """


class Keys(NamedTuple):
    """What the key exchange yields for one direction (RFC 4253, section 7.2)."""

    iv: bytes
    key: bytes
    integrity: bytes


def _padding(body: int, block: int) -> int:
    """The padding that makes C{body} bytes a multiple of C{block}: at least 4 (RFC 4253, 6)."""
    padding = block - body % block
    return padding if padding >= 4 else padding + block


def _payload(body: bytes) -> bytes:
    """The payload of a decrypted C{padding_length || payload || padding}."""
    padding = body[0]
    if padding < 4 or padding + 1 >= len(body):
        raise PacketError(f"a packet of {len(body)} bytes can't have {padding} bytes of padding")
    return body[1:-padding]


def _check_length(length: int, block: int, overhead: int) -> None:
    if not 6 <= length <= MAX_PACKET:
        raise PacketError(f"a packet can't be {length} bytes long (at most {MAX_PACKET})")
    if (length + overhead) % block:
        raise PacketError(f"a packet length of {length} is no multiple of the block size {block}")


class Plain:
    """No encryption: both directions before the first key exchange."""

    tail = 0

    def seal(self, sequence: int, payload: bytes) -> bytes:
        padding = _padding(5 + len(payload), 8)
        return _HEAD.pack(1 + len(payload) + padding, padding) + payload + bytes(padding)

    def check_length(self, length: int) -> None:
        _check_length(length, 8, 4)

    def open(self, sequence: int, packet: memoryview) -> bytes:
        return _payload(bytes(packet[4:]))


class _GCMNonce:
    """Four fixed bytes and a 64-bit invocation counter (RFC 5647, section 7.1)."""

    def __init__(self, iv: bytes) -> None:
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:12], "big")

    def next(self) -> bytes:
        counter = self._counter
        self._counter = (counter + 1) & 0xFFFFFFFFFFFFFFFF
        return self._fixed + counter.to_bytes(8, "big")


class GCMSealer:
    """AES-GCM: the length is authenticated, the rest encrypted and authenticated, in one call."""

    def __init__(self, keys: Keys) -> None:
        self._aead = AESGCM(keys.key)
        self._nonce = _GCMNonce(keys.iv)

    def seal(self, sequence: int, payload: bytes) -> bytes:
        padding = _padding(1 + len(payload), 16)
        head = _LENGTH.pack(1 + len(payload) + padding)
        body = b"".join((padding.to_bytes(1, "big"), payload, random_bytes(padding)))
        return head + self._aead.encrypt(self._nonce.next(), body, head)


class GCMOpener:
    """The other side of L{GCMSealer}."""

    tail = 16

    def __init__(self, keys: Keys) -> None:
        self._aead = AESGCM(keys.key)
        self._nonce = _GCMNonce(keys.iv)

    def check_length(self, length: int) -> None:
        _check_length(length, 16, 0)

    def open(self, sequence: int, packet: memoryview) -> bytes:
        try:
            body = self._aead.decrypt(self._nonce.next(), packet[4:], packet[:4])
        except InvalidTag:
            raise _not_authentic(sequence) from None
        return _payload(body)


class CTRSealer:
    """AES-CTR, then an HMAC over sequence number, length and ciphertext (encrypt-then-MAC)."""

    def __init__(self, keys: Keys, digest: str) -> None:
        self._encryptor = Cipher(algorithms.AES(keys.key), modes.CTR(keys.iv)).encryptor()
        self._integrity = keys.integrity
        self._digest = digest

    def seal(self, sequence: int, payload: bytes) -> bytes:
        padding = _padding(1 + len(payload), 16)
        head = _LENGTH.pack(1 + len(payload) + padding)
        body = b"".join((padding.to_bytes(1, "big"), payload, random_bytes(padding)))
        packet = head + self._encryptor.update(body)
        mac = hmac.digest(self._integrity, _LENGTH.pack(sequence) + packet, self._digest)
        return packet + mac


class CTROpener:
    """The other side of L{CTRSealer}: nothing is decrypted before its MAC was checked."""

    def __init__(self, keys: Keys, digest: str) -> None:
        self._decryptor = Cipher(algorithms.AES(keys.key), modes.CTR(keys.iv)).decryptor()
        self._integrity = keys.integrity
        self._digest = digest
        self.tail = len(hmac.digest(b"", b"", digest))

    def check_length(self, length: int) -> None:
        _check_length(length, 16, 0)

    def open(self, sequence: int, packet: memoryview) -> bytes:
        signed, mac = packet[: -self.tail], packet[-self.tail :]
        expected = hmac.digest(self._integrity, _LENGTH.pack(sequence) + signed, self._digest)
        if not hmac.compare_digest(expected, mac):
            raise _not_authentic(sequence)
        return _payload(self._decryptor.update(signed[4:]))


def _not_authentic(sequence: int) -> PacketError:
    return PacketError(f"packet {sequence} is not authentic", PacketError.MAC_ERROR)


class CipherSuite(NamedTuple):
    """The sizes that the key exchange must derive for a cipher, in bytes."""

    iv: int
    key: int
    aead: bool


CIPHERS: Final = {
    b"aes128-gcm@openssh.com": CipherSuite(iv=12, key=16, aead=True),
    b"aes256-gcm@openssh.com": CipherSuite(iv=12, key=32, aead=True),
    b"aes128-ctr": CipherSuite(iv=16, key=16, aead=False),
    b"aes256-ctr": CipherSuite(iv=16, key=32, aead=False),
}
"""By preference, as this side offers them."""

MACS: Final = {
    b"hmac-sha2-256-etm@openssh.com": ("sha256", 32),
    b"hmac-sha2-512-etm@openssh.com": ("sha512", 64),
}
"""Digest and key size by name, by preference; not used with an AEAD cipher."""


def _cut(cipher: bytes, mac: bytes, keys: Keys) -> Keys:
    suite = CIPHERS[cipher]
    return Keys(keys.iv[: suite.iv], keys.key[: suite.key], keys.integrity[: MACS[mac][1]])


def make_sealer(cipher: bytes, mac: bytes, keys: Keys) -> Sealer:
    """The sealer for these negotiated names; C{keys} may be longer than needed."""
    keys = _cut(cipher, mac, keys)
    return GCMSealer(keys) if CIPHERS[cipher].aead else CTRSealer(keys, MACS[mac][0])


def make_opener(cipher: bytes, mac: bytes, keys: Keys) -> Opener:
    """The opener for these negotiated names; C{keys} may be longer than needed."""
    keys = _cut(cipher, mac, keys)
    return GCMOpener(keys) if CIPHERS[cipher].aead else CTROpener(keys, MACS[mac][0])


class PacketReader:
    """
    Cuts a byte stream into packets.

    What arrives in one piece (chisel sends one WebSocket message per packet) is opened where it
    lies, without a copy; only a packet that comes in parts is collected first, at most one packet.
    """

    def __init__(self) -> None:
        self.opener: Opener = Plain()
        self.sequence = 0
        self.bytes_opened = 0
        self.packets_opened = 0
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """
        Yield the payload of each packet that is complete now.

        The opener may be replaced between two packets. Whoever stops early must not call again.

        @raise PacketError: as L{Opener.open}, or for a length out of bounds.
        """
        source: bytes | bytearray = data
        if self._rest:
            source, self._rest = self._rest, bytearray()
            source += data
        end = len(source)
        position = 0
        with memoryview(source) as view:
            while end - position >= 4:
                (length,) = _LENGTH.unpack_from(view, position)
                self.opener.check_length(length)
                after = position + 4 + length + self.opener.tail
                if after > end:
                    break
                with view[position:after] as packet:
                    payload = self.opener.open(self.sequence, packet)
                self.sequence = (self.sequence + 1) & _SEQUENCE_MASK
                self.packets_opened += 1
                self.bytes_opened += after - position
                position = after
                yield payload
            if position:
                source = bytearray(view[position:])
        # A packet that comes in very many parts must not be copied with each of them.
        self._rest = source if isinstance(source, bytearray) else bytearray(source)

    def renew(self, opener: Opener, *, reset_sequence: bool) -> None:
        """Take new keys into use from the next packet on (SSH_MSG_NEWKEYS has come)."""
        self.opener = opener
        self.bytes_opened = self.packets_opened = 0
        if reset_sequence:
            self.sequence = 0


class PacketWriter:
    """Numbers and seals packets."""

    def __init__(self) -> None:
        self._sealer: Sealer = Plain()
        self._sequence = 0
        self.bytes_sealed = 0
        self.packets_sealed = 0

    def seal(self, payload: bytes) -> bytes:
        """Return C{payload} as the next packet for the wire."""
        packet = self._sealer.seal(self._sequence, payload)
        self._sequence = (self._sequence + 1) & _SEQUENCE_MASK
        self.packets_sealed += 1
        self.bytes_sealed += len(packet)
        return packet

    def renew(self, sealer: Sealer, *, reset_sequence: bool) -> None:
        """Take new keys into use from the next packet on (SSH_MSG_NEWKEYS was sent)."""
        self._sealer = sealer
        self.bytes_sealed = self.packets_sealed = 0
        if reset_sequence:
            self._sequence = 0
