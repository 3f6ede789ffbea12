"""Tests of L{pipeops_agent.cluster.transport}: a real client and a server, in memory."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable
from typing import Any

from treq.testing import RequestTraversalAgent
from twisted.internet import error as net_error
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IAgent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from pipeops_agent.cluster.call import Answer, Call
from pipeops_agent.cluster.config import ClusterConfig, Credential, Credentials
from pipeops_agent.cluster.errors import BadAnswer, StatusError, Unreachable
from pipeops_agent.cluster.stream import BodyStream, Cut
from pipeops_agent.cluster.transport import ATTEMPTS, MAX_FAILURE, Transport
from pipeops_agent.net import ClientTLS, ConnectProblem
from pipeops_agent.secrets import Secret

TOKEN = "service-account-token-that-nobody-may-see"
LIST = Call(method="GET", verb="list", resource="pods", path="/api/v1/pods", query=(("limit", "1"),))
PATCH = Call(method="PATCH", verb="patch", resource="pods", path="/api/v1/namespaces/a/pods/b", body=b"{}")
STATUS = b'{"kind":"Status","reason":"%s","message":"%s","code":%d}'

Reply = Callable[[Request], Any]


def reply(code: int, body: bytes = b"{}", **headers: str) -> Reply:
    def write(request: Request) -> bytes:
        request.setResponseCode(code)
        for name, value in headers.items():
            request.setHeader(name.replace("_", "-"), value)
        return body

    return write


def hang(request: Request) -> Any:
    return NOT_DONE_YET


class Server(Resource):
    """Answers each request with the next reply, the last one for ever."""

    isLeaf = True

    def __init__(self, *replies: Reply) -> None:
        super().__init__()
        self.replies = list(replies)
        self.seen: list[tuple[str, str, dict[str, str]]] = []

    def render(self, request: Request) -> Any:
        headers = {
            name.decode().lower(): values[0].decode()
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        self.seen.append((request.method.decode(), request.uri.decode(), headers))
        return (self.replies.pop(0) if len(self.replies) > 1 else self.replies[0])(request)


class Rotating:
    """Credentials that have another token after each refusal."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)

    async def current(self) -> Credential:
        return Credential(token=Secret(self.tokens[0]))

    def refused(self) -> bool:
        if len(self.tokens) == 1:
            return False
        self.tokens.pop(0)
        return True


class Unconnected:
    """An agent that can't connect, so often; then it is the other."""

    def __init__(self, times: int, agent: IAgent) -> None:
        self.left = times
        self.agent = agent

    def request(self, *arguments: Any) -> Deferred[Any]:
        if self.left:
            self.left -= 1
            problem = ConnectProblem("tcp", "refused", retryable=True)
            problem.__cause__ = net_error.ConnectionRefusedError()
            waiting: Deferred[Any] = Deferred()
            waiting.errback(Failure(problem))
            return waiting
        return self.agent.request(*arguments)


class Agents:
    """Gives out one agent, and notes with which TLS it was asked for."""

    def __init__(self, agent: IAgent) -> None:
        self.given = agent
        self.tls: list[ClientTLS | None] = []
        self.released: list[IAgent] = []

    def agent(self, tls: ClientTLS | None = None, *, max_answer: int | None = None) -> IAgent:
        self.tls.append(tls)
        return self.given

    def release(self, agent: IAgent) -> None:
        self.released.append(agent)


class TransportCase(SynchronousTestCase):
    """A transport to C{self.server}."""

    def connect(self, *replies: Reply, credentials: Credentials | None = None, refuse: int = 0) -> Transport:
        self.clock = Clock()
        self.server = Server(*replies)
        self.traversal = RequestTraversalAgent(self.server)
        agent: Any = Unconnected(refuse, self.traversal) if refuse else self.traversal
        self.agents = Agents(agent)
        self.observed: list[tuple[str, str, int | None]] = []
        config = ClusterConfig(
            origin="a test",
            host="kube.test",
            port=6443,
            tls=ClientTLS(),
            credentials=credentials or Rotating(TOKEN),
        )
        return Transport(
            self.clock,
            self.agents,
            config,
            version="1.2.3",
            observe=lambda verb, resource, code, seconds: self.observed.append((verb, resource, code)),
            random=lambda: 1.0,
        )

    def wait(self, awaitable: Awaitable[Any], seconds: float = 0.0) -> Deferred[Any]:
        """Start it, and let time pass in small steps, with everything that moves in it."""
        result: Deferred[Any] = Deferred.fromCoroutine(awaitable)  # type: ignore[arg-type]  # they are coroutines
        self.traversal.flush()
        while seconds > 0:
            self.clock.advance(0.1)
            self.traversal.flush()
            seconds -= 0.1
        return result

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])


class CallTests(TransportCase):
    """Whole answers."""

    def test_request(self) -> None:
        """Method, path, query, bearer token, agent; a whole answer may be compressed."""
        transport = self.connect(reply(200, b'{"items":[]}', content_type="application/json"))
        answer: Answer = self.successResultOf(self.wait(transport.call(LIST)))
        self.assertEqual(answer, Answer(status=200, body=b'{"items":[]}', content_type="application/json"))
        ((method, uri, headers),) = self.server.seen
        self.assertEqual((method, uri), ("GET", "/api/v1/pods?limit=1"))
        self.assertEqual(headers["authorization"], f"Bearer {TOKEN}")
        self.assertEqual(headers["user-agent"], "PipeOps-Agent/1.2.3")
        self.assertEqual(headers["host"], "kube.test:6443")
        self.assertEqual(headers["accept-encoding"], "gzip")
        self.assertNotIn("content-type", headers)
        self.assertEqual(self.observed, [("list", "pods", 200)])

    def test_callers_token(self) -> None:
        """A caller's own token goes out instead of the agent's, and never beside its certificate."""

        class Certified:
            async def current(self) -> Credential:
                return Credential(certificate=b"CERT", key=Secret("KEY"))

            def refused(self) -> bool:
                return True

        transport = self.connect(reply(401), credentials=Certified())
        self.failureResultOf(self.wait(transport.call(LIST)), StatusError)
        call = Call(method="GET", verb="get", resource="pods", path="/", token=Secret("theirs"))
        self.failureResultOf(self.wait(transport.call(call)), StatusError)
        self.assertEqual(self.server.seen[-1][2]["authorization"], "Bearer theirs")
        with_certificate, without = self.agents.tls
        assert with_certificate is not None and without is not None
        self.assertEqual((with_certificate.cert_data, without.cert_data), (b"CERT", b""))
        self.assertEqual(len(self.server.seen), 3)  # the caller's refusal is not the agent's

    def test_renewed_certificate(self) -> None:
        """A client whose certificate was renewed is let go; the callers' one, without any, is kept."""

        class Renewing:
            number = 1

            async def current(self) -> Credential:
                return Credential(certificate=b"CERT %d" % self.number, key=Secret("KEY"))

            def refused(self) -> bool:
                return False

        credentials = Renewing()
        transport = self.connect(reply(200), credentials=credentials)
        theirs = Call(method="GET", verb="get", resource="pods", path="/", token=Secret("theirs"))
        for number in (1, 1, 2, 3):
            credentials.number = number
            for call in (LIST, theirs):
                self.successResultOf(self.wait(transport.call(call)))
        self.assertEqual(
            [tls.cert_data for tls in self.agents.tls if tls], [b"CERT 1", b"", b"CERT 2", b"CERT 3"]
        )
        self.assertEqual(len(self.agents.released), 2)

    def test_failure(self) -> None:
        """A Status becomes an error with its code, reason and message; the sentence names the call."""
        transport = self.connect(reply(403, STATUS % (b"Forbidden", b"pods is forbidden", 403)))
        error = self.failureResultOf(self.wait(transport.call(LIST)), StatusError).value
        self.assertEqual((error.code, error.reason, error.forbidden), (403, "Forbidden", True))
        self.assertEqual(error.sentence, "list pods: pods is forbidden (403)")
        self.assertFalse(error.retryable)

    def test_not_from_the_api(self) -> None:
        """What something before the API says is told in its first line, printable and bounded."""
        transport = self.connect(reply(404, b"<html>\x1b[31m" + b"x" * 5000 + b"\nmore"))
        error = self.failureResultOf(self.wait(transport.call(LIST)), StatusError).value
        self.assertEqual((error.code, error.reason), (404, ""))
        self.assertNotIn("\x1b", error.sentence)
        self.assertLess(len(error.sentence), 1100)

    def test_status_that_is_not_utf8(self) -> None:
        """A failure whose text is no UTF-8 is one all the same."""
        transport = self.connect(reply(404, b'{"kind":"Status","message":"\xff"}'))
        error = self.failureResultOf(self.wait(transport.call(LIST)), StatusError).value
        self.assertEqual((error.code, error.reason), (404, ""))

    def test_endless_failure(self) -> None:
        """Of an answer that says no only so much is read; its status is enough."""
        transport = self.connect(reply(404, b"x" * (MAX_FAILURE + 1)))
        error = self.failureResultOf(self.wait(transport.call(LIST)), StatusError).value
        self.assertEqual(error.code, 404)

    def test_redirect(self) -> None:
        """A redirect is reported with its place, and not followed: the token stays here."""
        transport = self.connect(reply(302, Location="https://elsewhere.test/"))
        error = self.failureResultOf(self.wait(transport.call(LIST)), StatusError).value
        self.assertIn("Location: https://elsewhere.test/", error.sentence)
        self.assertEqual(len(self.server.seen), 1)

    def test_compressed(self) -> None:
        """What is compressed is decoded; the limit is on what it becomes."""
        body = gzip.compress(b'{"items":[]}' + b" " * 1000)
        self.assertLess(len(body), 100)
        transport = self.connect(reply(200, body, content_encoding="gzip"))
        answer: Answer = self.successResultOf(self.wait(transport.call(LIST)))
        self.assertEqual(answer.body.strip(), b'{"items":[]}')
        call = Call(method="GET", verb="get", resource="pods", path="/", limit=100)
        error = self.failureResultOf(self.wait(transport.call(call)), BadAnswer).value
        self.assertIn("longer than 100 bytes", error.sentence)

    def test_body_too_long(self) -> None:
        """A body beyond the call's limit is an error, not memory."""
        transport = self.connect(reply(200, b"x" * 101))
        call = Call(method="GET", verb="get", resource="pods", path="/", limit=100)
        self.failureResultOf(self.wait(transport.call(call)), BadAnswer)

    def test_no_answer(self) -> None:
        """A server that says nothing is given up after the call's timeout, and observed without a code."""
        transport = self.connect(hang)
        result = self.wait(transport.call(LIST), 29.0)
        self.assertNoResult(result)
        self.clock.advance(1.5)
        error = self.failureResultOf(result, Unreachable).value
        self.assertIn("no answer from kube.test:6443 within 30 s", error.sentence)
        self.assertEqual(self.observed, [("list", "pods", None)])

    def test_cancel(self) -> None:
        """Cancelling leaves nothing on the clock."""
        transport = self.connect(hang)
        result = self.wait(transport.call(LIST))
        result.cancel()
        self.failureResultOf(result)


class AgainTests(TransportCase):
    """What is made again, and what is not."""

    def test_server_in_trouble(self) -> None:
        """A call that changes nothing is made again after a 500, with a growing wait."""
        transport = self.connect(reply(500), reply(503), reply(200))
        answer: Answer = self.successResultOf(self.wait(transport.call(LIST), 3.0))
        self.assertEqual(answer.status, 200)
        self.assertEqual(self.observed, [("list", "pods", code) for code in (500, 503, 200)])

    def test_not_for_ever(self) -> None:
        """After so many attempts the last failure is told."""
        transport = self.connect(reply(500))
        self.failureResultOf(self.wait(transport.call(LIST), 20.0), StatusError)
        self.assertEqual(len(self.server.seen), ATTEMPTS)

    def test_change_is_not_repeated(self) -> None:
        """A call that changes something is not made again after a 500: it may have been done."""
        transport = self.connect(reply(500))
        self.failureResultOf(self.wait(transport.call(PATCH)), StatusError)
        self.assertEqual(len(self.server.seen), 1)

    def test_too_many_requests(self) -> None:
        """429 means that nothing was done: any call is made again, after what the server asks for."""
        transport = self.connect(reply(429, Retry_After="2"), reply(200))
        result = self.wait(transport.call(PATCH), 2.0)
        self.assertNoResult(result)
        self.wait(transport.config.credentials.current(), 1.0)
        self.assertEqual(self.successResultOf(result).status, 200)

    def test_no_connection(self) -> None:
        """Where no connection was made nothing was sent: any call is made again."""
        transport = self.connect(reply(200), refuse=1)
        self.assertEqual(self.successResultOf(self.wait(transport.call(PATCH), 1.0)).status, 200)
        self.assertEqual(self.observed, [("patch", "pods", None), ("patch", "pods", 200)])

    def test_unauthorized(self) -> None:
        """After a 401 the token is got anew, and the call made once more."""
        transport = self.connect(reply(401), reply(200), credentials=Rotating("old", "new"))
        self.assertEqual(self.successResultOf(self.wait(transport.call(PATCH))).status, 200)
        self.assertEqual(
            [seen[2]["authorization"] for seen in self.server.seen], ["Bearer old", "Bearer new"]
        )

    def test_unauthorized_for_good(self) -> None:
        """Refused twice it is refused; no token is in the error."""
        transport = self.connect(reply(401), credentials=Rotating("old", "new", "newer"))
        error = self.failureResultOf(self.wait(transport.call(LIST)), StatusError)
        self.assertEqual(len(self.server.seen), 2)
        for token in ("old", "newer"):
            self.assertNotIn(f"Bearer {token}", error.getErrorMessage())


class StreamTests(TransportCase):
    """Answers read as they come."""

    def test_pieces(self) -> None:
        """The head is enough to begin; the body comes as it is written, and its end is no cut."""
        requests: list[Request] = []

        def write(request: Request) -> Any:
            requests.append(request)
            request.write(b"one\n")
            return NOT_DONE_YET

        transport = self.connect(write)
        stream: BodyStream = self.successResultOf(self.wait(transport.stream(LIST)))
        self.assertEqual(self.successResultOf(stream.read()), b"one\n")
        waiting = stream.read()
        self.assertNoResult(waiting)
        requests[0].write(b"two\n")
        requests[0].finish()
        self.traversal.flush()
        self.assertEqual(self.successResultOf(waiting), b"two\n")
        self.assertEqual(self.successResultOf(stream.read()), b"")
        self.assertNotIn(
            "accept-encoding", self.server.seen[0][2]
        )  # its pieces go to the reader as they come

    def test_lost(self) -> None:
        """A connection that is lost in the middle is a cut."""

        def write(request: Request) -> Any:
            request.setHeader("Content-Length", "100")
            request.write(b"half")
            requests.append(request)
            return NOT_DONE_YET

        requests: list[Request] = []
        transport = self.connect(write)
        stream: BodyStream = self.successResultOf(self.wait(transport.stream(LIST)))
        self.assertEqual(self.successResultOf(stream.read()), b"half")
        requests[0].loseConnection()
        self.traversal.flush()
        self.failureResultOf(stream.read(), Cut)

    def test_refused(self) -> None:
        """A refusal is an error of the call, as for whole answers."""
        transport = self.connect(reply(410, STATUS % (b"Expired", b"too old", 410)))
        error = self.failureResultOf(self.wait(transport.stream(LIST)), StatusError).value
        self.assertTrue(error.expired)
