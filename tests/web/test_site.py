"""Tests for the rules of every request, and for what a connection may do (in memory)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import LogLevel, globalLogPublisher

from pipeops_agent.web.channel import (
    CLOSE_GRACE,
    MAX_BODY,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_LINE,
    AgentChannel,
)
from pipeops_agent.web.replies import Reply, json
from pipeops_agent.web.request import AgentRequest
from pipeops_agent.web.routes import Route
from tests.web.harness import Client, SiteCase

GET = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


class RequestTests(SiteCase):
    """What holds for every path."""

    def test_not_found(self) -> None:
        """A path without a route is 404, in JSON; so are near misses."""
        for path in (
            "/nowhere",
            "/health/",
            "//health",
            "/Health",
            "/health/x",
            "/%ff",
            "/..",
            "/%2e%2e/health",
        ):
            answer = self.ask(path)
            self.assertEqual((answer.code, answer.json["error"]["code"]), (404, "not_found"), path)

    def test_percent_encoded(self) -> None:
        """An encoded path is the path that it encodes; a query makes no difference."""
        self.assertEqual(self.ask("/he%61lth?x=%zz&y").code, 200)

    def test_absolute_form(self) -> None:
        """A proxy may name the whole URL (RFC 9112, 3.2.2)."""
        self.assertEqual(self.ask("http://agent:8080/health").code, 200)
        self.assertEqual(self.ask("HTTPS://agent/health?x").code, 200)
        self.assertEqual(self.ask("http://agent").code, 303)

    def test_head(self) -> None:
        """HEAD is GET without the body: the same status and length."""
        for path in ("/health", "/ready", "/metrics", "/nowhere", "/"):
            head, get = self.ask(path, "HEAD"), self.ask(path)
            self.assertEqual((head.code, head.body), (get.code, b""), path)
            if path != "/metrics":
                self.assertEqual(head.headers["Content-Length"], get.headers["Content-Length"], path)

    def test_head_keeps_the_connection(self) -> None:
        """After HEAD the next answer is where a client looks for it."""
        client = self.connect()
        client.send(b"HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
        head, get = client.answers("HEAD", "GET")
        self.assertEqual((head.body, get.json["status"]), (b"", "healthy"))

    def test_method_not_allowed(self) -> None:
        """Another method than the route has is 405, with those that it has."""
        for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "FROBNICATE", "get"):
            answer = self.ask("/health", method)
            self.assertEqual((answer.code, answer.json["error"]["code"]), (405, "method_not_allowed"), method)
            self.assertEqual(answer.headers["Allow"], "GET, HEAD, OPTIONS")

    def test_options(self) -> None:
        """OPTIONS tells what can be done at a path, and at the whole server."""
        for path in ("/health", "*"):
            answer = self.ask(path, "OPTIONS")
            self.assertEqual((answer.code, answer.headers["Allow"]), (204, "GET, HEAD, OPTIONS"))
            self.assertNotIn("Content-Length", answer.headers)
        self.assertEqual(self.ask("/nowhere", "OPTIONS").code, 404)
        self.assertEqual(self.ask("*").code, 404)

    def test_host(self) -> None:
        """HTTP/1.1 needs exactly one Host (RFC 9112, 3.2); any name will do. HTTP/1.0 needs none."""
        for headers, code in (
            ("", 400),
            ("Host: a\r\nHost: a\r\n", 400),
            ("Host: elsewhere.example\r\n", 200),
        ):
            client = self.connect()
            client.send(f"GET /health HTTP/1.1\r\n{headers}\r\n".encode())
            self.assertEqual([answer.code for answer in client.answers()], [code], headers)
        client = self.connect()
        client.send(b"GET /health HTTP/1.0\r\n\r\n")
        self.assertEqual([answer.code for answer in client.answers()], [200])
        self.assertTrue(client.lost)

    def test_keep_alive_and_pipelining(self) -> None:
        """Requests one after the other, or sent together, are answered in order on one connection."""
        client = self.connect()
        client.send(GET)
        client.send(GET + b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
        self.assertEqual([answer.code for answer in client.answers()], [200, 200, 404, 200])
        client.send(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        (answer,) = client.answers()
        self.assertEqual(answer.headers["Connection"], "close")
        self.assertTrue(client.lost)

    def test_split_anywhere(self) -> None:
        """However a request is cut into pieces, it is answered once."""
        request = b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
        for cut in range(1, len(request)):
            client = self.connect()
            client.send(request[:cut])
            client.send(request[cut:])
            self.assertEqual([answer.code for answer in client.answers()], [405])
            client.transport.end()

    def test_counted_by_template(self) -> None:
        """Metrics know routes, not paths, and common methods, not any word that a client sends."""
        self.ask("/health?x=1")
        self.ask("/nowhere/1")
        self.ask("/nowhere/2")
        self.ask("/health", "FROBNICATE")
        self.ask("/ready", "HEAD")
        self.assertEqual(
            self.counted(),
            {
                ("GET", "/health", "200"): 1,
                ("GET", "unmatched", "404"): 2,
                ("OTHER", "/health", "405"): 1,
                ("HEAD", "/ready", "503"): 1,
            },
        )

    def test_access_log(self) -> None:
        """Requests are logged at debug, without the query; nothing at info or above."""
        # Any test case will do, whatever the annotation says.
        events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)  # type: ignore[arg-type]
        self.ask("/ready?token=secret")
        (event,) = (event for event in events if event.get("log_namespace") == "web")
        self.assertEqual(event["log_level"], LogLevel.debug)
        self.assertEqual(
            (event["method"], event["path"], event["code"], event["client"]),
            ("GET", "/ready", 503, "10.0.0.7"),
        )
        self.assertEqual([event for event in events if event["log_level"] > LogLevel.debug], [])

    def test_no_wakeups(self) -> None:
        """A site without connections has no timer: an idle agent is idle."""
        self.assertEqual(self.clock.getDelayedCalls(), [])


class HandlerTests(SiteCase):
    """Handlers that take time, or fail."""

    def later(self) -> tuple[Deferred[Reply], list[Mapping[str, str]]]:
        """Serve C{/things/{name}} with a Deferred; return it and the parameters of the calls."""
        cancelled: list[Mapping[str, str]] = []
        answer: Deferred[Reply] = Deferred()

        async def handler(request: AgentRequest, parameters: Mapping[str, str]) -> Reply:
            cancelled.append(parameters)
            return await answer

        self.build(Route("POST", "/things/{name}", handler))
        return answer, cancelled

    POST = b"POST /things/a%2Fb HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"

    def test_parameters(self) -> None:
        """A segment in braces is handed over, decoded; the template counts."""
        answer, seen = self.later()
        client = self.connect()
        client.send(self.POST)
        self.assertEqual((seen, client.answers()), ([{"name": "a/b"}], []))
        answer.callback(json({"done": True}, code=201))
        (reply,) = client.answers()
        self.assertEqual((reply.code, reply.json), (201, {"done": True}))
        self.assertEqual(self.counted(), {("POST", "/things/{name}", "201"): 1})

    def test_busy_is_not_timed(self) -> None:
        """While a request is being answered no timer of the connection runs."""
        answer, _ = self.later()
        client = self.connect()
        client.send(self.POST)
        self.clock.pump([60] * 10)
        self.assertFalse(client.lost)
        answer.callback(Reply())
        self.assertEqual(len(client.answers()), 1)

    def test_client_gone(self) -> None:
        """When the client goes away its handler is cancelled, and nothing is logged as a failure."""
        answer, _ = self.later()
        client = self.connect()
        client.send(self.POST)
        client.transport.end()
        self.assertTrue(answer.called)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_answer_for_nobody(self) -> None:
        """A handler that takes no notice of being cancelled answers into the void, without an error."""
        never: Deferred[None] = Deferred()

        async def handler(request: AgentRequest, parameters: Mapping[str, str]) -> Reply:
            with contextlib.suppress(CancelledError):
                await never
            return Reply()

        self.build(Route("GET", "/stubborn", handler))
        client = self.connect()
        client.send(b"GET /stubborn HTTP/1.1\r\nHost: a\r\n\r\n")
        client.transport.end()
        self.assertTrue(never.called)
        self.assertEqual((client.answers(), self.flushLoggedErrors()), ([], []))

    def test_failure(self) -> None:
        """A handler that raises is 500 without details, logged; the connection goes on."""

        def handler(request: AgentRequest, parameters: Mapping[str, str]) -> Reply:
            raise ZeroDivisionError("inner secret")

        self.build(Route("GET", "/broken", handler))
        client = self.connect()
        client.send(b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
        broken, fine = client.answers()
        self.assertEqual((broken.code, broken.json["error"]["code"], fine.code), (500, "internal", 200))
        self.assertNotIn(b"inner secret", broken.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.counted()["GET", "/broken", "500"], 1)

    def test_failure_later(self) -> None:
        """The same for one that fails after a while."""
        answer, _ = self.later()
        client = self.connect()
        client.send(self.POST)
        answer.errback(ZeroDivisionError("inner secret"))
        (reply,) = client.answers()
        self.assertEqual(reply.code, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


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


class ConnectionTests(SiteCase):
    """How many connections there may be."""

    def block(self) -> None:
        """Serve C{/slow}, whose requests are answered by L{finish}."""
        self.waiting: list[Deferred[Reply]] = []

        async def handler(request: AgentRequest, parameters: Mapping[str, str]) -> Reply:
            waiting: Deferred[Reply] = Deferred()
            self.waiting.append(waiting)
            return await waiting

        self.build(Route("GET", "/slow", handler))

    def finish(self) -> None:
        """Answer all requests for C{/slow}."""
        for waiting in self.waiting:
            waiting.callback(Reply())

    def busy(self) -> Client:
        client = self.connect()
        client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        return client

    def test_room_for_one_more(self) -> None:
        """Above the limit the connection that has been idle longest gives way: probes always get in."""
        clients = [self.connect() for _ in range(5)]
        clients[0].send(GET)
        self.assertEqual(self.ask("/health").code, 200)
        self.assertEqual([client.lost for client in clients], [False, True, False, False, False])

    def test_attack_on_itself(self) -> None:
        """Who opens connections without end only closes its own, and the number stays bounded."""
        for _ in range(100):
            self.connect().send(b"GET /he")
        self.assertEqual(sum(not client.lost for client in self.clients), 5)
        self.assertEqual(self.ask("/health").code, 200)

    def test_busy_ones_stay(self) -> None:
        """A request that is being answered is never cut for another; when all are busy the next is closed."""
        self.block()
        busy = [self.busy() for _ in range(4)]
        idle = self.connect()
        late = self.busy()
        self.assertTrue(idle.lost)
        self.assertIsNone(self.try_connect())
        self.finish()
        self.assertEqual([len(client.answers()) for client in [*busy, late]], [1] * 5)

    def test_close(self) -> None:
        """At the end idle connections are closed at once, and that is told."""
        self.connect()
        self.connect().send(b"GET /he")
        done = self.site.close_connections()
        self.successResultOf(done)
        self.assertTrue(all(client.lost for client in self.clients))

    def test_close_without_connections(self) -> None:
        """Without connections there is nothing to wait for."""
        self.successResultOf(self.site.close_connections())

    def test_close_while_busy(self) -> None:
        """A request under way is answered first, and the connection closed then."""
        self.block()
        client = self.busy()
        done = self.site.close_connections()
        self.assertNoResult(done)
        self.finish()
        self.successResultOf(done)
        self.assertEqual(len(client.answers()), 1)

    def test_close_is_bounded(self) -> None:
        """A handler that does not end, or a client that does not read, is not waited for."""
        self.block()
        self.busy()
        self.connect(reads=False)
        done = self.site.close_connections()
        self.assertNoResult(done)
        self.clock.advance(CLOSE_GRACE)
        self.successResultOf(done)

    def test_lost_in_the_middle(self) -> None:
        """A connection that is lost at any byte of a request leaves nothing behind."""
        request = b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
        for cut in range(len(request)):
            client = self.connect()
            client.send(request[:cut])
            client.transport.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_protocol(self) -> None:
        """What is made for a connection is the channel with the limits."""
        self.assertIsInstance(self.connect().channel, AgentChannel)
