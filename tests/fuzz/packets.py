"""The packet reader: packets of every cipher, cut and tampered with on the way."""

from __future__ import annotations

from typing import Final

from pipeops_agent.tunnel.ssh.cipher import MAX_PACKET, Keys, PacketError
from pipeops_agent.tunnel.ssh.packets import PacketReader, PacketWriter
from pipeops_agent.tunnel.ssh.suites import CIPHERS, MACS, make_opener, make_sealer
from tests.fuzz.source import Source, held
from tests.tunnel.ssh.sealing import sealed

KEYS: Final = Keys(bytes(range(64)), bytes(range(64, 128)), bytes(range(128, 192)))
SUITES: Final = [(None, b""), *((cipher, mac) for cipher in CIPHERS for mac in MACS)]
"""No cipher at all, and every pair of those on offer."""

MAX_OVERHEAD: Final = 4 + 64
"""A packet's length field, and the longest tag or MAC."""

_MAX_PACKETS: Final = 12
_MAX_PIECES: Final = 64


def plain_packets(data: bytes) -> None:
    """Any bytes, in pieces, without a cipher: payloads or the one error, nothing kept beyond a packet."""
    source = Source(data)
    size = 1 + source.byte()
    stream = source.rest()
    whole, pieces = PacketReader(), PacketReader()
    expected, broken = _read(whole, [stream])
    got, broken_too = _read(pieces, [stream[at : at + size] for at in range(0, len(stream), size)])
    assert (got, broken) == (expected, broken_too)
    assert all(expected)


def sealed_packets(data: bytes) -> None:
    """Whole packets arrive as they were sent; from the first one that was changed on there is the error."""
    source = Source(data)
    cipher, mac = SUITES[source.below(len(SUITES))]
    writer, reader = PacketWriter(), PacketReader()
    if cipher is not None:
        writer.renew(make_sealer(cipher, mac, KEYS), reset_sequence=True)
        reader.renew(make_opener(cipher, mac, KEYS), reset_sequence=True)
    size = 1 + 7 * source.byte()
    payloads: list[bytes] = []
    stream = bytearray()
    intact = 0
    tampered = False
    while source and len(payloads) < _MAX_PACKETS:
        payload = bytes((1 + source.below(255),)) + source.take(source.below(40)) + bytes(source.amount())
        payloads.append(payload)
        packet = bytearray(sealed(writer, payload))
        change = source.byte()
        if change >= 0xF0 and cipher is not None:
            packet[source.amount() % len(packet)] ^= 1 << change % 8
            tampered = True
        elif change >= 0xE0:
            del packet[source.amount() % len(packet) :]
            tampered = True
        stream += packet
        intact += not tampered
    size = max(size, len(stream) // _MAX_PIECES)
    got, broken = _read(reader, [bytes(stream[at : at + size]) for at in range(0, len(stream), size)])
    if cipher is None and tampered:
        assert got[:intact] == payloads[:intact]
        return
    assert got == payloads[:intact]
    assert tampered or not broken


def _read(reader: PacketReader, pieces: list[bytes]) -> tuple[list[bytes], bool]:
    """The payloads that come of C{pieces}, and whether the reader has objected."""
    got: list[bytes] = []
    try:
        for piece in pieces:
            for payload in reader.feed(piece):
                got.append(bytes(payload))  # noqa: PERF401  # what comes before the error counts
            assert held(reader, beside=[reader.opener]) <= MAX_PACKET + MAX_OVERHEAD
    except PacketError as error:
        assert str(error)
        return got, True
    return got, False
