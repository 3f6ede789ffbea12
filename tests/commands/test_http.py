"""Tests of C{POST /api/commands}, and of pods' logs by C{GET /api/realtime/logs}."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.web.http import HTTPChannel

from pipeops_agent.commands.http import MAX_WAITING
from pipeops_agent.web.presence import REVIEW
from pipeops_agent.web.sse import KEEP_ALIVE, STUCK
from tests.commands.case import NOON, DeskCase, command_of
from tests.web.harness import TOKEN, Answer, Client, Limits
from tests.web.test_sse import Message, Stream


class HttpCase(DeskCase):
    """Who has no WebSocket."""

    limits = Limits(max_connections=20)

    def open(self, path: str, method: str = "GET", body: bytes = b"", token: str = TOKEN) -> Client:
        client = self.connect()
        head = f"{method} {path} HTTP/1.1\r\nHost: agent\r\nAuthorization: Bearer {token}\r\n"
        client.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self.flush()
        return client

    def stream(self, command: dict[str, Any]) -> Stream:
        """What comes of a command."""
        return Stream(self.open("/api/commands", "POST", json.dumps(command).encode()))

    def post(self, body: Any, *, token: str = TOKEN) -> Answer:
        """The answer to a command that is not begun."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        (answer,) = self.open("/api/commands", "POST", data, token).answers("POST")
        return answer

    def producer(self, stream: Stream) -> IPushProducer:
        """What a client that does not read pauses."""
        producer = stream.client.transport.producer
        assert isinstance(producer, HTTPChannel)
        return producer


class CommandTests(HttpCase):
    """C{POST /api/commands}."""

    made = False

    def test_messages(self) -> None:
        """The messages of the command are the answer, as the WebSocket has them, and then it ends."""
        self.deployment()
        stream = self.stream(command_of("scale", "deploy shop/web", replicas=2))
        progress, ended = stream.read()
        self.assertIn(b"200 OK", stream.head)
        self.assertIn(b"text/event-stream", stream.head)
        self.assertIn(b"no-store", stream.head)
        self.assertEqual((progress.event, progress.data["type"]), ("command_output", "command_output"))
        self.assertIn("scaled to 2", progress.data["data"]["output"])
        self.assertEqual((ended.event, ended.id), ("command_response", None))
        self.assertEqual(sorted(ended.data), ["data", "timestamp", "type"])
        self.assertTrue(ended.data["data"]["success"])
        self.assertTrue(stream.ended)
        self.assertEqual(self.audited[0]["verdict"], "done")

    def test_process(self) -> None:
        """A process runs, with input that is there from the start."""
        self.pod()
        stream = self.stream(command_of("exec", "pod shop/web", command=["cat"], input="hello"))
        self.assertEqual(self.process.got, [b"\0hello", b"\xff\0"])
        self.process.send(1, b"hello")
        self.process.exit(0)
        self.process.sendClose(1000)
        self.flush()
        output, ended = stream.read()
        self.assertEqual((output.data["data"]["output"], ended.data["data"]["exit_code"]), ("hello", 0))

    def test_no_input(self) -> None:
        """None can follow: what needs it is refused."""
        self.pod()
        for command in (
            command_of("shell", "pod shop/web"),
            command_of("exec", "pod shop/web", command=["cat"], stdin=True),
        ):
            (ended,) = self.stream(command).read()
            self.assertIn("no input can follow by this way", ended.data["data"]["error"])

    def test_refused(self) -> None:
        """What can't be begun has the fitting status, and the form of every error."""
        for body, token, code, name in (
            (b"{", TOKEN, 400, "bad_request"),
            (b"[" * 100_000, TOKEN, 400, "bad_request"),
            (b"\xff", TOKEN, 400, "bad_request"),
            ({"type": "scale", "x": 1}, TOKEN, 400, "bad_request"),
            ({"type": "fly"}, TOKEN, 400, "unknown_command"),
        ):
            answer = self.post(body, token=token)
            self.assertEqual((answer.code, answer.json["error"]["code"]), (code, name), body)
        self.assertEqual(self.ask("/api/commands", "POST", b"{}").code, 401)
        self.assertEqual(self.ask("/api/commands", Authorization=f"Bearer {TOKEN}").code, 405)
        self.let_in("read")
        answer = self.post(command_of("scale", "deploy shop/web", replicas=2))
        self.assertEqual((answer.code, answer.json["error"]["code"]), (403, "forbidden"))
        self.assertEqual([each["verdict"] for each in self.audited], ["refused"])

    def test_narrow(self) -> None:
        """Whoever may operate only needs no scope to read."""
        self.deployment()
        self.let_in("operate:scale:deployments:shop")
        *_, ended = self.stream(command_of("scale", "deploy shop/web", replicas=2)).read()
        self.assertTrue(ended.data["data"]["success"])

    def rollout(self) -> Stream:
        """One that takes its time."""
        if not self.made:
            self.deployment(status={"observedGeneration": 0})
            self.made = True
        return self.stream(command_of("rollout", "deploy shop/web"))

    def test_too_many(self) -> None:
        """So many at one time, of a client; then 429, and when to come again."""
        most = self.server.limits.client.commands
        for _ in range(most):
            self.rollout()
        answer = self.post(command_of("rollout", "deploy shop/web"))
        self.assertEqual((answer.code, answer.headers["Retry-After"]), (429, "1"))
        self.clients[0].transport.end()
        self.flush()
        self.assertEqual(self.entrance.limits.held("commands"), most - 1)

    def test_client_goes(self) -> None:
        """Who closes the connection has cancelled."""
        stream = self.rollout()
        stream.client.transport.end()
        self.assertEqual(self.audited[0]["verdict"], "cancelled")

    def test_keep_alive(self) -> None:
        """A comment tells those between that it goes on."""
        stream = self.rollout()
        stream.read()
        self.advance(KEEP_ALIVE + 1, step=1)
        self.assertIn(b":\n\n", stream.client.transport.value())

    def test_stop(self) -> None:
        """At a stop what runs is cancelled, says so, and ends whole; no more is begun."""
        stream = self.rollout()
        stream.read()
        self.successResultOf(self.commands.stop())
        (message,) = stream.read()
        self.assertEqual(
            (message.event, message.data["type"], stream.ended), ("cancelled", "cancelled", True)
        )
        self.assertEqual(self.post(command_of("rollout", "deploy shop/web")).code, 503)

    def test_does_not_read(self) -> None:
        """A client that reads nothing is cut after a while."""
        stream = self.rollout()
        self.producer(stream).pauseProducing()
        self.advance(KEEP_ALIVE * (STUCK + 1), step=5)
        self.assertTrue(stream.client.lost)
        self.assertEqual(self.audited[0]["verdict"], "cancelled")

    def test_waits(self) -> None:
        """What is said to a client that does not read waits, up to a limit; beyond it the client is cut."""
        stream = self.rollout()
        self.producer(stream).pauseProducing()
        (asker,) = self.commands._askers
        piece = {"output": "x" * 10_000}
        for _ in range(MAX_WAITING // 10_000 - 2):
            asker.reply("command_output", piece)
        self.assertFalse(stream.client.lost)
        for _ in range(3):
            asker.reply("command_output", piece)
        self.assertTrue(stream.client.lost)
        self.assertEqual(self.audited[0]["verdict"], "cancelled")


class LogTests(HttpCase):
    """C{GET /api/realtime/logs}, of a pod."""

    def setUp(self) -> None:
        super().setUp()
        self.pod()
        for number, text in enumerate(("one", "two")):
            self.kubelet.write(("web", "main"), text.encode(), NOON + number)

    def pod_log(self, query: str = "namespace=shop&pod=web", seconds: float = 3) -> Stream:
        stream = Stream(self.open(f"/api/realtime/logs?{query}"))
        self.advance(seconds)
        return stream

    def lines(self, messages: list[Message]) -> list[str]:
        return [line["line"] for each in messages for line in each.data.get("lines", ())]

    def test_follow(self) -> None:
        """All lines, then new ones as they come; each event is what C{log} has on the WebSocket."""
        stream = self.pod_log()
        first = stream.read()
        self.assertEqual((first[0].event, self.lines(first)), ("log", ["one", "two"]))
        self.kubelet.write(("web", "main"), b"three", NOON + 2)
        self.flush()
        self.assertEqual(self.lines(stream.read()), ["three"])
        stream.client.transport.end()
        self.flush()
        self.assertEqual(self.kubelet.following, [])

    def test_whole(self) -> None:
        """What there is, how it ended, and the end."""
        stream = self.pod_log("namespace=shop&pod=web&follow=false&tail=1")
        messages = stream.read()
        self.assertEqual(self.lines(messages), ["two"])
        self.assertEqual((messages[-1].event, messages[-1].data["reason"]), ("log_end", "complete"))
        self.assertTrue(stream.ended)

    def test_refused(self) -> None:
        """What makes no sense, and who may not, has the fitting status; what the API refuses is an event."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for query in (
            "pod=web",
            "namespace=shop",
            "namespace=shop&pod=web&tail=x",
            "namespace=shop&pod=..%2Fa",
        ):
            self.assertEqual(self.request(f"/api/realtime/logs?{query}", headers).code, 400, query)
        (error,) = self.pod_log("namespace=shop&pod=nope").read()
        self.assertEqual((error.event, error.data["code"]), ("error", "not_found"))
        self.assertEqual(self.ask("/api/realtime/logs?namespace=shop&pod=web").code, 401)
        self.let_in("operate")
        self.assertEqual(self.request("/api/realtime/logs?namespace=shop&pod=web", headers).code, 403)

    def test_narrow(self) -> None:
        """A narrowed scope is enough for what it names, and for no more."""
        self.let_in("read:logs:pods:shop")
        self.assertEqual(self.lines(self.pod_log().read()), ["one", "two"])
        (error,) = self.pod_log("namespace=bank&pod=web").read()
        self.assertEqual((error.event, error.data["code"]), ("error", "forbidden"))

    def test_comes_again(self) -> None:
        """C{Last-Event-ID} resumes: no line twice, and none lost."""
        stream = self.pod_log()
        last = stream.read()[-1].id
        stream.client.transport.end()
        self.kubelet.write(("web", "main"), b"three", NOON + 1)
        client = self.connect()
        head = "GET /api/realtime/logs?namespace=shop&pod=web HTTP/1.1\r\nHost: agent\r\n"
        client.send(f"{head}Authorization: Bearer {TOKEN}\r\nLast-Event-ID: {last}\r\n\r\n".encode())
        self.advance(3)
        self.assertEqual(self.lines(Stream(client).read()), ["three"])

    def test_backpressure(self) -> None:
        """A client that does not read is waited for, and loses nothing."""
        stream = self.pod_log()
        seen = self.lines(stream.read())
        producer = self.producer(stream)
        producer.pauseProducing()
        for number in range(500):
            self.kubelet.write(("web", "main"), b"%d" % number + b"x" * 1000, NOON + 2)
            self.flush()
        self.assertLess(len(stream.client.transport.value()), 5000)
        producer.resumeProducing()
        self.flush()
        seen += self.lines(stream.read())
        self.assertEqual(len(seen), 502)

    def test_head(self) -> None:
        """HEAD has the header of a stream, and takes no place."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = self.request("/api/realtime/logs?namespace=shop&pod=web", headers, method="HEAD")
        self.assertEqual(answer.code, 200)
        self.assertEqual((self.entrance.limits.held("log_streams"), len(self.presences)), (0, 0))

    def test_taken_away(self) -> None:
        """A stream whose caller may less than before ends."""
        self.let_in("read", "operate")
        stream = self.pod_log()
        stream.read()
        self.let_in("read:logs:pods:bank")
        self.advance(REVIEW + 1, step=1)
        (message,) = [each for each in stream.read() if each.event != "log"]
        self.assertEqual((message.event, stream.ended), ("cancelled", True))
        self.assertEqual(self.kubelet.following, [])
