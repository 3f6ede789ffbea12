"""Forwarding: what is dialled and what is refused, and the relay between a channel and a socket."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections import Counter
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import ClientFactory
from twisted.internet.testing import MemoryReactorClock, StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.net.problems import LookupProblem
from pipeops_agent.net.resolver import Address
from pipeops_agent.tunnel.dialing import Dialer
from pipeops_agent.tunnel.forwarding import Forwarder
from pipeops_agent.tunnel.relay import LINGER, Relay
from pipeops_agent.tunnel.remotes import Remote
from pipeops_agent.tunnel.ssh.channel import Channel
from pipeops_agent.tunnel.ssh.common import SSHError
from pipeops_agent.tunnel.ssh.connection import OpenRefused
from pipeops_agent.tunnel.traffic import TrafficCounters
from pipeops_agent.tunnel.watched import MAX_CANARY
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
        self.forwarder = Forwarder(
            self.reactor,
            Dialer(self.reactor, self.names, self.begin),
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


class Dialling(Forwarding):
    """Which targets are dialled."""

    def assert_refused(self, target: bytes, code: int, words: str, kind: bytes = b"chisel") -> None:
        """The channel is refused, counted, and nothing is dialled."""
        dials, refused = len(self.reactor.tcpClients), self.traffic.denials.total
        opening, _ = self.open(target, kind)
        error = self.failureResultOf(opening, OpenRefused).value
        self.assertEqual(error.code, code)
        self.assertIn(words, str(error))
        self.assertEqual(len(self.reactor.tcpClients), dials)
        self.assertEqual(self.traffic.denials.total, refused + 1)

    def test_only_configured_targets(self) -> None:
        """Any other target is refused: another port, another name for the same, UDP, SOCKS, noise."""
        for target in (
            b"localhost:22",
            b"127.0.0.1:6443",
            b"169.254.169.254:80",
            b"localhost:6443/udp",
            b"socks",
            b"",
            b"\xff\xfe",
            b"x" * 5000,
        ):
            self.assert_refused(target, 1, "")

    def test_unknown_channel_type(self) -> None:
        """So is any other type of channel."""
        for kind in (b"session", b"direct-tcpip", b"forwarded-tcpip", b"\x00"):
            self.assert_refused(b"localhost:6443", 3, "unknown channel type", kind)

    def test_localhost_without_lookup(self) -> None:
        """C{localhost} is both loopback addresses, in turn, without a look-up."""
        opening, _ = self.open(b"localhost:6443")
        self.assertEqual(self.reactor.tcpClients[-1][:2], ("127.0.0.1", 6443))
        self.refuse()
        self.assertEqual(self.reactor.tcpClients[-1][:2], ("::1", 6443))
        self.connect()
        self.successResultOf(opening)
        self.assertEqual(self.names.asked, [])

    def test_names_are_resolved(self) -> None:
        """A name's addresses are tried in turn; the last one's reason is told."""
        opening, _ = self.open(b"db.internal:5432")
        self.assertEqual(self.names.asked, ["db.internal"])
        self.refuse()
        self.assertEqual(self.reactor.tcpClients[-1][:2], ("fd00::1", 5432))
        self.refuse()
        error = self.failureResultOf(opening, OpenRefused).value
        self.assertEqual(error.code, 2)
        self.assertIn("refuses connections", str(error))

    def test_ipv6_target(self) -> None:
        """An IPv6 target is bracketed on the wire and dialled without brackets."""
        opening, _ = self.open(b"[::1]:7000")
        self.assertEqual(self.reactor.tcpClients[-1][:2], ("::1", 7000))
        self.connect()
        self.successResultOf(opening)

    def test_confirmed_only_when_reached(self) -> None:
        """The channel is open only when the target is; success and failure are reported."""
        opening, _ = self.open(b"10.0.0.7:10250")
        self.assertNoResult(opening)
        self.connect()
        self.successResultOf(opening)
        refused, _ = self.open(b"10.0.0.7:10250")
        self.refuse()
        self.failureResultOf(refused, OpenRefused)
        self.assertEqual(self.reports[0], ("kubelet", None))
        self.assertEqual(self.reports[1][0], "kubelet")
        self.assertIn("refuses", self.reports[1][1] or "")
        counters = self.traffic.forward("kubelet")
        self.assertEqual((counters.opened, counters.open, counters.failed_dials), (1, 1, 1))

    def test_dial_timeout(self) -> None:
        """A target that does not answer is given up in time; other channels are not held up."""
        opening, _ = self.open(b"10.0.0.7:10250")
        other, _ = self.open(b"localhost:6443")
        self.connect()
        self.successResultOf(other)
        self.reactor.advance(10)
        self.pair.pump()
        self.assertEqual(self.failureResultOf(opening, OpenRefused).value.code, 2)

    def test_lost_while_dialling(self) -> None:
        """The end of the connection ends the dials under way."""
        opening, _ = self.open(b"10.0.0.7:10250")
        self.pair.lose()
        self.failureResultOf(opening, SSHError)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertTrue(self.reactor.connectors[-1].stoppedConnecting)

    def test_timeout_of_a_lookup(self) -> None:
        """The deadline counts from the request: a name that is not found in time is given up."""
        self.names.prompt = False
        opening, _ = self.open(b"db.internal:5432")
        self.reactor.advance(9)
        self.pair.pump()
        self.assertNoResult(opening)
        self.reactor.advance(1)
        self.pair.pump()
        error = self.failureResultOf(opening, OpenRefused).value
        self.assertIn("no answer from db.internal:5432 in time", str(error))
        self.assertEqual(self.names.given_up, 1)
        self.assertEqual(self.reactor.tcpClients, [])

    def test_one_deadline_for_all_addresses(self) -> None:
        """Addresses that are tried in turn share the time: the last one does not get all of it again."""
        opening, _ = self.open(b"db.internal:5432")
        self.reactor.advance(6)
        self.refuse()
        self.reactor.advance(4)
        self.pair.pump()
        error = self.failureResultOf(opening, OpenRefused).value
        self.assertIn("no answer from db.internal:5432 in time", str(error))
        self.assertTrue(self.reactor.connectors[-1].stoppedConnecting)

    def test_too_late(self) -> None:
        """A connection, or a refusal, that comes after the deadline is nobody's."""
        opening, _ = self.open(b"10.0.0.7:10250")
        factory: Any = self.reactor.tcpClients[-1][2]
        self.reactor.advance(10)
        self.pair.pump()
        self.failureResultOf(opening, OpenRefused)
        self.assertIsNone(factory.buildProtocol(IPv4Address("TCP", "10.0.0.7", 10250)))
        factory.clientConnectionFailed(None, Failure(error.ConnectionRefusedError()))
        self.assertEqual(self.traffic.forward("kubelet").failed_dials, 1)
        self.assertEqual(len(self.reports), 1)

    def test_lookup_fails(self) -> None:
        """A name that does not exist is a failed dial, with the resolver's reason."""
        self.names.prompt = False
        opening, _ = self.open(b"db.internal:5432")
        self.names.waiting.pop().errback(LookupProblem("db.internal", "Name not known", temporary=False))
        self.pair.pump()
        error = self.failureResultOf(opening, OpenRefused).value
        self.assertIn("Name not known", str(error))

    def test_lost_while_looking_up(self) -> None:
        """The end of the connection ends a look-up too, and what it finds later is not dialled."""
        self.names.prompt = False
        opening, _ = self.open(b"db.internal:5432")
        self.pair.lose()
        self.failureResultOf(opening, SSHError)
        self.assertEqual(self.names.given_up, 1)
        self.assertEqual((self.reactor.tcpClients, self.reports), ([], []))

    def test_stop_while_dialling(self) -> None:
        """So does stopping; the far side is told."""
        opening, _ = self.open(b"10.0.0.7:10250")
        self.forwarder.stop()
        self.pair.pump()
        self.failureResultOf(opening, OpenRefused)


class AtOnce(Forwarding):
    """Dials that have come to their end before the one who asked for them goes on: the rule on loopback."""

    def setUp(self) -> None:
        super().setUp()
        self.refusing: set[str] = set()
        self.sockets: list[Socket] = []

    def begin(self, host: str, port: int, factory: Any) -> None:
        """Connect, or refuse, before this returns."""
        factory.startedConnecting(self.reactor.connectTCP(host, port, ClientFactory()))
        if host in self.refusing:
            factory.clientConnectionFailed(None, Failure(error.ConnectionRefusedError()))
            return
        relay = factory.buildProtocol(IPv4Address("TCP", host, port))
        self.sockets.append(Socket(relay))
        relay.makeConnection(self.sockets[-1])

    def test_reached(self) -> None:
        """The channel is open in the turn in which it was asked for, without a timer, and is read from."""
        opening, _ = self.open(b"10.0.0.7:10250")
        self.successResultOf(opening)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.sockets[0].producerState, "producing")
        self.assertEqual(self.reports, [("kubelet", None)])
        counters = self.traffic.forward("kubelet")
        self.assertEqual((counters.opened, counters.open), (1, 1))

    def test_second_address(self) -> None:
        """A refused first address leaves no trace where the second one answers."""
        self.refusing = {"127.0.0.1"}
        opening, _ = self.open(b"localhost:6443")
        self.successResultOf(opening)
        self.assertEqual([client[0] for client in self.reactor.tcpClients], ["127.0.0.1", "::1"])
        self.assertEqual(self.reports, [("api", None)])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_refused(self) -> None:
        """Where all refuse the channel is refused, once, with the reason."""
        self.refusing = {"127.0.0.1", "::1"}
        opening, _ = self.open(b"localhost:6443")
        self.assertIn("refuses connections", str(self.failureResultOf(opening, OpenRefused).value))
        self.assertEqual(len(self.reports), 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_beside_a_stuck_one(self) -> None:
        """Dials that are refused or reached change nothing about one that is stuck, which still counts."""
        self.forwarder._max_connections = 2
        self.names.prompt = False
        stuck, _ = self.open(b"db.internal:5432")
        self.refusing = {"127.0.0.1", "::1"}
        for _ in range(3):
            refused, _ = self.open(b"localhost:6443")
            self.assertIn("refuses", str(self.failureResultOf(refused, OpenRefused).value))
        reached, _ = self.open(b"10.0.0.7:10250")
        self.successResultOf(reached)
        self.assertNoResult(stuck)
        over, _ = self.open(b"10.0.0.7:10250")
        self.assertEqual(self.failureResultOf(over, OpenRefused).value.code, 4)
        self.names.answer()
        self.pair.pump()
        self.successResultOf(stuck)

    def alive(self) -> Counter[str]:
        """How many there are of what a connection is made of."""
        kinds = {"Opening", "Dial", "Relay", "OpenRequest", "Channel", "DelayedCall"}
        return Counter(name for name in (type(each).__name__ for each in gc.get_objects()) if name in kinds)

    def test_nothing_is_left(self) -> None:
        """Neither a refused dial nor a connection that is over is left to the collector of cyclic garbage."""
        self.refusing = {"127.0.0.1", "::1"}
        self.addCleanup(gc.enable)
        for target in (b"localhost:6443", b"10.0.0.7:10250"):
            gc.collect()
            gc.disable()
            before = self.alive()
            for _ in range(100):
                opening, handler = self.open(target)
                opening.addCallbacks(Channel.close, lambda _: None)
                self.pair.pump()
                for socket in self.sockets:
                    socket.gone(ConnectionDone())
                    socket.protocol = None
                self.sockets.clear()
                self.reactor.tcpClients.clear()
                self.reactor.connectors.clear()
            del opening, handler
            self.assertEqual(self.alive(), before)
        self.assertEqual(list(map(len, self.forwarder._forwards.values())), [0, 0, 0, 0])


class Bounds(Forwarding):
    """What a server can make the agent hold."""

    def test_connections_that_linger_count(self) -> None:
        """Sockets whose channel is gone and that still have something to deliver count against the limit."""
        self.forwarder._max_connections = 3
        sockets = []
        for _ in range(3):
            channel, _, socket = self.joined()
            channel.write(b"x" * 1000)
            channel.close()
            self.pair.pump()
            sockets.append(socket)
        self.assertEqual(len(self.pair.client_layer), 0)
        opening, _ = self.open(b"10.0.0.7:10250")
        self.assertEqual(self.failureResultOf(opening, OpenRefused).value.code, 4)
        self.assertEqual(self.traffic.forward("kubelet").refused, 1)
        sockets.pop().gone(ConnectionDone())
        self.joined()
        for socket in sockets:
            socket.gone(ConnectionDone())

    def test_no_garbage(self) -> None:
        """A connection that is over is freed at once, without the collector of cyclic garbage."""
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        channel, _, socket = self.joined()
        gone = [weakref.ref(socket.protocol), weakref.ref(socket.protocol._channel)]
        channel.close()
        self.pair.pump()
        socket.gone(ConnectionDone())
        socket.protocol = None
        self.reactor.tcpClients.clear()
        self.reactor.connectors.clear()
        self.assertEqual([each() for each in gone], [None, None])

    def test_idle_channels_are_small(self) -> None:
        """A thousand channels take less than 8 KB each, both ends together, after their first use too."""
        self.pair.client_layer._max_channels = self.pair.server_layer._max_channels = 2000
        self.joined()
        gc.collect()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        joined = [self.joined() for _ in range(1000)]
        self.reactor.tcpClients.clear()
        self.reactor.connectors.clear()
        for use in (lambda *_: None, self.use):
            for each in joined:
                use(*each)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
            self.assertLess((after - before) / len(joined), 8192)

    def use(self, channel: Channel, handler: Handler, socket: Socket) -> None:
        """Send a window and a half each way, so that some of it has to wait, and take it."""
        channel.write(bytes(WINDOW * 3 // 2))
        socket.protocol.dataReceived(bytes(WINDOW * 3 // 2))
        self.pair.pump()
        self.assertEqual((len(socket.value()), len(handler.data)), (WINDOW * 3 // 2, WINDOW * 3 // 2))
        socket.clear()
        handler.data = bytearray()


class Relaying(Forwarding):
    """The relay between a channel and a socket."""

    def test_both_ways(self) -> None:
        """Bytes pass both ways and are counted; the socket sends small packets at once."""
        channel, handler, socket = self.joined()
        channel.write(b"question")
        self.pair.pump()
        self.assertEqual(socket.value(), b"question")
        socket.protocol.dataReceived(b"answer!")
        self.pair.pump()
        self.assertEqual(bytes(handler.data), b"answer!")
        counters = self.traffic.forward("kubelet")
        self.assertEqual((counters.bytes_in, counters.bytes_out), (8, 7))
        self.assertIn("nodelay", socket.calls)

    def test_slow_socket_shuts_the_window(self) -> None:
        """A socket that takes no more holds the far side at the window, without loss."""
        channel, handler, socket = self.joined()
        socket.protocol.pauseProducing()
        channel.write(b"x" * (3 * WINDOW))
        self.pair.pump()
        self.assertEqual(len(socket.value()), WINDOW)
        self.assertEqual(handler.events, ["pause"])
        socket.protocol.resumeProducing()
        self.pair.pump()
        self.assertEqual(len(socket.value()), 3 * WINDOW)
        self.assertEqual(handler.events, ["pause", "resume"])

    def test_slow_channel_stops_the_reading(self) -> None:
        """A far side that does not consume pauses the reading of the socket."""
        channel, handler, socket = self.joined()
        handler.consume = False
        socket.protocol.dataReceived(b"x" * (WINDOW + 1))
        self.assertEqual(socket.producerState, "paused")
        self.pair.pump()
        channel.consumed(WINDOW)
        self.pair.pump()
        self.assertEqual(socket.producerState, "producing")
        self.assertEqual(len(handler.data), WINDOW + 1)

    def test_half_close_from_the_far_side(self) -> None:
        """EOF closes the socket's half; its answer still comes back."""
        channel, handler, socket = self.joined()
        channel.write(b"all of it")
        channel.write_eof()
        self.pair.pump()
        self.assertEqual(socket.value(), b"all of it")
        self.assertEqual(socket.calls[-1], "half-close")
        socket.protocol.dataReceived(b"the answer")
        socket.protocol.readConnectionLost()
        self.pair.pump()
        self.assertEqual(bytes(handler.data), b"the answer")
        self.assertEqual(handler.events, ["eof", "closed"])
        self.assertEqual(socket.calls[-1], "close")
        socket.gone(ConnectionDone())

    def test_half_close_from_the_socket(self) -> None:
        """The socket's EOF becomes the channel's; data still flows to the socket."""
        channel, handler, socket = self.joined()
        socket.protocol.dataReceived(b"greeting")
        socket.protocol.readConnectionLost()
        self.pair.pump()
        self.assertEqual(handler.events, ["eof"])
        channel.write(b"still here")
        self.pair.pump()
        self.assertEqual(socket.value(), b"still here")

    def test_socket_lost(self) -> None:
        """A socket that breaks closes the channel, after what it had sent."""
        _, handler, socket = self.joined()
        socket.protocol.dataReceived(b"last words")
        socket.gone(ConnectionLost())
        self.pair.pump()
        self.assertEqual(bytes(handler.data), b"last words")
        self.assertEqual(handler.events, ["closed"])
        self.assertEqual(self.traffic.forward("kubelet").open, 0)

    def test_channel_closed_delivers_first(self) -> None:
        """A closed channel closes the socket in order, and cuts it where it takes too long."""
        channel, _, socket = self.joined()
        channel.write(b"x" * 100)
        channel.close()
        self.pair.pump()
        self.assertEqual(len(socket.value()), 100)
        self.assertEqual(socket.calls[-1], "close")
        self.reactor.advance(LINGER)
        self.assertEqual(socket.calls[-1], "abort")
        socket.gone(ConnectionLost())
        self.assertEqual(self.traffic.forward("kubelet").open, 0)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_linger_ends_with_the_socket(self) -> None:
        """A socket that closes in time leaves no timer."""
        channel, _, socket = self.joined()
        channel.close()
        self.pair.pump()
        socket.gone(ConnectionDone())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_connection_lost_resets_the_socket(self) -> None:
        """A cut stream must not look whole to the target: its socket is reset, not closed."""
        _, _, socket = self.joined()
        self.pair.lose()
        self.assertEqual(socket.calls[-1], "abort")
        socket.gone(ConnectionLost())
        self.assertEqual(self.traffic.forward("kubelet").open, 0)

    def test_stop_cuts_everything(self) -> None:
        """Stopping cuts every socket."""
        sockets = [self.joined()[2] for _ in range(5)]
        self.forwarder.stop()
        self.assertEqual([socket.calls[-1] for socket in sockets], ["abort"] * 5)


class Watching(Forwarding):
    """How a canary's channel is told from others, and what is known of each channel."""

    HEAD = b"GET /canary/abc "

    def expect(self) -> None:
        self.traffic.forward("kubelet").canary_heads = (self.HEAD, b"GET /canary/older ")

    def test_canary(self) -> None:
        """A channel that begins as a canary's request counts for nothing, in whatever pieces that comes."""
        self.expect()
        counters = self.traffic.forward("kubelet")
        request = self.HEAD + b"HTTP/1.1\r\n\r\n"
        for pieces in ([request], [bytes([byte]) for byte in request]):
            self.expect()
            channel, handler, socket = self.joined()
            for piece in pieces:
                channel.write(piece)
                self.pair.pump()
                self.assertIsNone(counters.last_byte)
            socket.protocol.dataReceived(b"HTTP/1.1 200 OK")
            self.pair.pump()
            self.assertEqual(socket.value(), b"".join(pieces))
            self.assertEqual(bytes(handler.data), b"HTTP/1.1 200 OK")
            self.assertIsNone(counters.last_byte)
            socket.gone(ConnectionDone())
            self.pair.pump()
        snapshot = counters.snapshot()
        self.assertEqual((snapshot.total_channels, snapshot.bytes_in, snapshot.bytes_out), (0, 0, 0))
        self.assertIsNone(snapshot.last_in)

    def test_anybody_else(self) -> None:
        """Any other beginning is activity from the byte on that differs, and for good."""
        self.expect()
        counters = self.traffic.forward("kubelet")
        for pieces in ([b"GET /health HTTP/1.1"], [b"GET /canary/", b"xyz "], [b"\x16\x03\x01"]):
            self.reactor.advance(1)
            channel, _, socket = self.joined()
            for piece in pieces:
                channel.write(piece)
                self.pair.pump()
            self.assertEqual(counters.last_byte, self.reactor.seconds())
            channel.write(self.HEAD)
            self.pair.pump()
            self.assertFalse(socket.protocol.tally.canary)
            self.assertEqual(socket.protocol.tally.bytes_in, len(b"".join(pieces) + self.HEAD))

    def test_one_channel_for_each(self) -> None:
        """Who has seen a canary's request pass can't hide a second channel behind it."""
        self.expect()
        channels = [self.joined() for _ in range(2)]
        for channel, _, _ in channels:
            channel.write(self.HEAD)
            self.pair.pump()
        self.assertEqual([socket.protocol.tally.canary for _, _, socket in channels], [True, False])
        self.assertEqual(self.traffic.forward("kubelet").bytes_in, len(self.HEAD))

    def test_more_than_a_canary(self) -> None:
        """Nor much in the first: a channel that carries more than a canary is activity."""
        self.expect()
        counters = self.traffic.forward("kubelet")
        channel, _, socket = self.joined()
        channel.write(self.HEAD + b"x" * (MAX_CANARY - len(self.HEAD)))
        self.pair.pump()
        self.assertIsNone(counters.last_byte)
        socket.protocol.dataReceived(b"x")
        self.assertEqual((counters.last_byte, counters.bytes_in), (self.reactor.seconds(), MAX_CANARY))

    def test_target_that_speaks_first(self) -> None:
        """A canary's target waits for the request: where it speaks first, this is anybody's channel."""
        self.expect()
        channel, _, socket = self.joined()
        socket.protocol.dataReceived(b"220 ready")
        channel.write(self.HEAD)
        self.pair.pump()
        self.assertFalse(socket.protocol.tally.canary)
        self.assertEqual(self.traffic.forward("kubelet").bytes_in, len(self.HEAD))

    def test_nothing_awaited(self) -> None:
        """While no canary is awaited, or on another forward, nothing is looked at."""
        self.expect()
        _, _, socket = self.joined(b"localhost:6443")
        self.assertIs(type(socket.protocol), Relay)

    def test_dial_time(self) -> None:
        """How long the dial took is known for the channel, and counted for the forward."""
        opening, _ = self.open(b"10.0.0.7:10250")
        self.reactor.advance(0.3)
        socket = self.connect()
        self.successResultOf(opening)
        self.assertAlmostEqual(socket.protocol.tally.dial_seconds, 0.3)
        self.assertEqual(dict(self.traffic.forward("kubelet").snapshot().dials.buckets)[0.5], 1)

    def test_pauses(self) -> None:
        """Waiting for the socket, and for the peer's window, is timed; the window left is known."""
        channel, handler, socket = self.joined()
        relay = socket.protocol
        handler.consume = False
        self.assertEqual(relay.send_window, WINDOW)
        relay.dataReceived(b"x" * (WINDOW + 1))
        relay.pauseProducing()
        self.reactor.advance(2)
        self.assertEqual(relay.send_window, 0)
        now = self.reactor.seconds()
        self.assertEqual((relay.tally.wait_out.present(now), relay.tally.wait_in.present(now)), (2.0, 2.0))
        relay.resumeProducing()
        self.pair.pump()
        channel.consumed(WINDOW)
        self.pair.pump()
        self.assertEqual((relay.tally.wait_out.present(now), relay.tally.wait_in.present(now)), (0.0, 0.0))
        self.assertEqual((relay.tally.wait_out.before, relay.tally.wait_in.before), (2.0, 2.0))

    def test_reasons(self) -> None:
        """Failed dials are counted by kind, with a sentence that says where to look."""
        opening, _ = self.open(b"10.0.0.7:10250")
        self.refuse()
        self.failureResultOf(opening, OpenRefused)
        opening, _ = self.open(b"10.0.0.7:10250")
        self.reactor.advance(10)
        self.pair.pump()
        self.failureResultOf(opening, OpenRefused)
        self.forwarder._max_connections = 0
        opening, _ = self.open(b"10.0.0.7:10250")
        self.failureResultOf(opening, OpenRefused)
        counters = self.traffic.forward("kubelet")
        self.assertEqual(counters.problems, {"refused": 1, "timeout": 1, "limit": 1})
        self.assertIn("tunnel.max_channels", counters.last_problem or "")
        self.assertIn("nothing listens on this port", self.reports[0][1] or "")
        self.assertIn("a firewall may drop the packets", self.reports[1][1] or "")

    def test_denied_by_name(self) -> None:
        """What is refused as no configured forward is counted by what was asked for."""
        for target, kind in ((b"localhost:22", b"chisel"), (b"x\n:1", b"chisel"), (b"", b"session")):
            opening, _ = self.open(target, kind)
            self.failureResultOf(opening, OpenRefused)
        self.assertEqual(
            self.traffic.denials.names, {"localhost:22": 1, "x\ufffd:1": 1, "channel type 'session'": 1}
        )
