"""Packets as bytes, for tests: what the transport does with a carrier's room."""

from __future__ import annotations

from pipeops_agent.tunnel.ssh.cipher import Sealer
from pipeops_agent.tunnel.ssh.packets import PacketWriter


def sealed(writer: PacketWriter, payload: bytes) -> bytes:
    """C{payload} as the next packet of C{writer}."""
    packet = bytearray(writer.measure(len(payload)))
    writer.seal(payload[:1], payload[1:], memoryview(packet))
    return bytes(packet)


def plain_packet(payload: bytes) -> bytes:
    """C{payload} as a packet before the first key exchange."""
    return sealed(PacketWriter(), payload)


def sealed_by(sealer: Sealer, payload: bytes) -> bytes:
    """C{payload} as the first packet of C{sealer}."""
    writer = PacketWriter()
    writer.renew(sealer, reset_sequence=True)
    return sealed(writer, payload)
