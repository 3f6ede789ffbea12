"""Tests of proxied requests as messages of the WebSocket, with the fake API server."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Any

from twisted.web.server import NOT_DONE_YET, Request

from pipeops_agent.cluster.scope import Scope
from pipeops_agent.commands import proxied
from tests.commands.case import DeskCase

PODS = "/api/v1/namespaces/shop/pods"


class ProxyCase(DeskCase):
    """A client that sends requests."""

    def setUp(self) -> None:
        super().setUp()
        self.pod()
        self.client = self.peer()
        self.requests: list[Request] = []

    def page(self, path: str, body: bytes = b"{}", code: int = 200, **headers: str) -> None:
        """Let there be this answer."""

        def answer(request: Request) -> bytes:
            assert request.content is not None
            self.requests.append(request)
            self.bodies = request.content.read()
            request.setResponseCode(code)
            for name, value in headers.items():
                request.setHeader(name.replace("_", "-"), value)
            return body

        self.kube.pages[path] = answer

    def ask_api(self, path: str = PODS, **fields: Any) -> list[dict[str, Any]]:
        """The parts of an answer."""
        self.say_to(self.client, "proxy", {"path": path, **fields})
        messages = self.client.take()
        self.assertEqual({each["type"] for each in messages}, {"proxy_response"}, messages)
        self.assertEqual({each["id"] for each in messages}, {"1"})
        return [each["data"] for each in messages]


class ProxyTests(ProxyCase):
    """What is sent on, and what comes back."""

    def test_whole(self) -> None:
        """An answer in one message: status, headers, body."""
        (answer,) = self.ask_api()
        self.assertEqual((answer["status_code"], answer["chunk"], answer["done"]), (200, 0, True))
        self.assertIn("application/json", answer["headers"].values())
        body = json.loads(b64decode(answer["body"]))
        self.assertEqual([each["metadata"]["name"] for each in body["items"]], ["web"])
        (record,) = self.audited
        self.assertEqual((record["action"], record["target"], record["verdict"]), ("proxy GET", PODS, "done"))
        self.assertEqual(record["bytes_out"], len(b64decode(answer["body"])))

    def test_query(self) -> None:
        """In parts, or as it stands in a URL."""
        self.page(PODS)
        for query in ({"l": "a=b", "x": ["1", "2"]}, "l=a%3Db&x=1&x=2", "?l=a=b&x=1&x=2"):
            self.ask_api(query=query)
            self.assertEqual(self.requests[-1].args, {b"l": [b"a=b"], b"x": [b"1", b"2"]}, query)

    def test_body(self) -> None:
        """A body goes out as it is."""
        self.page(PODS, code=201)
        sent = b'{"kind": "Pod"}'
        (answer,) = self.ask_api(
            method="POST", body=b64encode(sent).decode(), headers={"Content-Type": "application/json"}
        )
        self.assertEqual((answer["status_code"], self.bodies), (201, sent))
        self.assertEqual(self.audited[0]["bytes_in"], len(sent))

    def test_refused_by_the_api(self) -> None:
        """The API's no is an answer, and a refusal in the books."""
        self.kube.allowed = lambda asked: asked.verb != "list"
        (answer,) = self.ask_api()
        self.assertEqual(answer["status_code"], 403)
        self.assertEqual(
            (self.audited[0]["verdict"], self.audited[0]["reason"]),
            ("refused", "the API server has answered 403"),
        )
        (answer,) = self.ask_api(f"{PODS}/nope")
        self.assertEqual((answer["status_code"], self.audited[1]["verdict"]), (404, "failed"))

    def test_stream(self) -> None:
        """An answer in parts: the first with status and headers, the last C{done}."""
        self.page(f"{PODS}/web/log", b"x" * 300_000)
        first, *parts, last = self.ask_api(f"{PODS}/web/log", stream=True)
        self.assertEqual((first["status_code"], first["body"], first["done"]), (200, "", False))
        self.assertNotIn("status_code", last)
        self.assertEqual((last["body"], last["done"]), ("", True))
        self.assertEqual(b"".join(b64decode(each["body"]) for each in parts), b"x" * 300_000)
        self.assertEqual([each["chunk"] for each in (first, *parts, last)], list(range(len(parts) + 2)))

    def test_too_long(self) -> None:
        """One that is too long for a message is to be streamed."""
        self.page(PODS, b"x" * (proxied.MAX_WHOLE + 1))
        code, message = self.refusal(self.client, "proxy", {"path": PODS})
        self.assertEqual(code, "failed")
        self.assertIn("ask for it as a stream", message)

    def watch(self) -> Request:
        """A stream that goes on."""
        opened: list[Request] = []

        def answer(request: Request) -> int:
            opened.append(request)
            request.write(b"first")
            return NOT_DONE_YET

        self.kube.pages[PODS] = answer
        self.say_to(self.client, "proxy", {"path": PODS, "query": "watch=1", "stream": True})
        (request,) = opened
        return request

    def test_follows(self) -> None:
        """What comes later is sent when it comes."""
        request = self.watch()
        parts = self.client.take()
        self.assertEqual([b64decode(each["data"]["body"]) for each in parts], [b"", b"first"])
        request.write(b"second")
        self.flush()
        self.assertEqual(b64decode(self.client.one()["data"]["body"]), b"second")
        request.finish()
        self.flush()
        self.assertTrue(self.client.one()["data"]["done"])

    def test_cancel(self) -> None:
        """A cancelled one says so, and nothing more is read."""
        request = self.watch()
        gone: list[object] = []
        request.notifyFinish().addBoth(gone.append)
        self.client.take()
        self.say_to(self.client, "cancel", {"id": "1"}, "2")
        self.assertEqual(self.client.one()["type"], "cancelled")
        self.assertEqual(len(gone), 1)
        self.assertEqual(self.audited[0]["verdict"], "cancelled")

    def test_cut(self) -> None:
        """An answer that breaks off is an error, not an end."""
        request = self.watch()
        self.client.take()
        request.loseConnection()
        self.flush()
        message = self.client.one()
        self.assertEqual((message["type"], message["data"]["code"]), ("error", "cut"))

    def test_upload(self) -> None:
        """A body in messages; what follows it is an error."""
        self.page(PODS, code=201)
        self.say_to(
            self.client,
            "proxy",
            {"path": PODS, "method": "POST", "upload": True, "headers": {"Content-Type": "application/json"}},
        )
        self.assertEqual(self.client.take(), [])
        for text in (b'{"kind": ', b'"Pod"}'):
            self.say_to(self.client, "input", {"data": b64encode(text).decode()})
        self.assertEqual(self.refusal(self.client, "input", {"data": "???"})[0], "bad_data")
        self.assertEqual(self.refusal(self.client, "resize", {"cols": 1, "rows": 1})[0], "not_possible")
        self.say_to(self.client, "input", {"eof": True})
        (answer,) = self.client.take()
        self.assertEqual((answer["data"]["status_code"], self.bodies), (201, b'{"kind": "Pod"}'))
        self.assertEqual(self.audited[0]["bytes_in"], len(self.bodies))


class RefusalTests(ProxyCase):
    """What is not sent on."""

    def test_bad_requests(self) -> None:
        """Each with its sentence."""
        for fields, code, words in (
            ({}, "bad_data", "path"),
            ({"path": PODS, "method": "TRACE"}, "bad_data", "TRACE"),
            ({"path": PODS, "body": "no base64"}, "bad_data", "body"),
            ({"path": PODS, "url": "x"}, "bad_data", "url"),
            ({"path": PODS, "timeout": -1}, "bad_data", "timeout"),
            ({"path": "api/v1/pods"}, "bad_request", "begin with a slash"),
            ({"path": "/api/v1/../pods"}, "bad_request", ""),
            ({"path": PODS, "headers": {"Authorization": "Bearer x"}}, "bad_request", "Authorization"),
            ({"path": PODS, "headers": {"Impersonate-User": "x"}}, "bad_request", "Impersonate-User"),
            ({"path": PODS, "headers": {"Cookie": "x"}}, "bad_request", "Cookie"),
            ({"path": PODS, "headers": {"Upgrade": "x"}}, "bad_request", "Upgrade"),
            ({"path": "/api/v1/unicorns"}, "bad_request", "unicorns"),
            ({"path": PODS, "method": "POST", "body": "", "upload": True}, "bad_request", "one of them"),
        ):
            found, message = self.refusal(self.client, "proxy", fields)
            self.assertEqual(found, code, (fields, message))
            self.assertIn(words, message)

    def test_own_token_only(self) -> None:
        """What gets into pods is for callers with a Kubernetes token of their own."""
        for what in ("exec", "attach", "portforward", "proxy"):
            code, message = self.refusal(self.client, "proxy", {"path": f"{PODS}/web/{what}"})
            self.assertEqual((code, "Kubernetes token" in message), ("forbidden", True), what)
        self.assertEqual({each["verdict"] for each in self.audited}, {"refused"})

    def test_scopes(self) -> None:
        """C{operate}, for GET too, and narrowed as it is; the owner before that."""
        self.let_in("read")
        self.client = self.peer()
        self.assertEqual(self.refusal(self.client, "proxy", {"path": PODS})[0], "forbidden")
        self.let_in("read", "operate:proxy:pods:bank")
        self.client = self.peer()
        code, message = self.refusal(self.client, "proxy", {"path": PODS})
        self.assertEqual((code, "operate:proxy:pods:shop" in message), ("forbidden", True))
        self.assertEqual(self.refusal(self.client, "proxy", {"path": "/api/v1/nodes"})[0], "forbidden")
        self.ask_api(PODS.replace("shop", "bank"))
        self.ask_api("/api")
        self.cluster.scope = Scope(read_only=True)
        delete = {"path": f"{PODS.replace('shop', 'bank')}/a", "method": "DELETE"}
        self.assertEqual(self.refusal(self.client, "proxy", delete)[0], "out_of_reach")
        self.assertEqual(
            [each["verdict"] for each in self.audited], [*["refused"] * 3, "done", "done", "refused"]
        )
