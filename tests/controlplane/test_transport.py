"""One call: what goes out, what may come back, and how long it may take."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web._newclient import ParseError
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from pipeops_agent.build import build_info
from pipeops_agent.controlplane import ControlPlaneClient
from pipeops_agent.controlplane.answer import parse_date, parse_retry_after
from pipeops_agent.controlplane.errors import ApiError
from pipeops_agent.controlplane.messages import Heartbeat, HeartbeatAnswer, Registration
from pipeops_agent.net import CertificateProblem, ConnectProblem, TLSFileProblem
from pipeops_agent.net.bodies import MAX_BODY
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_pipeops import EndpointSettings, PipeopsSettings
from pipeops_agent.settings.model_tunnel import TunnelSettings
from tests.controlplane.fakes import API, NOON, Reply, World
from tests.controlplane.logs import Records

BEAT = Heartbeat(
    cluster_id="c/1",
    agent_id="agent 1",
    status="active",
    tunnel_status="disconnected",
    timestamp="2026-03-04T12:00:00Z",
    metadata={},
)


class CallTests(SynchronousTestCase):
    """Calls through the real client and treq, to a server in memory."""

    def world(self, *replies: Reply, **settings: Any) -> World:
        return World(*replies, settings=PipeopsSettings(**{"api_url": API, **settings}))

    def beat(self, world: World) -> Deferred[HeartbeatAnswer]:
        return Deferred.fromCoroutine(world.client.heartbeat(BEAT))

    def error(self, world: World) -> ApiError:
        """The error that a heartbeat ends with; no timer is left."""
        error = self.failureResultOf(self.beat(world), ApiError).value
        self.assertEqual(world.clock.getDelayedCalls(), [])
        assert isinstance(error, ApiError)
        return error

    def test_request(self) -> None:
        """Method, URL with the ids quoted, the contract's headers, and no others that say anything."""
        world = self.world(Reply(204, b""))
        self.successResultOf(self.beat(world))
        (seen,) = world.server.seen
        self.assertEqual(seen.method, "POST")
        self.assertEqual(seen.uri, "/base/api/v1/clusters/agent/c%2F1/heartbeat")
        headers = seen.headers
        self.assertEqual(headers.pop("authorization"), "Bearer token-0123456789")
        self.assertEqual(headers.pop("content-type"), "application/json")
        self.assertEqual(headers.pop("user-agent"), f"PipeOps-Agent/{build_info().version}")
        self.assertEqual(headers.pop("accept-encoding"), "gzip")
        self.assertEqual(headers.pop("content-length"), str(len(seen.body)))
        self.assertEqual(sorted(headers), ["connection", "host"])
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_query(self) -> None:
        """A placeholder in the query is quoted too; a call without a body has no content type."""
        world = self.world(Reply(404))
        asking = world.client.tunnel_status(cluster_id="c", agent_id="a&b=c d", tunnel=TunnelSettings())
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(asking)))
        (seen,) = world.server.seen
        self.assertEqual((seen.method, seen.body), ("GET", b""))
        self.assertEqual(seen.uri, "/base/api/v1/tunnel/status?agent_id=a%26b%3Dc%20d")
        self.assertNotIn("content-type", seen.headers)

    def test_other_paths(self) -> None:
        """The paths are settings, of every call; the older service's form works."""
        others = EndpointSettings(
            register="/r", heartbeat="/h/{cluster_id}", tunnel_status="/api/agents/{agent_id}/tunnel/status"
        )
        world = self.world(Reply(404), endpoints=others, api_url="https://cp.test/")
        asking = world.client.tunnel_status(cluster_id="c", agent_id="agent-1", tunnel=TunnelSettings())
        self.successResultOf(Deferred.fromCoroutine(asking))
        registering = world.client.register(Registration(contract_version=1, agent_id="agent-1"))
        self.failureResultOf(Deferred.fromCoroutine(registering), ApiError)
        self.failureResultOf(self.beat(world), ApiError)
        self.assertEqual(
            [seen.uri for seen in world.server.seen],
            ["/api/agents/agent-1/tunnel/status", "/r", "/h/c%2F1"],
        )

    def test_no_cookies(self) -> None:
        """What a server sets as a cookie is not sent back."""
        world = self.world(Reply(200, Set_Cookie="a=b; Path=/"))
        self.successResultOf(self.beat(world))
        self.successResultOf(self.beat(world))
        self.assertNotIn("cookie", world.server.seen[1].headers)

    def test_redirect(self) -> None:
        """A redirect is not followed: no token goes to where it points. It is reported with its place."""
        world = self.world(Reply(301, b"", Location="https://elsewhere.test/x"))
        error = self.error(world)
        self.assertEqual(len(world.server.seen), 1)
        self.assertIn("301 Moved Permanently", error.sentence)
        self.assertIn("Location: https://elsewhere.test/x", error.sentence)
        self.assertFalse(error.retryable)

    def test_plain_http(self) -> None:
        """C{http://} is refused before anything is sent, but to loopback or where it is allowed."""
        refused = self.world(api_url="http://cp.test")
        error = self.error(refused)
        self.assertIn("http:// is refused", error.sentence)
        self.assertTrue(error.unusable_settings)
        self.assertEqual(refused.server.seen, [])
        for place in ("127.0.0.1:1", "localhost:1", "[::1]:1"):
            allowed = self.world(api_url=f"http://{place}")
            self.successResultOf(self.beat(allowed))
            self.assertEqual(allowed.server.seen[0].headers["host"], place)
        self.successResultOf(self.beat(self.world(api_url="http://cp.test", allow_insecure=True)))

    def test_server_errors(self) -> None:
        """5xx and 429 can be tried again; the page's first line is in the sentence, 2 KiB are kept."""
        page = b"<html><head><title>502 Bad Gateway</title></head>" + b"x" * 5000
        error = self.error(self.world(Reply(502, page)))
        self.assertEqual(
            error.sentence, "heartbeat: the control plane answers 502 Bad Gateway: 502 Bad Gateway"
        )
        self.assertEqual((error.status, error.retryable, error.json_object), (502, True, False))
        self.assertEqual(len(error.response or ""), 2048)
        busy = self.error(self.world(Reply(429, b"{}", Retry_After="7")))
        self.assertEqual((busy.retryable, busy.retry_after), (True, 7.0))

    def test_refusals(self) -> None:
        """Other 4xx are refusals, with the message that the answer has."""
        for body, reason in (
            (b'{"message": "no such cluster"}', ": no such cluster"),
            (b'{"error": {"message": "gone"}}', ": gone"),
            (b'{"error": "odd"}', ": odd"),
            (b'{"x": 1}', ""),
            (b"[1]", ""),
        ):
            error = self.error(self.world(Reply(404, body)))
            self.assertEqual(
                error.sentence, f"heartbeat: the control plane refuses the call (404 Not Found){reason}"
            )
            self.assertFalse(error.retryable)
            self.assertIs(error.json_object, body.startswith(b"{"))
        self.assertIn("(unknown status)", self.error(self.world(Reply(799, b""))).sentence)

    def test_token_not_repeated(self) -> None:
        """An answer that repeats the token does not bring it into sentence or response."""
        echo = b'{"message": "bad token token-0123456789", "header": "Bearer token-0123456789"}'
        error = self.error(self.world(Reply(400, echo)))
        self.assertNotIn("0123456789", error.sentence + str(error.response) + str(error))

    def test_token_read_again(self) -> None:
        """After 401 or 403 the token is read again and the call repeated, once."""
        for status in (401, 403):
            world = self.world(Reply(status), Reply(200))
            world.tokens.tokens.append(Secret("next-token"))
            self.successResultOf(self.beat(world))
            self.assertEqual(
                [seen.headers["authorization"] for seen in world.server.seen],
                ["Bearer token-0123456789", "Bearer next-token"],
            )
            self.assertEqual(world.tokens.refreshed, 1)

    def test_token_refused(self) -> None:
        """Refused twice it is refused: two calls, and an error that says so."""
        world = self.world(Reply(401, b'{"message": "expired"}'))
        error = self.error(world)
        self.assertEqual(len(world.server.seen), 2)
        self.assertTrue(error.refused)
        self.assertEqual(
            error.sentence, "heartbeat: the control plane refuses the token (401 Unauthorized): expired"
        )

    def test_no_token(self) -> None:
        """Without a usable token nothing is sent."""
        for token in ("", "to\nken", "tök"):
            world = self.world()
            world.tokens.tokens[:] = [Secret(token)]
            error = self.error(world)
            self.assertIn("token", error.sentence)
            self.assertTrue(error.unusable_settings)
            self.assertEqual(world.server.seen, [])
        world.tokens.tokens.clear()
        self.assertIn("there is no token", self.error(world).sentence)

    def test_body_too_long(self) -> None:
        """A body over 1 MiB is an error where the body counts, and cut off where the status does."""
        self.successResultOf(self.beat(self.world(Reply(200, b" " * MAX_BODY))))
        error = self.error(self.world(Reply(200, b" " * (MAX_BODY + 1))))
        self.assertIn("longer than 1048576 bytes", error.sentence)
        self.assertFalse(error.retryable)
        self.assertEqual(self.error(self.world(Reply(503, b" " * (MAX_BODY + 1)))).status, 503)

    def test_gzip(self) -> None:
        """A compressed body is read."""
        packed = gzip.compress(b'{"message": "hello"}')
        error = self.error(self.world(Reply(400, packed, Content_Encoding="gzip")))
        self.assertTrue(error.sentence.endswith(": hello"))

    def test_gzip_bomb(self) -> None:
        """What unpacks to more than 1 MiB is stopped there, and never stands in memory whole."""
        bomb = gzip.compress(b"\0" * (64 * MAX_BODY))
        self.assertLess(len(bomb), MAX_BODY)
        world = self.world(Reply(200, bomb, Content_Encoding="gzip"))
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        error = self.error(world)
        self.assertLess(tracemalloc.get_traced_memory()[1], 8 * MAX_BODY)
        self.assertIn("longer than", error.sentence)

    def test_damaged_encodings(self) -> None:
        """A body that can't be unpacked, or is packed in a way that was not asked for, is unusable."""
        whole = gzip.compress(b"x" * 100)
        for body, encoding in (
            (b"not gzip", "gzip"),
            (whole[:-10], "gzip"),
            (zlib.compress(b"x"), "deflate"),
            (gzip.compress(whole), "gzip, gzip"),
        ):
            error = self.error(self.world(Reply(200, body, Content_Encoding=encoding)))
            self.assertIn("unusable answer", error.sentence, encoding)

    def test_deadline(self) -> None:
        """A call that is not answered ends at C{pipeops.timeout}, and lets go of the connection."""
        world = self.world(timeout=30.0)
        world.server.hang = True
        beating = self.beat(world)
        world.clock.advance(29.9)
        self.assertNoResult(beating)
        world.clock.advance(0.2)
        error = self.failureResultOf(beating, ApiError).value
        self.assertEqual(error.sentence, "heartbeat: no answer from cp.test within 30 s")
        self.assertTrue(error.retryable and error.lost)
        world.connector.traversal.flush()
        self.assertEqual(world.server.disconnected, 1)
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """Cancelling a call ends it at once, as that."""
        world = self.world()
        world.server.hang = True
        beating = self.beat(world)
        beating.cancel()
        self.failureResultOf(beating, CancelledError)
        world.connector.traversal.flush()
        self.assertEqual(world.server.disconnected, 1)
        self.assertEqual(world.clock.getDelayedCalls(), [])


class ClockTests(SynchronousTestCase):
    """The control plane's clock beside ours."""

    def world(self, ahead: float, *replies: Reply) -> World:
        date = format_datetime(NOON + timedelta(seconds=ahead), usegmt=True)
        for reply in replies:
            reply.headers["Date"] = date
        return World(*replies)

    def beat(self, world: World) -> Deferred[HeartbeatAnswer]:
        return Deferred.fromCoroutine(world.client.heartbeat(BEAT))

    def test_status(self) -> None:
        """The difference is on the board after any answer."""
        world = self.world(-12, Reply(200))
        self.successResultOf(self.beat(world))
        self.assertEqual(world.board.now.clock_skew, -12)

    def test_no_date(self) -> None:
        """Without a date, or with a damaged one, nothing is known."""
        for reply in (Reply(200), Reply(200, Date="yesterday")):
            world = World(reply)
            self.successResultOf(self.beat(world))
            self.assertIsNone(world.board.now.clock_skew)

    def test_said_once(self) -> None:
        """Over 30 s it is a warning, once; when it is over that is said too."""
        records = Records(self)
        world = self.world(95, Reply(200))
        self.successResultOf(self.beat(world))
        self.successResultOf(self.beat(world))
        (said,) = records.at("warn")
        self.assertIn("clock is 95 s behind the control plane's", said)
        world.server.replies = [Reply(200, Date=format_datetime(NOON, usegmt=True))]
        self.successResultOf(self.beat(world))
        self.assertEqual(len(records.at("info")), 1)

    def test_thirty_seconds(self) -> None:
        """Thirty seconds are not worth saying, one more is, in either direction."""
        for ahead, said in ((30, 0), (31, 1), (-30, 0), (-31, 1)):
            records = Records(self)
            self.successResultOf(self.beat(self.world(ahead, Reply(200))))
            self.assertEqual(len(records.at("warn")), said)

    def test_named_first_with_a_refused_token(self) -> None:
        """A refused token with a wrong clock: the clock comes first. At 30 s or less it is not the reason."""
        for ahead, words in ((95, "95 s behind"), (-95, "95 s ahead of")):
            world = self.world(ahead, Reply(401))
            error = self.failureResultOf(self.beat(world), ApiError).value
            self.assertTrue(
                error.sentence.startswith(f"this machine's clock is {words} the control plane's; ")
            )
        error = self.failureResultOf(self.beat(self.world(30, Reply(401))), ApiError).value
        self.assertTrue(error.sentence.startswith("heartbeat: "))
        error = self.failureResultOf(self.beat(self.world(95, Reply(404))), ApiError).value
        self.assertTrue(error.sentence.startswith("heartbeat: "))


class RetryAfterTests(SynchronousTestCase):
    """L{parse_retry_after} and L{parse_date}."""

    def test_forms(self) -> None:
        """Seconds or a date; clamped to 1 s - 10 min; anything else is none."""
        in_a_minute = format_datetime(NOON + timedelta(seconds=60), usegmt=True)
        for value, expected in (
            (None, None),
            ("7", 7.0),
            (" 7 ", 7.0),
            ("0", 1.0),
            ("9" * 30, 600.0),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("\u0667", None),
            (in_a_minute, 60.0),
            (format_datetime(NOON - timedelta(days=1), usegmt=True), 1.0),
            (format_datetime(NOON + timedelta(days=1), usegmt=True), 600.0),
        ):
            self.assertEqual(parse_retry_after(value, NOON), expected, value)

    def test_dates(self) -> None:
        """The three forms of RFC 9110; nonsense is none, not an exception."""
        for value in (
            "Wed, 04 Mar 2026 12:00:00 GMT",
            "Wednesday, 04-Mar-26 12:00:00 GMT",
            "Wed Mar  4 12:00:00 2026",
        ):
            self.assertEqual(parse_date(value), NOON)
        for value in (
            "",
            "x" * 1000,
            "Wed, 99 Mar 2026 12:00:00 GMT",
            "1",
            "Sat, 01 Jan 99999 00:00:00 GMT",
        ):
            self.assertIsNone(parse_date(value))


class FailingAgent:
    """Fails the first requests, then passes them on."""

    def __init__(self, agent: Any, *errors: Exception) -> None:
        self.agent = agent
        self.errors = list(errors)
        self.requests = 0

    def request(self, *arguments: Any) -> Deferred[Any]:
        self.requests += 1
        if self.errors:
            return fail(self.errors.pop(0))
        answer: Deferred[Any] = self.agent.request(*arguments)
        return answer


class NetworkTests(SynchronousTestCase):
    """What the network does to a call."""

    def world(self, *errors: Exception, **settings: Any) -> tuple[World, FailingAgent]:
        world = World(settings=PipeopsSettings(**{"api_url": API, **settings}))
        agent = FailingAgent(world.connector.traversal, *errors)

        class Source:
            def agent(self, tls: object = None, *, max_answer: int | None = None) -> Any:
                return agent

        world.client = ControlPlaneClient(
            world.clock, world.settings, world.tokens, Source(), world.board, world.wall
        )
        return world, agent

    def beat(self, world: World) -> Deferred[HeartbeatAnswer]:
        return Deferred.fromCoroutine(world.client.heartbeat(BEAT))

    def error(self, *errors: Exception, prepare: Callable[[World], None] = lambda world: None) -> ApiError:
        world, _ = self.world(*errors)
        prepare(world)
        error = self.failureResultOf(self.beat(world), ApiError).value
        assert isinstance(error, ApiError)
        return error

    def test_dropped_once(self) -> None:
        """A connection that was closed as it was used again: the call is made once more."""
        for lost in (ConnectionDone(), ConnectionLost()):
            world, agent = self.world(ResponseNeverReceived([Failure(lost)]))
            self.successResultOf(self.beat(world))
            self.assertEqual(agent.requests, 2)

    def test_dropped_twice(self) -> None:
        """Dropped again, it is an error that can be tried later."""
        error = self.error(*[ResponseNeverReceived([Failure(ConnectionLost())]) for _ in range(2)])
        self.assertIn("cp.test broke off the connection", error.sentence)
        self.assertTrue(error.retryable and error.lost)

    def test_dropped_in_answer(self) -> None:
        """An answer that breaks off is not asked for again: the call may have had its effect."""
        world, agent = self.world(ResponseFailed([Failure(ConnectionLost())]))
        error = self.failureResultOf(self.beat(world), ApiError).value
        self.assertTrue(error.retryable)
        self.assertEqual(agent.requests, 1)

    def test_no_connection(self) -> None:
        """What the connector says is said, with its remedy, and whether it can pass."""
        error = self.error(
            ConnectProblem("tcp", "cp.test:443 refuses connections", retryable=True, remedy="r")
        )
        self.assertEqual(error.sentence, "heartbeat: cp.test:443 refuses connections (r)")
        self.assertTrue(error.retryable)
        self.assertIsNone(error.status)

    def test_certificate_and_clock(self) -> None:
        """A refused certificate with a clock that is known to be wrong: the clock comes first."""

        def problem() -> ConnectProblem:
            problem = ConnectProblem("tls", "the certificate expired", retryable=False)
            problem.__cause__ = CertificateProblem(
                "expired", subject="s", issuer="i", not_before=NOON, not_after=NOON, detail="d"
            )
            return problem

        self.assertEqual(self.error(problem()).sentence, "heartbeat: the certificate expired")
        error = self.error(problem(), prepare=lambda world: world.board.set_clock_skew(-3600))
        self.assertTrue(error.sentence.startswith("this machine's clock is 3600 s ahead of"))
        self.assertFalse(error.retryable)

    def test_unusable_file(self) -> None:
        """A CA, certificate or key file that can't be used: the settings are named, no server was asked."""
        problem = ConnectProblem("tls", "CA file x: No such file or directory", retryable=False)
        problem.__cause__ = TLSFileProblem("CA file x: No such file or directory")
        error = self.error(problem)
        self.assertEqual(error.sentence, "heartbeat: CA file x: No such file or directory (pipeops.tls)")
        self.assertEqual((error.unusable_settings, error.retryable, error.lost), (True, False, False))

    def test_not_http(self) -> None:
        """A server that speaks something else is not quoted."""
        error = self.error(ResponseFailed([Failure(ParseError("wrong", b"220 hidden SMTP"))]))
        self.assertIn("is not HTTP", error.sentence)
        self.assertNotIn("hidden", error.sentence)
