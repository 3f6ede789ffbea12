"""
What a cipher is to the packet layer: one direction's encryption and authentication.

A packet on the wire is C{packet_length} (4 bytes), its body of so many bytes, and a tail that proves it
(RFC 4253, section 6). The body is C{padding_length || payload || padding}. The packet layer puts bodies
together and takes them apart; a cipher turns a body into a packet and back, and nothing else.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, Protocol

MAX_PACKET: Final = 256 * 1024
"""The longest C{packet_length} accepted, in bytes: Go's own limit; RFC 4253 asks for 35,000."""

MIN_PACKET: Final = 6
"""The least: a padding length, one byte of payload, four of padding."""

LENGTH: Final = struct.Struct(">L")
"""C{packet_length}, and whatever else is 32 bits wide."""


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


class Keys(NamedTuple):
    """What the key exchange yields for one direction (RFC 4253, section 7.2)."""

    iv: bytes
    key: bytes
    integrity: bytes


class Sealer(Protocol):
    """
    Makes packets for one direction, in order.

    @ivar block: a body is a multiple of so many bytes, at least 8.
    @ivar counted: how many of C{packet_length}'s own bytes count towards that: 4, or 0 where it is not
        encrypted together with the body.
    @ivar tail: how many bytes follow the body.
    """

    block: int
    counted: int
    tail: int

    def seal(self, sequence: int, body: memoryview, packet: memoryview) -> None:
        """
        Encrypt C{body} into C{packet}, which is somewhere else.

        @param packet: as long as length, body and tail together; the length is in it already, in clear.
        """


class Opener(Protocol):
    """
    Opens packets of one direction, in order.

    @ivar tail: how many bytes follow the body.
    """

    tail: int

    def read_length(self, sequence: int, head: memoryview) -> int:
        """
        Return the C{packet_length} that the first four bytes of a packet hold; it may be asked again.

        @raise PacketError: no packet of this cipher has this length.
        """

    def open(self, sequence: int, packet: memoryview) -> bytes:
        """
        Return the body of one whole packet.

        @raise PacketError: it is not authentic.
        """


def check_length(length: int, block: int, counted: int) -> int:
    """
    Return C{length} if it can be that of a packet.

    @raise PacketError: it can't: out of bounds, or no multiple of C{block}.
    """
    if not MIN_PACKET <= length <= MAX_PACKET:
        raise PacketError(f"a packet can't be {length} bytes long (at most {MAX_PACKET})")
    if (length + counted) % block:
        raise PacketError(f"a packet length of {length} is no multiple of the block size {block}")
    return length


def not_authentic(sequence: int) -> PacketError:
    """The error for a packet whose tag or MAC is wrong."""
    return PacketError(f"packet {sequence} is not authentic", PacketError.MAC_ERROR)
