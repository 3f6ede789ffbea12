"""The carrier: what comes instead of a WebSocket, and what comes on one."""

from __future__ import annotations

from typing import Any, Final

from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from pipeops_agent.tunnel.carrier import (
    CLOSE_TIMEOUT,
    MAX_HANDSHAKE,
    MAX_MESSAGE,
    PROTOCOL_OPTIONS,
    SUBPROTOCOL,
    CarrierLost,
    ClientCarrier,
    ServerCarrier,
    client_factory,
)
from tests.fuzz.source import Source, held
from tests.tunnel.rig import PLACE, Pipe
from tests.tunnel.test_carrier import Inner
from tests.tunnel.test_frames import make_frame

_OURS: Final = "internal error"


class End:
    """One end of a carrier, what runs on it, and who owns it."""

    def __init__(self, clock: Clock, *, server: bool) -> None:
        self.inner = Inner()
        self.open = self.pongs = 0
        self.lost: list[str] = []
        self.pipe = Pipe()
        if server:
            self.carrier: Any = ServerCarrier(clock, self.inner, self)
            factory: Any = WebSocketServerFactory("ws://192.0.2.9:80", protocols=[SUBPROTOCOL], reactor=clock)
            factory.setProtocolOptions(**PROTOCOL_OPTIONS)
            factory.protocol = lambda: self.carrier
            factory.log = ServerCarrier.log
        else:
            self.carrier = ClientCarrier(clock, self.inner, self)
            factory = client_factory(clock, "ws://192.0.2.9:80/path", "PipeOps-Agent/1", lambda: self.carrier)
        factory.buildProtocol(PLACE)
        self.carrier.makeConnection(self.pipe)

    def carrier_open(self) -> None:
        self.open += 1

    def carrier_lost(self, error: CarrierLost) -> None:
        self.lost.append(str(error))

    def carrier_pong(self) -> None:
        self.pongs += 1

    def said(self) -> bytes:
        """What it has written."""
        data = bytes(self.pipe.written)
        self.pipe.written.clear()
        return data


def client_carrier(data: bytes) -> None:
    """The agent's side."""
    _carrier(data, server=False)


def server_carrier(data: bytes) -> None:
    """The sandbox's side."""
    _carrier(data, server=True)


def _carrier(data: bytes, *, server: bool) -> None:
    source, clock = Source(data), Clock()
    choice = source.byte()
    ends = [end := End(clock, server=server)]
    if choice & 1:  # the upgrade succeeds, and frames follow
        ends.append(other := End(clock, server=not server))
        client, host = (other, end) if server else (end, other)
        host.carrier.dataReceived(client.said())
        client.carrier.dataReceived(host.said())
        assert (end.open, other.open) == (1, 1)
        while source:
            _step(end, clock, source, masked=server)
        assert held(end.carrier, beside=[end.inner]) <= 2 * MAX_MESSAGE
    else:
        piece = 1 + source.byte()
        while source:
            end.carrier.dataReceived(source.take(piece))
        assert held(end.carrier, beside=[end.inner]) <= MAX_MESSAGE + MAX_HANDSHAKE
    _finish(ends, clock)


def _finish(ends: list[End], clock: Clock) -> None:
    """The TCP connection ends: it is said once, and no timer is left."""
    end = ends[0]
    cut = end.pipe.aborted
    said = len(end.pipe.written)
    _write(end, b"x")
    assert not cut or len(end.pipe.written) == said, "something was written after the connection was cut"
    for each in ends:
        each.pipe.over = True
        each.carrier.connectionLost(Failure(ConnectionDone()))
        assert len(each.lost) == 1
        assert each.lost[0]
        assert _OURS not in each.lost[0]
        assert len(each.inner.ended) == each.open <= 1
    assert not clock.getDelayedCalls(), clock.getDelayedCalls()
    end.carrier.close()
    end.carrier.ping()
    assert not clock.getDelayedCalls()


def _write(end: End, data: bytes) -> None:
    """What runs on the carrier sends C{data}, if it has ever begun."""
    if end.inner.transport is not None:
        end.inner.transport.write(data)


def _step(end: End, clock: Clock, source: Source, *, masked: bool) -> None:
    choice = source.byte()
    kind, detail = choice % 8, choice // 8
    if kind < 3:
        opcode = (2, 0, 1, 8, 9, 10, 3, 11)[detail % 8]
        payload = source.take(detail) + bytes(source.amount() if detail & 16 else 0)
        frame = bytearray(make_frame(opcode, payload, masked=masked))
        if detail & 8:
            frame[0] &= 0x7F
        end.carrier.dataReceived(bytes(frame))
    elif kind == 3:
        end.carrier.dataReceived(source.take(1 + detail))
    elif kind == 4:
        _write(end, bytes(source.amount()))
    elif kind == 5:
        (end.carrier.pauseProducing if detail & 1 else end.carrier.resumeProducing)()
    elif kind == 6:
        (end.carrier.close if detail & 1 else end.carrier.ping)()
    else:
        clock.advance(CLOSE_TIMEOUT * detail / 16)
    end.inner.data.clear()
