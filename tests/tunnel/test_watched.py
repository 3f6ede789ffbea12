"""What a forward's counters are told of its dials and channels, and the canary among them."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone

from pipeops_agent.tunnel.relay import Relay
from pipeops_agent.tunnel.ssh.connection import OpenRefused
from pipeops_agent.tunnel.watched import MAX_CANARY
from tests.tunnel.forwarding_case import WINDOW, Forwarding


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
