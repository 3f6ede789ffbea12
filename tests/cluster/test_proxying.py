"""Tests of L{pipeops_agent.cluster.proxying}: what is sent on, for whom, and what comes back."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import NOT_DONE_YET, Request

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.discovery import Discovery, NotServed
from pipeops_agent.cluster.errors import BadAnswer, Unreachable
from pipeops_agent.cluster.proxying import (
    MAX_HEADER,
    MAX_HEADERS,
    Exchange,
    Proxy,
    ProxyRequest,
    ProxyResponse,
    Refused,
    SourceProducer,
)
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.scope import OutOfReach, Scope
from pipeops_agent.cluster.stream import Cut
from pipeops_agent.secrets import Secret
from tests.cluster.case import EVERYTHING, FakeApiCase
from tests.cluster.fakeapi import Fault, operating


class Chunks:
    """A body in chunks (L{BodySource<pipeops_agent.cluster.proxying.BodySource>})."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = [*chunks]
        self.asked = 0

    def read(self) -> Deferred[bytes]:
        """The next."""
        self.asked += 1
        return succeed(self.chunks.pop(0) if self.chunks else b"")


class ProxyCase(FakeApiCase):
    """With a L{Proxy} on a fake API server."""

    def setUp(self) -> None:
        super().setUp()
        self.served = operating.Discovery(self.server)
        self.discovery = Discovery(self.clock, self.api)
        self.caller = Caller(subject="a test", scopes=EVERYTHING, origin="test")
        self.own = Caller(
            subject="somebody",
            scopes=EVERYTHING,
            origin="test",
            kubernetes_token=Secret("theirs"),
        )
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []

    def page(self, path: str, body: bytes = b"{}", code: int = 200, **headers: str) -> None:
        """Let there be this answer."""

        def answer(request: Request) -> bytes:
            assert request.content is not None
            self.requests.append(request)
            self.bodies.append(request.content.read())
            request.setResponseCode(code)
            for name, value in headers.items():
                request.setHeader(name.replace("_", "-"), value)
            return body

        self.server.pages[path] = answer

    def send(
        self,
        path: str,
        *,
        scope: Scope | None = None,
        caller: Caller | None = None,
        source: Any = None,
        **request: Any,
    ) -> Any:
        """A request, to be awaited."""
        reach = Reach.of(
            scope or Scope(),
            namespace="pipeops-system",
            state_secret="pipeops-agent-state",
            lease="pipeops-agent",
        )
        proxy = Proxy(self.api, self.discovery, reach)
        return proxy.send(caller or self.caller, ProxyRequest(path=path, **request), source)

    def answered(self, path: str, **request: Any) -> ProxyResponse:
        """The whole answer."""
        exchange: Exchange = self.result(self.send(path, **request))
        return self.result(exchange.whole())


class SendTests(ProxyCase):
    """What goes out."""

    def test_method_query_headers_body(self) -> None:
        """All as given, with the agent's credential and name."""
        self.page("/api/v1/namespaces/shop/pods", b"made", 201)
        answer = self.answered(
            "/api/v1/namespaces/shop/pods",
            method="POST",
            query={"dryRun": "All", "x": ["1", "2 &"]},
            headers={"Content-Type": "application/yaml", "Accept": "text/x", "User-Agent": "mine"},
            body=b"some: body",
        )
        self.assertEqual((answer.status_code, answer.body), (201, b"made"))
        request = self.requests[0]
        self.assertEqual(self.bodies, [b"some: body"])
        self.assertEqual(request.args, {b"dryRun": [b"All"], b"x": [b"1", b"2 &"]})
        seen = {
            name: request.getHeader(name)
            for name in ("content-type", "accept", "user-agent", "authorization")
        }
        self.assertEqual(
            seen,
            {
                "content-type": "application/yaml",
                "accept": "text/x",
                "user-agent": "PipeOps-Agent/0",
                "authorization": "Bearer token",
            },
        )

    def test_own_token(self) -> None:
        """A caller with a token of its own is who asks; nothing of the agent's goes with it."""
        self.page("/api/v1/pods")
        self.answered("/api/v1/pods", caller=self.own)
        self.assertEqual(self.requests[0].getHeader("authorization"), "Bearer theirs")

    def test_chunks(self) -> None:
        """A body that comes in pieces is sent in pieces."""
        self.page("/api/v1/namespaces/shop/pods")
        source = Chunks(b"a" * 100_000, b"b", b"c" * 70_000)
        self.answered("/api/v1/namespaces/shop/pods", method="POST", source=source)
        self.assertEqual(self.bodies, [b"a" * 100_000 + b"b" + b"c" * 70_000])
        self.failure(self.send("/api/v1/pods", body=b"x", source=Chunks(b"y")), Refused)

    def test_headers_refused(self) -> None:
        """Those that say who asks, or that are between two neighbours; whatever way they are written."""
        for name in (
            "Authorization",
            "authorization",
            "Impersonate-User",
            "impersonate-group",
            "Impersonate-Extra-scopes",
            "X-Remote-User",
            "Cookie",
            "Host",
            "Connection",
            "Upgrade",
            "TE",
            "Trailer",
            "Transfer-Encoding",
            "Content-Length",
            "Keep-Alive",
            "Proxy-Authorization",
            "Proxy-Connection",
            "Sec-WebSocket-Key",
            "Expect",
            "a b",
            "a:b",
            "",
            "X\r\nAuthorization",
        ):
            self.failure(self.send("/api/v1/pods", headers={name: "x"}), Refused)
        for value in ("a\r\nAuthorization: b", "a\x00", "é", "x" * (MAX_HEADER + 1)):
            self.failure(self.send("/api/v1/pods", headers={"X-A": value}), Refused)
        many = {f"X-{number}": "" for number in range(MAX_HEADERS + 1)}
        self.failure(self.send("/api/v1/pods", headers=many), Refused)
        self.assertEqual(self.observed, [])

    def test_bad_paths(self) -> None:
        """Nothing is sent where the path is not understood."""
        for path in ("/api/v1/namespaces/x/pods/../../", "/api/v1/pods/", "//x", "", "/api/v1/watch/pods"):
            self.failure(self.send(path), Refused)
        self.assertEqual(self.observed, [])

    def test_unknown_resources(self) -> None:
        """Groups and kinds that the server does not have, and namespaces where there are none."""
        for path in ("/apis/unknown.example.com/v1/things", "/api/v1/things", "/apis/apps/v9/deployments"):
            self.failure(self.send(path), NotServed)
        for path in ("/api/v1/namespaces/shop/nodes", "/api/v1/namespaces/shop/namespaces"):
            self.failure(self.send(path), Refused)
        self.assertEqual(self.server.seen, [])

    def test_refused_token(self) -> None:
        """A 401 for the caller's own token is the answer."""
        self.server.users = {"token": "agent"}
        self.assertEqual(self.answered("/api/v1/pods", caller=self.own).status_code, 401)
        self.assertEqual([code for _, what, code in self.observed if what == "pods"], [401])

    def test_renewed_credential(self) -> None:
        """A 401 for the agent's credential is not: it is got anew, and the request made again."""
        self.server.users = {"token": "agent"}
        self.result(self.discovery.catalog())
        self.server.users = {"rotated": "agent"}

        def refresh() -> bool:
            self.tokens.replace(Secret("rotated"))
            return True

        self.patch(self.tokens, "refresh", refresh)
        self.assertEqual(self.answered("/api/v1/pods").status_code, 200)
        self.assertEqual([code for _, what, code in self.observed if what == "pods"], [401, 200])


class RightsTests(ProxyCase):
    """Never with more rights than the caller."""

    def test_into_containers(self) -> None:
        """What RBAC does not name is for callers whose rights it can see."""
        pod = "/api/v1/namespaces/shop/pods/web"
        for path, method in (
            (f"{pod}/proxy", "GET"),
            (f"{pod}/proxy/a/b", "GET"),
            (f"{pod}/exec", "GET"),
            (f"{pod}/exec", "POST"),
            (f"{pod}/attach", "GET"),
            (f"{pod}/portforward", "GET"),
            (f"{pod}/ephemeralcontainers", "PATCH"),
            ("/api/v1/namespaces/shop/services/web:80/proxy", "GET"),
            ("/api/v1/nodes/n1/proxy/run/x", "POST"),
            ("/api/v1/namespaces/shop/serviceaccounts/x/token", "POST"),
        ):
            error = self.failure(self.send(path, method=method), Refused)
            self.assertIn("a Kubernetes token of their own", error.sentence, path)
            self.page(path)
            self.assertEqual(self.answered(path, method=method, caller=self.own).status_code, 200)

    def test_other_paths(self) -> None:
        """Discovery, version and health are for all; metrics and logs are not."""
        for path in (
            "/version",
            "/healthz",
            "/readyz",
            "/api",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/openapi/v3/apis/apps/v1",
        ):
            self.page(path)
            self.assertEqual(self.answered(path).status_code, 200)
            self.failure(self.send(path, method="POST"), Refused)
        limited = Scope(namespaces=frozenset({"shop"}))
        for path in (
            "/metrics",
            "/logs/kube-apiserver.log",
            "/debug/pprof",
            "/",
            "/.well-known/openid-configuration",
            "/readyz/etcd",
        ):
            self.failure(self.send(path), Refused)
            self.page(path)
            self.assertEqual(self.answered(path, caller=self.own).status_code, 200)
            self.failure(self.send(path, caller=self.own, scope=limited), OutOfReach)

    def test_agents_own(self) -> None:
        """The agent's state and Lease are not for those who act with its rights."""
        secrets, leases = "/api/v1/namespaces/pipeops-system/secrets", "/apis/coordination.k8s.io/v1"
        for path, method in (
            (f"{secrets}/pipeops-agent-state", "GET"),
            (f"{secrets}/pipeops-agent-state", "DELETE"),
            (secrets, "GET"),
            (secrets, "DELETE"),
            ("/api/v1/secrets", "GET"),
            (f"{leases}/namespaces/pipeops-system/leases/pipeops-agent", "PATCH"),
        ):
            self.failure(self.send(path, method=method), OutOfReach)
        for path, method in (
            (f"{secrets}/other", "GET"),
            (secrets, "POST"),
            ("/api/v1/namespaces/shop/secrets", "GET"),
        ):
            self.page(path)
            self.assertEqual(self.answered(path, method=method).status_code, 200)
        self.page(f"{secrets}/pipeops-agent-state")
        self.assertEqual(self.answered(f"{secrets}/pipeops-agent-state", caller=self.own).status_code, 200)


class ScopeTests(ProxyCase):
    """The owner's rules, also for callers with a token of their own."""

    def refused(self, scope: Scope, *requests: tuple[str, str], query: dict[str, Any] | None = None) -> None:
        for caller in (self.caller, self.own):
            for method, path in requests:
                self.failure(
                    self.send(path, method=method, scope=scope, caller=caller, query=query or {}), OutOfReach
                )
        self.assertEqual(self.server.seen, [])

    def test_namespaces(self) -> None:
        """Only those that are named; nothing about all of them."""
        scope = Scope(namespaces=frozenset({"shop"}))
        self.refused(
            scope,
            ("GET", "/api/v1/namespaces/bank/pods"),
            ("GET", "/api/v1/namespaces/bank/pods/a"),
            ("GET", "/api/v1/namespaces/bank"),
            ("PUT", "/api/v1/namespaces/bank/finalize"),
            ("GET", "/api/v1/pods"),
            ("DELETE", "/api/v1/pods"),
            ("POST", "/api/v1/pods"),
            ("GET", "/api/v1/namespaces"),
            ("POST", "/api/v1/namespaces"),
            ("GET", "/apis/apps/v1/deployments"),
            ("PATCH", "/api/v1/nodes/n1"),
            ("PATCH", "/api/v1/namespaces/shop"),
            ("DELETE", "/api/v1/namespaces/shop"),
        )
        self.refused(
            scope, ("GET", "/api/v1/pods"), query={"watch": "1", "fieldSelector": "metadata.namespace=shop"}
        )
        for path in ("/api/v1/namespaces/shop/pods", "/api/v1/namespaces/shop", "/api/v1/nodes"):
            self.page(path)
            self.assertEqual(self.answered(path, scope=scope).status_code, 200)
        self.failure(self.send("/api/v1/nodes/n1/proxy/pods", scope=scope, caller=self.own), OutOfReach)

    def test_denied_namespace(self) -> None:
        """So where only some are denied."""
        self.refused(
            Scope(denied_namespaces=frozenset({"kube-system"})),
            ("GET", "/api/v1/namespaces/kube-system/secrets/x"),
            ("GET", "/api/v1/namespaces/%6bube-system/secrets/x"),
            ("GET", "/api/v1/secrets"),
            ("GET", "/api/v1/namespaces"),
        )

    def test_read_only(self) -> None:
        """Reading passes: objects, lists, watches, logs. What runs a program by GET is none."""
        scope = Scope(read_only=True)
        pod = "/api/v1/namespaces/shop/pods/a"
        self.refused(
            scope,
            ("POST", "/api/v1/namespaces/shop/pods"),
            ("PUT", pod),
            ("PATCH", pod),
            ("DELETE", pod),
            ("DELETE", "/api/v1/namespaces/shop/pods"),
        )
        for sub in ("exec", "attach", "portforward", "proxy"):
            self.failure(self.send(f"{pod}/{sub}", scope=scope, caller=self.own), OutOfReach)
        for path in (pod, f"{pod}/log", f"{pod}/status", "/api/v1/namespaces/shop/pods"):
            self.page(path)
            self.assertEqual(self.answered(path, scope=scope).status_code, 200)

    def test_denied_kinds(self) -> None:
        """By any of its names, and with whatever subresource."""
        for kind in ("secret", "secrets"):
            scope = Scope(denied_kinds=frozenset({kind}))
            self.refused(scope, ("GET", "/api/v1/namespaces/shop/secrets/x"), ("GET", "/api/v1/secrets"))
        scope = Scope(denied_kinds=frozenset({"pod"}))
        self.refused(scope, ("GET", "/api/v1/namespaces/shop/pods/x/log"))

    def test_denied_verbs(self) -> None:
        """Operations by their names, and the API's verbs."""
        pod, deploy = "/api/v1/namespaces/shop/pods/a", "/apis/apps/v1/namespaces/shop/deployments/web"
        for verb, method, path in (
            ("proxy", "GET", pod),
            ("logs", "GET", f"{pod}/log"),
            ("get", "GET", pod),
            ("get", "HEAD", pod),
            ("list", "GET", "/api/v1/pods"),
            ("delete", "DELETE", pod),
            ("delete", "DELETE", "/api/v1/namespaces/shop/pods"),
            ("delete", "POST", f"{pod}/eviction"),
            ("scale", "PATCH", f"{deploy}/scale"),
            ("update", "PUT", deploy),
            ("patch", "PATCH", deploy),
            ("create", "POST", "/api/v1/namespaces/shop/pods"),
        ):
            self.refused(Scope(denied_verbs=frozenset({verb})), (method, path))
        for verb, sub in (("exec", "exec"), ("exec", "ephemeralcontainers"), ("port-forward", "portforward")):
            scope = Scope(denied_verbs=frozenset({verb}))
            self.failure(self.send(f"{pod}/{sub}", scope=scope, caller=self.own), OutOfReach)

    def test_watch(self) -> None:
        """A watch is one however it is asked for; what the server takes for false is a list."""
        watch, listing = (Scope(denied_verbs=frozenset({verb})) for verb in ("watch", "list"))
        path = "/api/v1/namespaces/shop/pods"
        for value in ("true", "1", "", "yes", ["true", "false"]):
            self.refused(watch, ("GET", path), query={"watch": value})
        for value in ("false", "0", "False", ["false", "true"]):
            self.refused(listing, ("GET", path), query={"watch": value})

    def test_watch_of_one_object(self) -> None:
        """To the server it is a get, whatever the query says."""
        scope = Scope(denied_verbs=frozenset({"get"}))
        self.refused(scope, ("GET", "/api/v1/namespaces/shop/secrets/x"), query={"watch": "true"})

    def test_apply(self) -> None:
        """A server-side apply is one, and may make what is not there; another patch does not."""
        path = "/apis/apps/v1/namespaces/shop/deployments/web"
        for denied in ("apply", "deploy", "create", "patch"):
            scope = Scope(denied_verbs=frozenset({denied}))
            for name, value in (
                ("Content-Type", "application/apply-patch+yaml"),
                ("content-type", " Application/Apply-Patch+cbor;x=y"),
            ):
                sending = self.send(path, method="PATCH", headers={name: value}, scope=scope)
                self.failure(sending, OutOfReach)
        self.page(path)
        scope = Scope(denied_verbs=frozenset({"apply", "create"}))
        merge = {"Content-Type": "application/merge-patch+json"}
        self.assertEqual(self.answered(path, method="PATCH", headers=merge, scope=scope).status_code, 200)


class AnswerTests(ProxyCase):
    """What comes back."""

    def test_streamed(self) -> None:
        """The head first, then as it comes; the end is said."""
        open_requests: list[Request] = []

        def begin(request: Request) -> int:
            open_requests.append(request)
            request.write(b"one")
            return NOT_DONE_YET

        self.server.pages["/api/v1/namespaces/shop/pods/a/log"] = begin
        exchange = self.result(self.send("/api/v1/namespaces/shop/pods/a/log", stream=True))
        head = self.result(exchange.read())
        self.assertEqual((head.status_code, head.body, head.chunk, head.done), (200, b"", 0, False))
        first = self.result(exchange.read())
        self.assertEqual((first.status_code, first.headers, first.body, first.chunk), (None, None, b"one", 1))
        waiting = self.begin(exchange.read())
        self.assertNoResult(waiting)
        open_requests[0].write(b"two")
        self.flush()
        self.assertEqual(self.successResultOf(waiting).body, b"two")
        open_requests[0].finish()
        last = self.result(exchange.read())
        self.assertEqual((last.body, last.chunk, last.done), (b"", 3, True))

    def test_cut(self) -> None:
        """An answer that breaks off is not one that ends."""
        open_requests: list[Request] = []

        def begin(request: Request) -> int:
            open_requests.append(request)
            request.write(b"x")
            return NOT_DONE_YET

        self.server.pages["/version"] = begin
        exchange = self.result(self.send("/version"))
        whole = self.begin(exchange.whole())
        open_requests[0].loseConnection()
        self.flush()
        self.failureResultOf(whole, Cut)

    def test_headers(self) -> None:
        """Those between two neighbours are left out, and cookies; the rest is handed on."""
        self.page(
            "/version",
            Set_Cookie="a=b",
            Www_Authenticate="Basic",
            Trailer="x",
            Content_Encoding="gzip",
            Audit_Id="7",
        )
        headers = self.answered("/version").headers
        assert headers is not None
        self.assertEqual(headers["Audit-Id"], "7")
        self.assertEqual(headers["Content-Encoding"], "gzip")
        for name in (
            "Connection",
            "Set-Cookie",
            "Www-Authenticate",
            "Trailer",
            "X-Agent-Content-Encoding",
        ):
            self.assertNotIn(name.lower(), [each.lower() for each in headers])

    def test_redirect(self) -> None:
        """It is reported, never followed."""
        self.page("/api/v1/pods", code=307, Location="https://elsewhere/")
        answer = self.answered("/api/v1/pods")
        assert answer.headers is not None
        self.assertEqual((answer.status_code, answer.headers["Location"]), (307, "https://elsewhere/"))
        self.assertEqual(len(self.requests), 1)

    def test_failures_are_answers(self) -> None:
        """As the server gives them, and not asked for again."""
        for code in (404, 409, 429, 500, 503):
            self.requests.clear()
            self.page("/api/v1/pods", b"no", code)
            answer = self.answered("/api/v1/pods")
            self.assertEqual((answer.status_code, answer.body, len(self.requests)), (code, b"no", 1))

    def test_too_long(self) -> None:
        """In one message an answer is bounded; the rest is not read."""
        self.page("/version", b"x" * 1001)
        exchange = self.result(self.send("/version"))
        self.assertIn("longer than 1000", self.failure(exchange.whole(1000), BadAnswer).sentence)

    def test_silence(self) -> None:
        """No answer within the time."""
        self.server.pages["/version"] = lambda request: NOT_DONE_YET
        self.failure(self.send("/version", timeout=5), Unreachable, 6)

    def test_lost(self) -> None:
        """A lost connection is no answer, and is not tried again: nobody knows what has been done."""
        self.server.faults.append(Fault(code=0))
        self.failure(self.send("/api/v1/pods", method="DELETE"), Unreachable)
        self.assertEqual(len(self.server.seen), 1)

    def test_closed(self) -> None:
        """A watch that nobody reads any more is ended."""
        exchange = self.result(self.send("/api/v1/pods", query={"watch": "true"}, stream=True))
        self.assertEqual(len(self.server.watches), 1)
        exchange.close()
        self.flush()
        self.assertEqual(self.server.watches, [])


class MessageTests(SynchronousTestCase):
    """Requests and answers as they stand in JSON."""

    def test_request(self) -> None:
        """The specification's fields; a body in base64."""
        given = {
            "method": "PUT",
            "path": "/x",
            "query": {"a": ["b"]},
            "headers": {"A": "b"},
            "body": base64.b64encode(b"\x00\xff").decode(),
            "stream": True,
        }
        found = msgspec.convert(given, ProxyRequest)
        self.assertEqual((found.method, found.body, found.stream), ("PUT", b"\x00\xff", True))

    def test_bad(self) -> None:
        """Unknown fields, methods and types."""
        for change in (
            {"method": "CONNECT"},
            {"verb": "get"},
            {"body": "###"},
            {"query": [1]},
            {"timeout": 0},
        ):
            with self.assertRaises(msgspec.ValidationError):
                msgspec.convert({"path": "/x", **change}, ProxyRequest)

    def test_answer(self) -> None:
        """The specification's fields."""
        said = msgspec.to_builtins(ProxyResponse(status_code=200, headers={}, body=b"\x00"))
        self.assertEqual(said, {"status_code": 200, "headers": {}, "body": "AA==", "chunk": 0, "done": True})


class SourceTests(SynchronousTestCase):
    """A request's body, pulled."""

    def test_backpressure(self) -> None:
        """Nothing is asked for while the connection can't take it."""
        source, written = Chunks(b"a", b"b", b"c"), []

        class Consumer:
            def write(self, data: bytes) -> None:
                written.append(data)
                producer.pauseProducing()

        producer = SourceProducer(source)
        done = producer.startProducing(Consumer())  # type: ignore[arg-type]  # all that is used of one
        self.assertEqual((written, source.asked), ([b"a"], 1))
        producer.resumeProducing()
        self.assertEqual((written, source.asked), ([b"a", b"b"], 2))
        producer.resumeProducing()
        self.assertNoResult(done)
        producer.resumeProducing()
        self.assertEqual(written, [b"a", b"b", b"c"])
        self.successResultOf(done)

    def test_stopped(self) -> None:
        """A source that is being waited for is cancelled when nobody wants the rest."""
        cancelled: list[bool] = []

        class Slow:
            def read(self) -> Deferred[bytes]:
                return Deferred(lambda _: cancelled.append(True))

        producer = SourceProducer(Slow())
        producer.startProducing(None)  # type: ignore[arg-type]  # nothing is written
        producer.stopProducing()
        self.assertEqual(cancelled, [True])
