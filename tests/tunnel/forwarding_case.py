"""A forwarder in memory: names, sockets, and a server that asks for channels."""

from __future__ import annotations

from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock, StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.net.resolver import Address
from pipeops_agent.tunnel.dialing import Dialer
from pipeops_agent.tunnel.forwarding import Forwarder
from pipeops_agent.tunnel.relay import Relay
from pipeops_agent.tunnel.remotes import Remote
from pipeops_agent.tunnel.ssh.channel import Channel
from pipeops_agent.tunnel.traffic import TrafficCounters
from tests.tunnel.ssh.pair import Handler, Pair

WINDOW = 64 * 1024
REMOTES = (
    Remote("api", 8000, "localhost", 6443),
    Remote("kubelet", 8001, "10.0.0.7", 10250),
    Remote("named", 8002, "db.internal", 5432),
    Remote("six", 8003, "::1", 7000),
)


class Names:
    """A resolver that knows one name, with two addresses."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.prompt = True
        self.waiting: list[Deferred[list[Address]]] = []
        self.given_up = 0

    def resolve(self, host: str, port: int) -> Deferred[list[Address]]:
        self.asked.append(host)
        waiting: Deferred[list[Address]] = Deferred(self._given_up)
        self.waiting.append(waiting)
        if self.prompt:
            self.answer()
        return waiting

    def answer(self) -> None:
        """Tell the addresses."""
        self.waiting.pop().callback([IPv4Address("TCP", "10.1.1.1", 0), IPv6Address("TCP", "fd00::1", 0)])

    def _given_up(self, _: object) -> None:
        self.given_up += 1


class Socket(StringTransportWithDisconnection):
    """A TCP connection in memory: half-close, producers, and what was asked of it."""

    bufferSize = 0  # noqa: N815 - Twisted's name

    def __init__(self, protocol: Relay) -> None:
        super().__init__()
        self.protocol: Any = protocol
        self.calls: list[str] = []

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.calls.append("nodelay")

    def loseWriteConnection(self) -> None:
        self.calls.append("half-close")

    def loseConnection(self) -> None:
        self.calls.append("close")

    def abortConnection(self) -> None:
        self.calls.append("abort")

    def gone(self, error: Exception) -> None:
        """The connection ends."""
        self.protocol.connectionLost(Failure(error))


class Forwarding(SynchronousTestCase):
    """A forwarder behind the client of an in-memory pair."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.traffic = TrafficCounters()
        self.names = Names()
        self.reports: list[tuple[str, str | None]] = []
        self.dialer = Dialer(self.reactor, self.names, self.begin)
        self.forwarder = Forwarder(
            self.reactor,
            self.dialer,
            REMOTES,
            self.traffic,
            dial_timeout=10,
            max_connections=2000,
            report=lambda name, why: self.reports.append((name, why)),
        )
        self.pair = Pair(window=WINDOW)
        self.pair.client_requests.on_channel = self.forwarder.channel_requested
        self.pair.log_in()

    def begin(self, host: str, port: int, factory: Any) -> None:
        """Begin to connect; L{connect} or L{refuse} says how it ends."""
        self.reactor.connectTCP(host, port, factory)

    def tearDown(self) -> None:
        self.forwarder.stop()
        self.assertEqual(self.reactor.getDelayedCalls(), [], "a timer was left behind")

    def open(self, target: bytes, kind: bytes = b"chisel") -> tuple[Deferred[Channel], Handler]:
        """Let the server open a channel."""
        handler = Handler()
        opening = self.pair.server_layer.open_channel(kind, target, handler)
        self.pair.pump()
        return opening, handler

    def connect(self) -> Socket:
        """Let the dial under way succeed."""
        host, port, factory, _, _ = self.reactor.tcpClients[-1]
        relay: Any = factory.buildProtocol(IPv4Address("TCP", host, port))
        socket = Socket(relay)
        relay.makeConnection(socket)
        self.pair.pump()
        return socket

    def refuse(self) -> None:
        """Let the dial under way fail."""
        factory: Any = self.reactor.tcpClients[-1][2]
        factory.clientConnectionFailed(None, Failure(error.ConnectionRefusedError()))
        self.pair.pump()

    def joined(self, target: bytes = b"10.0.0.7:10250") -> tuple[Channel, Handler, Socket]:
        """A channel joined with a socket."""
        opening, handler = self.open(target)
        socket = self.connect()
        handler.channel = self.successResultOf(opening)
        return handler.channel, handler, socket
