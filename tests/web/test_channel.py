"""One connection: bad requests, slow clients, clients that ask and do not read."""

from __future__ import annotations

from http import HTTPStatus

from pipeops_agent.web.channel import (
    CLOSE_GRACE,
    MAX_BODY,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_LINE,
)
from tests.web.harness import SiteCase

GET = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


class BadRequestTests(SiteCase):
    """Requests that are refused before they have arrived."""

    def refused(self, data: bytes) -> tuple[int, str]:
        """The status and code that C{data} is answered with; the connection is closed, once."""
        client = self.connect()
        client.send(data)
        (answer,) = client.answers()
        self.assertTrue(client.transport.half_closed)
        client.send(b"\r\n\r\n" + GET)
        self.clock.advance(CLOSE_GRACE)
        self.assertTrue(client.lost)
        self.assertEqual(client.answers(), [])
        self.assertEqual(answer.headers["Connection"], "close")
        self.assertEqual(answer.headers["Server"], "pipeops-agent")
        self.assertEqual(answer.reason, HTTPStatus(answer.code).phrase)
        self.assertEqual(self.counted()["OTHER", "malformed", str(answer.code)], 1)
        return answer.code, answer.json["error"]["code"]

    def test_not_http(self) -> None:
        """What is no HTTP is 400."""
        for data in (
            b"hello\r\n",
            b"GET / HTTP/2.0\r\n",
            b"GET  / HTTP/1.1\r\n",
            b"\x16\x03\x01\x02\x00\r\n",
            b"GET /\x00 HTTP/1.1\r\n",
        ):
            self.setUp()
            self.assertEqual(self.refused(data), (400, "bad_request"), data)

    def test_bad_headers(self) -> None:
        """Malformed header fields, lengths and encodings are 400; nothing behind them is looked at."""
        for header in (
            b"no colon",
            b"bad name: x",
            b"Content-Length: -1",
            b"Content-Length: 1e3",
            b"Content-Length: 1\r\nContent-Length: 1",
            b"Content-Length: 1\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: gzip",
        ):
            self.setUp()
            data = b"POST /health HTTP/1.1\r\nHost: a\r\n" + header + b"\r\n\r\n" + GET
            self.assertEqual(self.refused(data), (400, "bad_request"), header)

    def test_long_request_line(self) -> None:
        """A request line that is too long is 414, whether or not its end has come."""
        for end in (b"", b" HTTP/1.1\r\nHost: a\r\n\r\n"):
            self.setUp()
            self.assertEqual(self.refused(b"GET /" + b"x" * MAX_LINE + end), (414, "uri_too_long"))

    def test_long_header(self) -> None:
        """A header field that is too long, too many of them, or all together too long: 431."""
        start = b"GET /health HTTP/1.1\r\n"
        for header in (
            b"X: " + b"x" * MAX_LINE,
            b"X: y\r\n" * (MAX_HEADERS + 1),
            (b"X: " + b"y" * 1000 + b"\r\n") * (MAX_HEADER_BYTES // 1000 + 1),
        ):
            self.setUp()
            self.assertEqual(self.refused(start + header + b"\r\n\r\n"), (431, "header_too_large"))

    def test_header_just_fits(self) -> None:
        """The limits themselves are allowed."""
        client = self.connect()
        client.send(b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * (MAX_HEADERS - 1) + b"\r\n")
        self.assertEqual([answer.code for answer in client.answers()], [200])

    def test_long_body(self) -> None:
        """A body that is announced as too long is 413 before any of it is read."""
        for length in (str(MAX_BODY + 1), "9" * 18, "9" * 5000):
            self.setUp()
            data = f"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode()
            self.assertEqual(self.refused(data + b"some"), (413, "body_too_large"), length[:20])

    def test_long_body_expected(self) -> None:
        """A client that asks before sending gets the refusal instead of the invitation."""
        data = b"POST /health HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        self.assertEqual(self.refused(data % (MAX_BODY + 1)), (413, "body_too_large"))

    def test_long_chunked_body(self) -> None:
        """A body of unknown length is 413 when it becomes too long."""
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        client = self.connect()
        client.send(b"POST /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(MAX_BODY // 0x10000):
            client.send(chunk)
        self.assertEqual(client.answers(), [])
        client.send(chunk * 3 + b"0\r\n\r\n" + GET)
        self.assertEqual([answer.code for answer in client.answers()], [413])
        client.transport.end()

    def test_body_just_fits(self) -> None:
        """The longest body is taken, announced or in chunks."""
        self.assertEqual(self.ask("/health", "POST", b"x" * MAX_BODY).code, 405)
        client = self.connect()
        client.send(b"POST /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"%x\r\n" % MAX_BODY + b"x" * MAX_BODY + b"\r\n0\r\n\r\n")
        self.assertEqual([answer.code for answer in client.answers()], [405])

    def test_bad_chunk(self) -> None:
        """A chunk that is none is 400."""
        data = b"POST /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        self.assertEqual(self.refused(data), (400, "bad_request"))

    def test_without_half_close(self) -> None:
        """On a transport that can't be closed by half (TLS) the refusal is written, then all is closed."""
        chunked = b"POST /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        too_long = b"%x\r\n" % (MAX_BODY + 1) + b"x" * (MAX_BODY + 1) + b"\r\n5\r\nhello\r\n0\r\n\r\n"
        for data, code in ((b"hello\r\n" + GET, 400), (chunked + too_long + GET, 413)):
            client = self.connect()
            self.patch(client.transport, "loseWriteConnection", None)
            client.send(data)
            self.assertTrue(client.lost)
            self.assertEqual([answer.code for answer in client.answers()], [code])

    def test_second_request_is_bad(self) -> None:
        """What was answered before stays answered; what follows a bad request is dropped."""
        client = self.connect()
        client.send(GET + b"hello\r\n" + GET)
        self.assertEqual([answer.code for answer in client.answers()], [200, 400])
        client.send(GET)
        self.assertEqual(client.answers(), [])


class TimeTests(SiteCase):
    """How long things may take."""

    def test_idle(self) -> None:
        """A connection without a request is closed after a while, without a word."""
        client = self.connect()
        self.clock.advance(59)
        self.assertFalse(client.lost)
        self.clock.advance(1)
        self.assertTrue(client.lost)
        self.assertEqual(client.answers(), [])

    def test_idle_after_a_request(self) -> None:
        """The time counts anew from each answer."""
        client = self.connect()
        for _ in range(3):
            self.clock.advance(50)
            client.send(GET)
        self.assertEqual(len(client.answers()), 3)
        self.clock.advance(60)
        self.assertTrue(client.lost)

    def test_byte_by_byte(self) -> None:
        """A client that sends a byte now and then is cut when its request should have been there."""
        client = self.connect()
        for number in range(100):
            client.send(GET[number % len(GET) :][:1] if number < 10 else b"x")
            self.clock.advance(1)
            if client.transport.half_closed:
                break
        (answer,) = client.answers()
        self.assertEqual((answer.code, answer.json["error"]["code"]), (408, "request_timeout"))
        self.assertEqual(self.clock.seconds(), 30)

    def test_slow_body(self) -> None:
        """The same for a body that comes slowly."""
        client = self.connect()
        client.send(b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(30):
            client.send(b"x")
            self.clock.advance(1)
        self.assertEqual([answer.code for answer in client.answers()], [408])

    def test_slow_second_request(self) -> None:
        """The same for a request after others, also where it began together with one of those."""
        for first, second in ((GET + b"G", b""), (GET, b"G")):
            client = self.connect()
            client.send(first)
            self.clock.advance(10)
            if second:
                client.send(second)
            client.answers()
            for _ in range(30):
                self.clock.advance(1)
                client.send(b"E")
            self.assertEqual([answer.code for answer in client.answers()], [408])

    def test_requests_in_time(self) -> None:
        """Each request has its own time: a busy connection may live for ever."""
        client = self.connect()
        for _ in range(20):
            client.send(GET[:10])
            self.clock.advance(20)
            client.send(GET[10:])
        self.assertEqual([answer.code for answer in client.answers()], [200] * 20)

    def test_never_reads(self) -> None:
        """A client that takes no answer is cut: idle first, then after the grace."""
        client = self.connect(reads=False)
        client.send(GET)
        self.clock.advance(60)
        self.assertTrue(client.transport.disconnecting)
        self.assertFalse(client.lost)
        self.clock.advance(CLOSE_GRACE)
        self.assertTrue(client.lost)

    def test_never_reads_the_last_answer(self) -> None:
        """The same where the connection was to be closed after the answer."""
        client = self.connect(reads=False)
        client.send(b"GET /health HTTP/1.0\r\n\r\n")
        self.clock.advance(CLOSE_GRACE)
        self.assertTrue(client.lost)

    def test_never_reads_a_refusal(self) -> None:
        """The same for a refusal; what still comes until then is dropped."""
        client = self.connect(reads=False)
        client.send(b"hello\r\n")
        client.send(GET)
        self.clock.advance(CLOSE_GRACE)
        self.assertTrue(client.lost)
        self.assertEqual([answer.code for answer in client.answers()], [400])


class PipelineTests(SiteCase):
    """Requests that are sent together."""

    def test_one_in_each_turn(self) -> None:
        """One is answered in each turn of the reactor, no more is read meanwhile, others come in between."""
        client, other = self.connect(), self.connect()
        client.send(GET * 3, turns=False)
        self.assertEqual(len(client.answers()), 1)
        self.assertEqual(client.transport.producerState, "paused")
        other.send(GET, turns=False)
        self.assertEqual(len(other.answers()), 1)
        self.clock.advance(0)
        self.assertEqual(len(client.answers()), 2)
        self.assertEqual(client.transport.producerState, "producing")

    def test_not_while_the_client_does_not_read(self) -> None:
        """A client that takes no answers gets no more of them until it does; nothing is lost."""
        client = self.connect()
        client.channel.pauseProducing()
        client.send(GET * 5)
        self.assertEqual(len(client.answers()), 1)
        self.assertEqual(client.transport.producerState, "paused")
        client.channel.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(len(client.answers()), 4)
        self.assertEqual(client.transport.producerState, "producing")
        client.send(GET)
        self.assertEqual(len(client.answers()), 1)

    def test_stops_reading_in_the_middle(self) -> None:
        """The same where the client stops reading while an answer is being written, or before a turn."""
        client = self.connect()
        write = client.transport.write

        def full(data: bytes) -> None:
            write(data)
            client.channel.pauseProducing()

        self.patch(client.transport, "write", full)
        client.send(GET * 3, turns=False)
        self.assertEqual(len(client.answers()), 1)
        self.clock.advance(0)
        self.assertEqual(client.answers(), [])
        self.assertEqual(client.transport.producerState, "paused")
        for _ in range(2):
            client.channel.resumeProducing()
            self.clock.advance(0)
            self.assertEqual(len(client.answers()), 1)
        client.channel.resumeProducing()
        self.assertEqual(client.transport.producerState, "producing")

    def test_stops_reading_before_its_turn(self) -> None:
        """A client that reads again, and stops before its next request had its turn, gets no answer."""
        client = self.connect()
        client.send(GET * 2, turns=False)
        client.channel.pauseProducing()
        client.answers()
        self.clock.advance(0)
        self.assertEqual(client.answers(), [])
        client.channel.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(len(client.answers()), 1)

    def test_waiting_is_not_timed(self) -> None:
        """Requests that wait for the client to read are not late; the client is, after a while."""
        client = self.connect()
        client.channel.pauseProducing()
        client.send(GET * 2)
        self.clock.advance(45)
        self.assertFalse(client.lost)
        self.clock.advance(15)
        self.assertTrue(client.lost)
        self.assertEqual([answer.code for answer in client.answers()], [200])

    def test_lost_before_its_turn(self) -> None:
        """A connection that is lost while requests wait leaves no timer."""
        client = self.connect()
        client.send(GET * 3, turns=False)
        client.transport.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])
