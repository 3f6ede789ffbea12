"""The carrier: a byte stream over a WebSocket, in either role, and what comes instead of a WebSocket."""

from __future__ import annotations

import struct
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.carrier import (
    CLOSE_TIMEOUT,
    MAX_HANDSHAKE,
    MAX_MESSAGE,
    CarrierLost,
    ClientCarrier,
    client_factory,
)
from pipeops_agent.tunnel.outbox import SPLIT_FROM
from pipeops_agent.tunnel.refusal import explain_refusal
from tests.tunnel.rig import PLACE, Link, MemoryServer, Pipe


class Inner:
    """What runs on a carrier: keeps everything."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.data = bytearray()
        self.flow: list[str] = []
        self.ended: list[str] = []

    def makeConnection(self, transport: Any) -> None:  # noqa: N802  # Twisted's name
        self.transport = transport

    def dataReceived(self, data: bytes | memoryview) -> None:
        self.data += data

    def connectionLost(self, reason: Failure) -> None:
        self.ended.append(reason.getErrorMessage())

    def pauseProducing(self) -> None:
        self.flow.append("pause")

    def resumeProducing(self) -> None:
        self.flow.append("resume")


class Client:
    """A client carrier, its owner, and what runs on it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.inner = Inner()
        self.open = self.pongs = 0
        self.lost: list[str] = []
        self.carrier = ClientCarrier(self.clock, self.inner, self)
        url = "ws://chisel.example:80/some/path"
        factory = client_factory(self.clock, url, "PipeOps-Agent/1", lambda: self.carrier)
        self.protocol = factory.buildProtocol(PLACE)
        self.pipe = Pipe()

    def carrier_open(self) -> None:
        self.open += 1

    def carrier_lost(self, error: CarrierLost) -> None:
        self.lost.append(str(error))

    def carrier_pong(self) -> None:
        self.pongs += 1

    def connect(self) -> None:
        """Only TCP: the answers come from the test."""
        self.protocol.makeConnection(self.pipe)

    def lose(self) -> str:
        """The TCP connection ends; return what the owner is told."""
        self.protocol.connectionLost(Failure(ConnectionDone()))
        [sentence] = self.lost
        return sentence


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """A WebSocket frame of a server: not masked (RFC 6455, section 5.2)."""
    head = bytes(((0x80 if final else 0) | opcode,))
    size = len(payload)
    if size < 126:
        return head + bytes((size,)) + payload
    if size < 1 << 16:
        return head + struct.pack(">BH", 126, size) + payload
    return head + struct.pack(">BQ", 127, size) + payload


class CarrierCase(SynchronousTestCase):
    """Has clients, and sees to it that none leaves a timer."""

    def client(self) -> Client:
        client = Client()
        self.addCleanup(lambda: self.assertEqual(client.clock.getDelayedCalls(), []))
        return client

    def linked(self) -> tuple[Client, MemoryServer, Link]:
        """A client and a server that have shaken hands; the server's SSH says nothing."""
        client = self.client()
        server = MemoryServer(client.clock)
        server.go_silent_at("ssh")
        link = Link(client.protocol, server.protocol)
        link.pump()
        self.assertEqual(client.open, 1)
        return client, server, link

    def opened(self) -> Client:
        """A client that has shaken hands and whose server is the test from now on."""
        client, _, link = self.linked()
        client.pipe = link.client_pipe
        return client


class Upgrade(CarrierCase):
    """The handshake, and what comes instead of it."""

    def test_request(self) -> None:
        """The request asks for chisel's subprotocol at the path, and says who is there."""
        client = self.client()
        client.connect()
        head = bytes(client.pipe.written).decode()
        self.assertTrue(head.startswith("GET /some/path HTTP/1.1\r\n"))
        self.assertIn("Sec-WebSocket-Protocol: chisel-v3\r\n", head)
        self.assertIn("User-Agent: PipeOps-Agent/1\r\n", head)
        client.lose()

    def test_cut_anywhere(self) -> None:
        """The handshake and the first bytes do not depend on how they are cut."""
        for size in (1, 2, 3, 7, 64, 1000):
            client = self.client()
            server = MemoryServer(client.clock)
            server.go_silent_at("ssh")
            link = Link(client.protocol, server.protocol)
            link.pump(size)
            server.transport.transport.write(b"x" * 20_000)
            link.pump(size)
            self.assertEqual((client.open, len(client.inner.data)), (1, 20_000))

    def refused(self, answer: bytes, step: int = 1 << 20) -> str:
        """What is said of C{answer}, which comes in pieces of C{step} bytes."""
        client = self.client()
        client.connect()
        for start in range(0, len(answer), step):
            if not client.pipe.aborted:
                client.protocol.dataReceived(answer[start : start + step])
        self.assertTrue(client.pipe.aborted)
        self.assertEqual((client.open, client.inner.ended), (0, []))
        return client.lose()

    def test_refused(self) -> None:
        """Each answer that is no upgrade is cut off and explained, however it is cut."""
        page = b"<!doctype html><title>Welcome</title>"
        html = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 37\r\n\r\n" + page
        self.assertIn("200 OK, server nginx, body begins '<!doctype html>", self.refused(html))
        moved = b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://else.example/\r\n\r\n"
        said = self.refused(moved)
        self.assertIn("location https://else.example/", said)
        self.assertIn("a redirect is not followed", said)
        missing = b"HTTP/1.1 404 Not Found\r\n\r\nnot found"
        for step in range(1, len(missing)):
            self.assertIn("404 Not Found", self.refused(missing, step))

    def test_no_http(self) -> None:
        """What is no HTTP, or a wrong handshake, is cut off and said; nothing escapes."""
        for answer in (
            b"SSH-2.0-OpenSSH_9.6\r\n\r\n\r\n",
            b"\x00\xff\x80" * 100 + b"\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 abc def\r\n\r\n",
            b"HTTP/9.9 200 OK\r\n\r\n",
            b"HTTP/1.1 101 Switching\r\n\r\n",
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Accept: d3Jvbmc=\r\n\r\n",
            b"\r\n\r\n",
        ):
            self.assertTrue(self.refused(answer), answer)

    def test_head_without_end(self) -> None:
        """An answer whose head does not end is cut off at the limit."""
        answer = b"HTTP/1.1 200 OK\r\n" + b"X-Filler: abcdefgh\r\n" * (MAX_HANDSHAKE // 20 + 10)
        self.assertIn("does not end", self.refused(answer, 4096))

    def test_another_subprotocol(self) -> None:
        """A server does not upgrade for another subprotocol, and says 404."""
        client = self.client()
        client.carrier.factory.protocols = ["chisel-v2"]
        server = MemoryServer(client.clock)
        link = Link(client.protocol, server.protocol)
        link.pump()
        link.lose(ConnectionDone())
        self.assertEqual(client.open, 0)
        self.assertIn("404", client.lost[0])

    def test_explanations(self) -> None:
        """The sentence holds what there is: status, place, server, first line, a guess; fit to be shown."""
        for answer, words in (
            (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "behind a proxy is down"),
            (b"HTTP/1.1 504 Gateway Timeout\r\n\r\n", "does not answer"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not pass WebSockets"),
            (b"HTTP/1.1 418\r\n\r\n", "with 418"),
            (b"HTTP/1.1 101 OK\r\n\r\n", "failed: the reason"),
            (b"", "failed: the reason"),
            (b"garbage", "failed: the reason"),
            (b"HTTP/1.1 401 No\r\nX\r\n:\r\n\r\n\r\n  \r\n line\r\nnext", "body begins 'line'"),
        ):
            self.assertIn(words, explain_refusal(answer, "the reason"), answer)
        nasty = b"HTTP/1.1 500 \x1b[2J\r\nServer: " + b"x" * 5000 + b"\r\n\r\n\x1b]0;title\x07" + b"y" * 5000
        said = explain_refusal(nasty, "")
        self.assertTrue(said.isprintable())
        self.assertLess(len(said), 800)


class Streaming(CarrierCase):
    """Bytes over an open carrier."""

    def test_both_ways(self) -> None:
        """What either side writes arrives, and is counted as it is on the wire: frames and all."""
        client, server, link = self.linked()
        client.inner.transport.write(b"to ")
        client.inner.transport.writeSequence([b"the ", b"server"])
        server.transport.transport.write(b"to the client")
        before = client.carrier.bytes_in
        link.pump()
        self.assertEqual(bytes(client.inner.data), b"to the client")
        self.assertEqual(client.carrier.bytes_out, 2 * (2 + 4) + 13)
        self.assertEqual(client.carrier.bytes_in - before, 2 + 13)

    def test_forbidden(self) -> None:
        """Text, what is too long, and what breaks the protocol, end it at once, with the reason."""
        for data, words in (
            (frame(1, b"hello"), "text"),
            (frame(2, bytes(MAX_MESSAGE + 1)), "longer than"),
            (frame(2, bytes(600_000), final=False) + frame(0, bytes(600_000)), "longer than"),
            (frame(3, b""), "nobody agreed on"),
            (b"\xf2\x01x", "nobody agreed on"),
            (b"\x82\x81\x00\x00\x00\x00x", "masks"),
            (frame(0, b"x"), "out of order"),
            (frame(9, bytes(126)), "control frame"),
        ):
            client = self.opened()
            client.protocol.dataReceived(data)
            self.assertTrue(client.pipe.aborted, data[:20])
            said = client.lose()
            self.assertIn(words, said)
            self.assertEqual(len(client.inner.ended), 1)

    def test_long_packets_go_out_in_two(self) -> None:
        """A long packet is two messages, which Go's reader takes without a copy; nothing is lost by it."""
        client, server, link = self.linked()
        for size in (SPLIT_FROM, SPLIT_FROM + 1, 100_000):
            client.inner.data.clear()
            sent = server.carrier.bytes_out
            server.transport.transport.write(bytes(size))
            headers = server.carrier.bytes_out - sent - size
            link.pump()
            self.assertEqual(len(client.inner.data), size)
            self.assertEqual(headers > 4, size > SPLIT_FROM)

    def test_nothing_after_the_end(self) -> None:
        """What follows a forbidden message in the same piece is not delivered."""
        client = self.opened()
        client.protocol.dataReceived(frame(1, b"hello") + frame(2, b"later"))
        self.assertEqual(bytes(client.inner.data), b"")
        client.lose()

    def test_own_mistake(self) -> None:
        """An exception of our own is logged, and told apart from a peer that does not speak WebSocket."""
        client = self.opened()

        def stumble(_: bytes) -> None:
            raise ZeroDivisionError

        client.inner.dataReceived = stumble  # type: ignore[method-assign, assignment]  # our mistake
        client.protocol.dataReceived(frame(2, b"x"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn("internal error (ZeroDivisionError)", client.lose())

    def test_flow(self) -> None:
        """A TCP connection that takes no more pauses what runs on the carrier, until it does."""
        client = self.opened()
        client.pipe.producer.pauseProducing()
        client.pipe.producer.resumeProducing()
        self.assertEqual(client.inner.flow, ["pause", "resume"])
        client.pipe.producer.stopProducing()
        client.lose()

    def test_pings(self) -> None:
        """Pings are answered with what they hold; answers to our own are told."""
        client, server, link = self.linked()
        client.carrier.ping()
        server.carrier.ping()
        link.pump()
        self.assertEqual((client.pongs, server.pongs), (1, 1))

    def test_flood_of_pings(self) -> None:
        """A peer that sends pings and reads nothing gets one answer, to the last, once it reads."""
        client = self.opened()
        client.pipe.producer.pauseProducing()
        before = len(client.pipe.written)
        client.protocol.dataReceived(b"".join(frame(9, b"%d" % n) for n in range(1000)))
        self.assertEqual(len(client.pipe.written), before)
        client.pipe.producer.resumeProducing()
        self.assertEqual(len(client.pipe.written) - before, 2 + 4 + 3)  # head, mask, b"999"
        client.lose()


class Closing(CarrierCase):
    """The end."""

    def test_orderly(self) -> None:
        """A close is answered; both owners hear of it once."""
        client, server, link = self.linked()
        client.inner.transport.loseConnection()
        client.inner.transport.loseConnection()
        link.pump()
        self.assertEqual((len(client.lost), len(server.lost), len(client.inner.ended)), (1, 1, 1))

    def test_not_answered(self) -> None:
        """A peer that does not answer is cut off in time."""
        client = self.opened()
        client.inner.transport.loseConnection()
        client.clock.advance(CLOSE_TIMEOUT - 0.1)
        self.assertFalse(client.pipe.aborted)
        client.clock.advance(0.1)
        self.assertTrue(client.pipe.aborted)
        client.lose()

    def test_closed_by_the_server(self) -> None:
        """The server's code and reason are passed on; a connection that it keeps is cut."""
        client = self.opened()
        client.protocol.dataReceived(frame(8, struct.pack(">H", 1001) + b"going away"))
        client.inner.transport.write(b"too late")
        self.assertFalse(client.pipe.aborted)
        client.clock.advance(CLOSE_TIMEOUT)
        self.assertTrue(client.pipe.aborted)
        self.assertIn("closed the WebSocket with code 1001 (going away)", client.lose())

    def test_closed_in_bad_form(self) -> None:
        """A close frame that breaks the protocol is an end too."""
        for payload in (b"\x00", struct.pack(">H", 99), struct.pack(">H", 1000) + b"\xff\xfe"):
            client = self.opened()
            client.protocol.dataReceived(frame(8, payload))
            client.clock.advance(CLOSE_TIMEOUT)
            self.assertTrue(client.pipe.aborted)
            self.assertTrue(client.lose())

    def test_a_handler_that_fails(self) -> None:
        """Whoever is told of the loss is told, also when what runs on the carrier fails at it."""
        client = self.opened()

        def fail(reason: Failure) -> None:
            raise ValueError("a mistake")

        client.inner.connectionLost = fail  # type: ignore[method-assign]  # what is tested
        told: list[str] = []
        client.carrier._owner.carrier_lost = (  # type: ignore[method-assign]  # overheard
            lambda error: told.append(str(error))
        )
        self.assertRaises(ValueError, client.carrier.connectionLost, Failure(ConnectionDone()))
        self.assertEqual(len(told), 1)

    def test_just_gone(self) -> None:
        """A connection that breaks is said to have been closed by the peer; no timer is left."""
        client = self.opened()
        client.carrier.close()
        self.assertTrue(client.lose())
        client.carrier.close()
        client.inner.transport.write(b"x")
        client.carrier.ping()

    def test_cut(self) -> None:
        """Cutting is at once; the first reason counts."""
        client = self.opened()
        client.carrier.fail("no answer")
        client.carrier.fail("something else")
        client.inner.transport.abortConnection()
        self.assertTrue(client.pipe.aborted)
        self.assertEqual(client.lose(), "no answer")
        self.assertEqual(client.inner.ended, ["no answer"])
