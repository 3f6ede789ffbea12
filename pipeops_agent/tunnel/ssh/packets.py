"""
The binary packet protocol (RFC 4253, section 6), one direction at a time.

A L{PacketWriter} puts payloads into packets, a L{PacketReader} takes them out again. Which cipher is in
force only its L{Sealer} or L{Opener} knows; both are replaced as a whole when new keys are taken into use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pipeops_agent.tunnel.randomness import random_bytes
from pipeops_agent.tunnel.ssh.cipher import LENGTH, Opener, PacketError, Sealer
from pipeops_agent.tunnel.ssh.ciphers.plain import Plain

_SEQUENCE_MASK: Final = 0xFFFFFFFF
_MIN_PADDING: Final = 4
"""RFC 4253, section 6."""

_BODY: Final = 33 * 1024
"""Room for what most packets hold; it grows with the first that holds more."""


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

    def feed(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """
        Yield the payload of each packet that is complete now.

        The opener may be replaced between two packets. Whoever stops early must not call again.

        @raise PacketError: as L{Opener.read_length} and L{Opener.open}, or the padding is impossible.
        """
        source: bytes | bytearray | memoryview = data
        if self._rest:
            rest, self._rest = self._rest, bytearray()
            rest += data
            source = rest
        end = len(source)
        position = 0
        with memoryview(source) as view:
            while end - position >= 4:
                opener = self.opener
                length = opener.read_length(self.sequence, view[position : position + 4])
                after = position + 4 + length + opener.tail
                if after > end:
                    break
                body = opener.open(self.sequence, view[position:after])
                self.sequence = (self.sequence + 1) & _SEQUENCE_MASK
                self.packets_opened += 1
                self.bytes_opened += after - position
                position = after
                yield _payload(body)
            if position < end:
                # A packet that comes in very many parts must not be copied with each of them.
                if isinstance(source, bytearray) and not position:
                    self._rest = source
                else:
                    self._rest = bytearray(view[position:])

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
        self._body = memoryview(bytearray(_BODY))
        self.bytes_sealed = 0
        self.packets_sealed = 0

    def measure(self, payload: int) -> int:
        """Return how long the next packet is if C{payload} bytes go into it."""
        sealer = self._sealer
        padding = -(1 + payload + sealer.counted) % sealer.block
        if padding < _MIN_PADDING:
            padding += sealer.block
        return 5 + payload + padding + sealer.tail

    def seal(self, head: bytes, data: bytes | memoryview, packet: memoryview) -> None:
        """
        Put the payload C{head + data} into C{packet} as the next packet.

        @param packet: as long as L{measure} says.
        """
        begin, end = 1 + len(head), 1 + len(head) + len(data)
        length = len(packet) - 4 - self._sealer.tail
        padding = length - end
        if length > len(self._body):
            self._body = memoryview(bytearray(length))
        body = self._body
        body[0] = padding
        body[1:begin] = head
        body[begin:end] = data
        body[end:length] = random_bytes(padding)
        LENGTH.pack_into(packet, 0, length)
        self._sealer.seal(self._sequence, body[:length], packet)
        self._sequence = (self._sequence + 1) & _SEQUENCE_MASK
        self.packets_sealed += 1
        self.bytes_sealed += len(packet)

    def renew(self, sealer: Sealer, *, reset_sequence: bool) -> None:
        """Take new keys into use from the next packet on (SSH_MSG_NEWKEYS was sent)."""
        self._sealer = sealer
        self.bytes_sealed = self.packets_sealed = 0
        if reset_sequence:
            self._sequence = 0


def _payload(body: bytes) -> memoryview:
    """The payload in a decrypted body."""
    padding = body[0]
    if padding < _MIN_PADDING or padding + 1 >= len(body):
        raise PacketError(f"a packet of {len(body)} bytes can't have {padding} bytes of padding")
    return memoryview(body)[1:-padding]
