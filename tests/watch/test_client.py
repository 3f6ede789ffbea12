"""Tests for L{pipeops_agent.watch}: with an agent that says what a script wants, over sockets."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from pipeops_agent.watch import client as client_module
from pipeops_agent.watch import following
from pipeops_agent.watch.client import AgentClient, Lost, Refused, WatchError
from pipeops_agent.watch.doing import Doing
from pipeops_agent.watch.options import parse
from pipeops_agent.web.api.examples import EXAMPLES
from tests.watch.scripted import TOKEN, Script, WatchCase, answer, events, socket_factory

ERROR = b'{"error": {"code": "x", "message": "not like that"}}'


class DoingCase(WatchCase):
    """Actions, as the command line names them."""

    def setUp(self) -> None:
        self.out: list[str] = []
        self.said: list[str] = []
        self.script = Script()
        self.patch(following, "RETRY", 0.1)

    async def do(self, *words: str, url: str | None = None) -> int:
        url = self.serve(self.script) if url is None else url
        doing = Doing(self.client(url), parse(words), self.out.append, self.said.append)
        return await doing.run()

    async def fails(self, *words: str, url: str | None = None) -> WatchError:
        """Why it can't be done."""
        try:
            await self.do(*words, url=url)
        except WatchError as error:
            return error
        raise self.failureException("it did not fail")


class StatusTests(DoingCase):
    """One answer."""

    async def test_well(self) -> None:
        """Lines for people, status 0; the token is shown to the agent."""
        self.script.then(answer(msgspec.json.encode(EXAMPLES["get_detailed_health"])))
        self.assertEqual(await self.do("status"), 0)
        self.assertIn("healthy", self.out[0])
        self.assertIn(f"Authorization: Bearer {TOKEN.reveal()}", self.script.asked[0])
        self.assertTrue(self.script.asked[0].startswith("GET /api/health/detailed HTTP/1.1"))

    async def test_not_well(self) -> None:
        """Status 1, and for programs the whole answer."""
        health = msgspec.structs.replace(EXAMPLES["get_detailed_health"], status="degraded")
        self.script.then(answer(msgspec.json.encode(health)))
        self.assertEqual(await self.do("--json", "status"), 1)
        self.assertEqual(json.loads(self.out[0])["status"], "degraded")

    async def test_refused(self) -> None:
        """The agent's own words; of something else a sentence."""
        self.script.then(answer(ERROR, 401)).then(answer(b"<html>", 502))
        url = self.serve(self.script)
        self.assertEqual(str(await self.fails("status", url=url)), "401: not like that")
        self.assertIn("502: what answers is no agent", str(await self.fails("status", url=url)))

    async def test_no_agent(self) -> None:
        """Nobody there, and somebody who speaks otherwise."""
        self.assertIn("refuses connections", str(await self.fails("status", url="http://127.0.0.1:1")))
        self.script.then(answer(b"hello")).then(b"SSH-2.0-x\r\n\r\n")
        url = self.serve(self.script)
        self.assertIn("does not answer as an agent", str(await self.fails("status", url=url)))
        self.assertIsInstance(await self.fails("status", url=url), Lost)

    async def test_silent(self) -> None:
        """An agent that never answers is given up."""
        self.patch(client_module, "PATIENCE", 0.1)
        self.script.then(b"", stays=True)
        self.assertIn("took longer than 0.1 s", str(await self.fails("status")))


class FollowTests(DoingCase):
    """Streams, and their cuts."""

    async def test_resumed(self) -> None:
        """After a cut it goes on behind the last event, after the time that the agent has named."""
        self.script.then(events("retry: 100\n\n", "id: ab-7\nevent: agent\ndata: 1\n\n", "data: lo"))
        self.script.then(events("id: ab-8\nevent: agent\ndata: 2\n\n")).then(answer(ERROR, 403))
        error = await self.fails("events", "agent", "health")
        self.assertEqual(str(error), "403: not like that")
        self.assertEqual(self.out, ["agent: 1", "agent: 2"])
        first, second, third = self.script.asked
        self.assertIn("GET /api/realtime/events?channels=agent%2Chealth HTTP/1.1", first)
        self.assertNotIn("last-event-id", first.lower())
        self.assertIn("last-event-id: ab-7", second.lower())
        self.assertIn("last-event-id: ab-8", third.lower())
        self.assertIn("asking again in 0.1 s", self.said[0])

    async def test_busy(self) -> None:
        """An agent that is busy is asked again when it says; one that is away, too."""
        self.patch(following, "LONGEST", 0.2)
        self.script.then(answer(ERROR, 503, Retry_After="2")).then(answer(ERROR, 429)).then(
            answer(ERROR, 404)
        )
        self.assertEqual(str(await self.fails("events")), "404: not like that")
        self.assertEqual(len(self.said), 2)
        self.assertIn("503: not like that; asking again in 0.2 s", self.said[0])

    async def test_dead(self) -> None:
        """A stream from which nothing comes any more is cut, and asked for again."""
        self.patch(client_module, "SILENCE", 0.1)
        self.script.then(events("data: 1\n\n"), stays=True).then(answer(ERROR, 400))
        await self.fails("events")
        self.assertIn("nothing has come for 0.1 s", self.said[0])

    async def test_endless_event(self) -> None:
        """What is no stream of events is given up."""
        self.script.then(events("data: " + "x" * (2 * 1024 * 1024)), stays=True)
        self.assertIn("an event of more than", str(await self.fails("events")))

    async def test_json(self) -> None:
        """A line for each event, which programs read."""
        self.script.then(events('id: ab-1\nevent: log\ndata: {"line": "\u001b[2J"}\n\n'))
        self.assertEqual(await self.do("--json", "logs", "--no-follow", "--tail", "5", "shop/web-0"), 0)
        self.assertEqual(
            json.loads(self.out[0]), {"event": "log", "id": "ab-1", "data": '{"line": "\x1b[2J"}'}
        )
        self.assertIn("/api/realtime/logs?namespace=shop&pod=web-0&tail=5&follow=false", self.script.asked[0])

    async def test_no_such_pod(self) -> None:
        """A pod without its namespace is asked for of nobody."""
        self.assertIn(
            "expected NAMESPACE/POD", str(await self.fails("logs", "web-0", url="http://127.0.0.1:1"))
        )


class MetricsTests(DoingCase):
    """Figures, again and again."""

    async def test_lines(self) -> None:
        """A line each time, until the agent does not answer."""
        figures = answer(msgspec.json.encode(EXAMPLES["get_runtime"]))
        self.script.then(figures).then(figures).then(answer(ERROR, 401))
        await self.fails("metrics", "--interval", "0.1")
        self.assertEqual(len(self.out), 2)
        self.assertIn("cpu 0.4 %", self.out[0])


class SendTests(DoingCase):
    """A command over the WebSocket."""

    def reply(self, *data: Any) -> Any:
        def replies(message: Any) -> list[Any]:
            return [
                each if each is None or isinstance(each, bytes) else {"id": message["id"], **each}
                for each in data
            ]

        return socket_factory(replies)

    async def test_success(self) -> None:
        """What it writes, line by line, and status 0; what is for others is left out."""
        factory = self.reply(
            {"type": "status", "data": {}, "id": "other"},
            {"type": "command_output", "data": {"output": "one\ntw"}},
            {"type": "command_output", "data": {"output": "o\x1b[2J\n"}},
            {"type": "command_response", "data": {"success": True, "output": "", "error": ""}},
        )
        url = self.serve(factory)
        self.assertEqual(await self.do("send", "restart", "deployment/web", "-n", "shop", url=url), 0)
        self.assertEqual(self.out, ["one", "two\\x1b[2J"])
        (asked,) = factory.asked
        self.assertEqual((asked["type"], asked["data"]["type"]), ("command", "restart"))
        self.assertEqual(factory.seen_headers["authorization"], f"Bearer {TOKEN.reveal()}")

    async def test_failure(self) -> None:
        """A command that fails: its error, and status 1."""
        factory = self.reply({"type": "command_response", "data": {"success": False, "error": "no such pod"}})
        self.assertEqual(await self.do("send", "delete", "pod/x", url=self.serve(factory)), 1)
        self.assertEqual(self.said, ["no such pod"])

    async def test_json(self) -> None:
        """Each message, for programs."""
        factory = self.reply({"type": "command_response", "data": {"success": True}})
        await self.do("--json", "send", "cordon", "node/n", url=self.serve(factory))
        self.assertEqual(json.loads(self.out[0]), {"type": "command_response", "data": {"success": True}})

    async def test_not_done(self) -> None:
        """Refused, cancelled, cut off, or answered with nonsense: each is said."""
        for reply, expected in (
            ({"type": "error", "data": {"code": "forbidden", "message": "not you"}}, "forbidden: not you"),
            ({"type": "cancelled", "data": {}}, "was cancelled"),
            (None, "how the command ended is not known"),
            (b"[]", "no agent"),
        ):
            error = await self.fails("send", "restart", url=self.serve(self.reply(reply)))
            self.assertIn(expected, str(error))

    async def test_no_websocket(self) -> None:
        """An agent that has no /ws, or does not let this caller in."""
        self.script.then(answer(ERROR, 403))
        self.assertIn("403", str(await self.fails("send", "restart")))
        self.assertIn("refuses connections", str(await self.fails("send", "x", url="http://127.0.0.1:1")))


class RefusedTests(WatchCase):
    """Errors as data."""

    def test_temporary(self) -> None:
        """Only where the agent may do it later."""
        self.assertEqual(
            [code for code in (400, 401, 403, 404, 429, 503) if Refused(code, "").temporary], [429, 503]
        )

    def test_token_is_not_shown(self) -> None:
        """Neither a client nor its target shows the token."""
        client: AgentClient = self.client("http://127.0.0.1:1")
        self.assertNotIn(TOKEN.reveal(), repr(client.target))
