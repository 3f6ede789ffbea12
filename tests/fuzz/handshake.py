"""The SSH transport before its keys: any bytes, and a man between two honest ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pipeops_agent.tunnel.ssh.cipher import MAX_PACKET
from pipeops_agent.tunnel.ssh.client import CLIENT_VERSION
from pipeops_agent.tunnel.ssh.messages import MSG_KEXINIT, MSG_NEWKEYS
from pipeops_agent.tunnel.ssh.server import SERVER_VERSION
from pipeops_agent.tunnel.ssh.transport import MAX_VERSION_LINE
from tests.fuzz.session import SLACK
from tests.fuzz.source import Source, held
from tests.tunnel.ssh.pair import Pair, Wire
from tests.tunnel.ssh.sealing import plain_packet

_ROUNDS: Final = 12


def client_noise(data: bytes) -> None:
    """The agent's side hears any bytes."""
    _noise(data, server=False)


def server_noise(data: bytes) -> None:
    """The sandbox's side hears any bytes."""
    _noise(data, server=True)


def _noise(data: bytes, *, server: bool) -> None:
    source = Source(data)
    pair = Pair()
    side: Any = pair.server if server else pair.client
    wire = pair.server_wire if server else pair.client_wire
    owner = pair.server_owner if server else pair.client_owner
    side.makeConnection(wire)
    choice = source.byte()
    if choice & 1:
        side.dataReceived((CLIENT_VERSION if server else SERVER_VERSION) + b"\r\n")
    while source:
        if choice & 2:
            piece = plain_packet(bytes((1 + source.below(60),)) + source.fields())
        else:
            piece = source.take(1 + source.byte())
        before = len(wire.written) if wire.closed else None
        side.dataReceived(bytes(piece))
        assert before is None or len(wire.written) == before, "something was sent after the end"
        assert held(side, beside=[pair]) <= MAX_PACKET + MAX_VERSION_LINE + SLACK
    assert owner.secure == 0, "secure, with nobody there"
    pair.lose()
    assert len(owner.ended) == 1
    assert str(owner.ended[0])
    assert not pair.clock.getDelayedCalls()


class _Way:
    """One direction, in the hands of somebody in between."""

    def __init__(self, wire: Wire, receive: Callable[[bytes], None]) -> None:
        self.wire = wire
        self._receive = receive
        self.sent: list[bytes] = []
        self.delivered: list[bytes] = []
        self._late: list[bytes] = []
        self._buffer = bytearray()
        self._greeted = self._sealed = False

    def move(self, source: Source) -> bool:
        """Let what was written through, or not; False where there was nothing."""
        data = bytes(self.wire.written)
        self.wire.written.clear()
        if not data and not self._late:
            return False
        late, self._late = self._late, []
        self._buffer += data
        for packet in [*self._packets(), *late]:
            self._meddle(packet, source)
        return True

    def _packets(self) -> list[bytes]:
        """Cut off what is complete; once keys are in use, whatever there is."""
        found: list[bytes] = []
        while self._buffer and not self._sealed:
            if not self._greeted:
                size = self._buffer.find(b"\n") + 1
            else:
                size = 4 + int.from_bytes(self._buffer[:4], "big") if len(self._buffer) >= 4 else 0
            if size == 0 or size > len(self._buffer):
                return found
            packet = bytes(self._buffer[:size])
            del self._buffer[:size]
            found.append(packet)
            if self._greeted:
                self.sent.append(payload_of(packet))
                self._sealed = packet[5] == MSG_NEWKEYS
            self._greeted = True
        if self._buffer:
            found.append(bytes(self._buffer))
            self._buffer.clear()
        return found

    def _meddle(self, packet: bytes, source: Source) -> None:
        choice = source.byte() if source else 0
        kind = choice // 16
        if kind < 8:
            self._deliver(packet)
        elif kind == 8:
            return
        elif kind == 9:
            self._deliver(packet)
            self._deliver(packet)
        elif kind == 10:
            self._late.append(packet)
        elif kind == 11:
            changed = bytearray(packet)
            changed[source.amount() % len(changed)] ^= 1 << choice % 8
            self._deliver(bytes(changed))
        elif kind == 12:
            self._deliver(plain_packet(bytes((1 + source.below(60),)) + source.fields()))
            self._deliver(packet)
        elif kind == 13:
            self._deliver(packet)
            self._deliver(plain_packet(bytes((2,)) + source.fields()))
        elif kind == 14:
            self._deliver(packet[: source.amount() % len(packet)])
        else:
            self._deliver(source.take(16) + packet)

    def _deliver(self, data: bytes) -> None:
        if data:
            self.delivered.append(data)
            self._receive(bytes(data))


def payload_of(packet: bytes) -> bytes:
    """The payload of a packet without a cipher; nothing, where that can't be one."""
    return packet[5 : len(packet) - packet[4]] if len(packet) > 5 else b""


def man_in_the_middle(data: bytes) -> None:
    """Who changes, drops, adds, repeats or reorders what two honest ends say gains nothing."""
    source = Source(data)
    pair = Pair()
    to_server = _Way(pair.client_wire, pair.server.dataReceived)
    to_client = _Way(pair.server_wire, pair.client.dataReceived)
    pair.client.makeConnection(pair.client_wire)
    pair.server.makeConnection(pair.server_wire)
    for _ in range(_ROUNDS):
        moved = to_server.move(source)
        moved = to_client.move(source) or moved
        if not moved:
            break
    if pair.client_owner.secure:
        # What the server said up to its NEWKEYS is what the client has heard, and no message more or less.
        assert _heard(to_client) == _said(to_client), "secure, and not what the server said"
        assert _said(to_server)[:1] == _heard(to_server)[:1], "secure, and the server heard another KEXINIT"
    if pair.server_owner.secure and pair.client_owner.secure:
        assert pair.client.sessionID == pair.server.sessionID
    pair.lose()
    for owner in (pair.client_owner, pair.server_owner):
        assert owner.secure <= 1
        assert len(owner.ended) == 1
    assert not pair.clock.getDelayedCalls()


def _said(way: _Way) -> list[tuple[int, bytes]]:
    """The messages up to NEWKEYS; of KEXINIT every byte counts."""
    return [_named(payload) for payload in way.sent]


def _heard(way: _Way) -> list[tuple[int, bytes]]:
    """The same of what has arrived, cut into packets anew."""
    stream = b"".join(way.delivered)
    at = stream.index(b"\n") + 1
    heard = []
    while len(stream) - at >= 6:
        size = 4 + int.from_bytes(stream[at : at + 4], "big")
        heard.append(_named(payload_of(stream[at : at + size])))
        at += size
        if heard[-1][0] == MSG_NEWKEYS:
            break
    return heard


def _named(payload: bytes) -> tuple[int, bytes]:
    return payload[0] if payload else 0, payload if payload[:1] == bytes((MSG_KEXINIT,)) else b""
