"""
A TCP relay that counts: what an idle client puts on the wire, and what that is made of.

Connections without TLS are told apart by what they begin with; each HTTP exchange and each kind of WebSocket
frame is counted by name. With TLS only the sums are known. Segments come from the kernel (TCP_INFO), on the
client's side, pure acknowledgements included.
"""

from __future__ import annotations

import re
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.python.failure import Failure

SEGMENT_HEADERS: Final = 52
"""Bytes that IPv4 (20) and TCP with timestamps (32) add to each segment."""

_SEGMENTS_AT: Final = 136
"""Where C{tcpi_segs_out} and C{tcpi_segs_in} stand in C{struct tcp_info} (linux/tcp.h)."""

_REQUEST: Final = re.compile(rb"(GET|POST) ([^ ?]*)")
_FRAMES: Final = {2: "data", 8: "close", 9: "ping", 10: "pong"}
"""WebSocket's opcodes (RFC 6455, section 11.8)."""

_LONG: Final = 126
"""From this length on a frame says its length in further bytes: 2, or 8 where it is one more."""


@dataclass(frozen=True)
class Snapshot:
    """
    What had passed at one moment, or between two.

    @ivar payload: bytes in both directions, by kind: http, carrier, tls.
    @ivar segments: TCP segments in both directions.
    @ivar messages: bytes, and how often, by message and direction.
    """

    payload: Mapping[str, int]
    segments: int
    messages: Mapping[str, tuple[int, int]]

    def since(self, earlier: Snapshot) -> Snapshot:
        """What has passed from C{earlier} to this moment."""
        return Snapshot(
            {kind: count - earlier.payload.get(kind, 0) for kind, count in self.payload.items()},
            self.segments - earlier.segments,
            {
                name: (size - before[0], times - before[1])
                for name, (size, times) in self.messages.items()
                for before in [earlier.messages.get(name, (0, 0))]
            },
        )


class _Flow:
    """One connection: what kind it is, and the message that is under way."""

    def __init__(self, relay: CountingRelay) -> None:
        self._relay = relay
        self.kind = ""
        self._request = ""

    def passed(self, data: bytes, direction: str) -> None:
        """Count C{data}."""
        if not self.kind:
            self.kind = _kind(data)
        self._relay.payload[self.kind] += len(data)
        if self.kind == "http":
            self._count_http(data, direction)
        elif self.kind == "carrier":
            for name, size in frames(data):
                self._relay.count(f"carrier {name} {direction}", size, 1)

    def _count_http(self, data: bytes, direction: str) -> None:
        """A request may come in several pieces; each begins a new message."""
        begins = _REQUEST.match(data) if direction == "out" else data.startswith(b"HTTP/1.1 ")
        if isinstance(begins, re.Match):
            self._request = f"{begins[1].decode()} {begins[2].rpartition(b'/')[2].decode('ascii', 'replace')}"
        self._relay.count(f"{self._request} {direction}", len(data), 1 if begins else 0)


def frames(data: bytes) -> Iterator[tuple[str, int]]:
    """
    The WebSocket frames in C{data} (RFC 6455, section 5.2): name and size, header included.

    An idle connection's frames are small and come whole; the handshake counts as one of them.
    """
    if data.startswith((b"GET ", b"HTTP/")):
        yield "handshake", len(data)
        return
    at = 0
    while at + 2 <= len(data):
        masked, length = divmod(data[at + 1], 128)
        size = 2 + 4 * masked + length
        if length == _LONG:
            size += 2 - _LONG + int.from_bytes(data[at + 2 : at + 4], "big")
        elif length > _LONG:
            size += 8 - length + int.from_bytes(data[at + 2 : at + 10], "big")
        yield _FRAMES.get(data[at] & 0x0F, "other"), min(size, len(data) - at)
        at += size


def _kind(beginning: bytes) -> str:
    if beginning.startswith(b"\x16\x03"):
        return "tls"
    return "carrier" if b"upgrade: websocket" in beginning.lower() else "http"


class _End(Protocol):
    """One of a flow's two connections: what comes in goes out at the other."""

    transport: Any

    def __init__(self, flow: _Flow, direction: str) -> None:
        self._flow = flow
        self._direction = direction
        self.other: _End | None = None

    def join(self, other: _End) -> None:
        """Pass on to C{other}, no faster than that takes it."""
        self.other = other
        other.transport.registerProducer(self.transport, True)
        self.transport.resumeProducing()

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        assert self.other is not None, "paused until then"
        self._flow.passed(data, self._direction)
        self.other.transport.write(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # no default here
        if self.other is not None:
            self.other.transport.unregisterProducer()
            self.other.transport.loseConnection()


class _Near(_End):
    """The client's connection."""

    def __init__(self, relay: CountingRelay) -> None:
        super().__init__(_Flow(relay), "out")
        self._relay = relay

    def connectionMade(self) -> None:
        super().connectionMade()
        self._relay.near.add(self)
        reaching = connectProtocol(self._relay.server, _End(self._flow, "in"))
        reaching.addCallbacks(self._reached, lambda _: self.transport.abortConnection())

    def _reached(self, far: _End) -> None:
        far.join(self)
        self.join(far)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # no default here
        self._relay.near.discard(self)
        super().connectionLost(reason)

    def segments(self) -> int:
        """The segments of this connection so far, both ways."""
        info = self.transport.getHandle().getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        sent, received = struct.unpack_from("=II", info, _SEGMENTS_AT)
        return int(sent + received)


class CountingRelay(ServerFactory):
    """
    Listens on a free port of 127.0.0.1 and passes everything on to C{port} there.

    @ivar port: its own port.
    """

    noisy = False

    def __init__(self, reactor: Any, port: int) -> None:
        self.server = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        self.near: set[_Near] = set()
        self.payload: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()
        self._times: Counter[str] = Counter()
        self._listener = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.port = int(self._listener.getHost().port)

    def buildProtocol(self, addr: object) -> _Near:
        return _Near(self)

    def count(self, message: str, size: int, times: int) -> None:
        """Note C{size} bytes of C{message}."""
        self._sizes[message] += size
        self._times[message] += times

    def snapshot(self) -> Snapshot:
        """What has passed so far; the segments are those of the connections that are open."""
        return Snapshot(
            dict(self.payload),
            sum(near.segments() for near in self.near),
            {name: (size, self._times[name]) for name, size in self._sizes.items()},
        )

    async def stop(self) -> None:
        """Listen no more, and cut what is open."""
        await self._listener.stopListening()
        for near in list(self.near):
            near.transport.abortConnection()
