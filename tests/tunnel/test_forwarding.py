"""Forwarding: what is dialled and what is refused, and the relay between a channel and a socket."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from typing import Any

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from pipeops_agent.net.problems import LookupProblem
from pipeops_agent.own_sockets import GRACE
from pipeops_agent.tunnel.reading import LARGE
from pipeops_agent.tunnel.relay import LINGER
from pipeops_agent.tunnel.ssh.channel import Channel
from pipeops_agent.tunnel.ssh.common import SSHError
from pipeops_agent.tunnel.ssh.connection import OpenRefused
from pipeops_agent.tunnel.ssh.turns import TOGETHER, TURN
from tests.tunnel.forwarding_case import WINDOW, Forwarding, Socket
from tests.tunnel.ssh.pair import Handler


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

    def test_socket_is_known(self) -> None:
        """As long as the relay lasts, the agent's own interface can know whose its socket is."""
        channel, _, socket = self.joined()
        place = (socket.getHost().host, socket.getHost().port)
        sockets = self.dialer.sockets
        self.assertEqual(sockets.forward_of(place), "kubelet")
        socket.gone(ConnectionDone())
        channel.close()
        self.pair.pump()
        self.reactor.advance(GRACE)
        self.assertIsNone(sockets.forward_of(place))

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

    def test_reads_what_goes_through(self) -> None:
        """Large pieces are read once a small one went through at once, small ones after one had to wait."""
        channel, handler, socket = self.joined()
        handler.consume = False
        socket.protocol.dataReceived(b"x" * (TURN - 1))
        self.assertNotEqual(socket.bufferSize, LARGE)
        socket.protocol.dataReceived(b"x" * TURN)
        self.assertEqual(socket.bufferSize, LARGE)
        socket.protocol.dataReceived(b"x" * WINDOW)
        self.assertEqual(socket.bufferSize, TURN)
        socket.protocol.dataReceived(b"x" * TURN)
        self.assertEqual(socket.bufferSize, TURN)
        for _ in range(3):
            channel.consumed(WINDOW)
            self.pair.pump()
        socket.protocol.dataReceived(b"x" * TURN)
        self.assertEqual(socket.bufferSize, LARGE)

    def test_what_many_hold(self) -> None:
        """However much a thousand targets send into a tunnel that takes nothing: what waits has a bound."""
        self.pair.client_layer._max_channels = self.pair.server_layer._max_channels = 2000
        sockets = [self.joined()[2] for _ in range(1000)]
        for congested in (False, True, False, True):
            self.pair.client_layer.set_congested(congested)
            held = 0
            for socket in sockets:
                size = socket.protocol._piece
                held += size
                socket.protocol.dataReceived(bytes(size))
                self.assertEqual(socket.producerState, "paused" if congested else "producing")
                if not congested:
                    self.pair.pump()
        channels = self.pair.client_layer._channels.values()
        self.assertEqual(sum(len(channel._pending) for channel in channels), held)
        self.assertLessEqual(held, TOGETHER)
        self.assertGreater(held, TOGETHER // 2)

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
