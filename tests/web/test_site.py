"""Tests for the rules of every request, and for what a connection may do (in memory)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import LogLevel, globalLogPublisher

from pipeops_agent.web.channel import (
    CLOSE_GRACE,
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
