"""No encryption: both directions before the first key exchange."""

from __future__ import annotations

from pipeops_agent.tunnel.ssh.cipher import LENGTH, check_length

BLOCK = 8


class Plain:
    """Sealer and opener: packets are only framed."""

    block = BLOCK
    counted = 4
    tail = 0

    def seal(self, sequence: int, body: memoryview, packet: memoryview) -> None:
        packet[4:] = body

    def read_length(self, sequence: int, head: memoryview) -> int:
        (length,) = LENGTH.unpack_from(head)
        return check_length(length, BLOCK, 4)

    def open(self, sequence: int, packet: memoryview) -> bytes:
        return bytes(packet[4:])
