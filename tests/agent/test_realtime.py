"""Real time in the whole agent, through real sockets, by clients of another making."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from pipeops_agent.cluster import reviews as cluster_reviews
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_server import ServerTLSSettings
from pipeops_agent.web import presence
from tests.agent.cluster_house import ClusterHouse, pod
from tests.agent.house import REACTOR, TOKEN, House, look_until
from tests.cluster.fakeapi import operating
from tests.peers import ws_client
from tests.peers.processes import Event, Program, real_reactor

ANNA = Secret("eyJhbGciOi.eyJpc3MiOiJh.c2lnbmF0dXJl")
AUTHORIZATION = f"Bearer {TOKEN.reveal()}"


def sse_lines(line: str) -> Event | None:
    """A line of an event stream."""
    name, colon, value = line.partition(": ")
    return {"event": name, "value": value} if colon and name in ("id", "event", "data", "retry") else None


class RealtimeCase(House):
    """An agent with clients in processes of their own."""

    def setUp(self) -> None:
        super().setUp()
        self.start_sandbox()

    def address(self, path: str, scheme: str = "http", port: int | None = None) -> str:
        return f"{scheme}://127.0.0.1:{port or self.agent.settings.server.port}{path}"

    def websocket(self, headers: dict[str, str] | None = None, *, port: int | None = None) -> Program:
        script = str(Path(ws_client.__file__).resolve())
        scheme = "wss" if self.agent.settings.server.tls.mode != "off" else "ws"
        client = Program.start(real_reactor(), [sys.executable, script, self.address("/ws", scheme, port)])
        self.addCleanup(client.stop)
        client.order("open", headers={"Authorization": AUTHORIZATION, **(headers or {})})
        return client

    def curl(self, path: str, *options: str, port: int | None = None) -> Program:
        curl = shutil.which("curl")
        assert curl is not None
        header = self.directory / "header"
        header.write_text(f"Authorization: {AUTHORIZATION}\n")
        scheme = "https" if self.agent.settings.server.tls.mode != "off" else "http"
        address = self.address(path, scheme, port)
        arguments = [curl, "-sSNk", "-H", f"@{header}", *options, address]
        client = Program.start(real_reactor(), arguments, sse_lines, "TERM")
        self.addCleanup(client.stop)
        return client

    def data(self, client: Program) -> list[dict[str, Any]]:
        return [json.loads(each["value"]) for each in client.seen("data")]

    async def ask(self, client: Program, kind: str, answer: str, **fields: Any) -> dict[str, Any]:
        """The answer to a message."""
        client.order("send", message={"type": kind, **fields})
        event = await client.wait_for("message", type=answer)
        message: dict[str, Any] = event["message"]
        return message


class WebSocketTests(RealtimeCase):
    """C{/ws}."""

    async def test_life(self) -> None:
        """State, answers, events of the real hub, log records, and a goodbye; compressed as agreed."""
        self.start_agent()
        await self.until_connected()
        client = self.websocket()
        opened = await client.wait_for("open")
        self.assertIn("PerMessageDeflate", str(opened["extensions"]))
        state = (await client.wait_for("message", type="status"))["message"]["data"]
        self.assertEqual((state["agent_id"], state["status"]), (self.agent.board.now.agent_id, "running"))
        self.assertTrue(state["features"]["websocket"]["available"])
        await self.ask(client, "ping", "pong")
        status = await self.ask(client, "get_status", "status_response", id="s")
        self.assertEqual((status["id"], status["data"]["tunnel"]["state"]), ("s", "connected"))
        metrics = await self.ask(client, "get_metrics", "metrics_response")
        self.assertEqual(metrics["data"]["connections"], {"websocket": 1, "sse": 0})
        await self.ask(client, "subscribe", "subscribed", data={"channels": ["health"]})
        event = (await client.wait_for("message", type="event"))["message"]["data"]
        self.assertEqual((event["channel"], event["event"]), ("health", "heartbeat"))
        client.order("send", message={"type": "logs", "id": "l", "data": {"tail": 1000}})
        log = (await client.wait_for("message", type="log"))["message"]
        self.assertEqual((log["id"], log["timestamp"]), ("l", log["data"]["time"]))
        client.order("send", message={"type": "cancel", "data": {"id": "l"}})
        await client.wait_for("message", type="cancelled")
        _, text = await self.get("/metrics")
        self.assertIn("\npipeops_websocket_connections 1.0\n", text)
        client.order("close")
        self.assertEqual((await client.wait_for("closed"))["code"], 1000)

    async def test_through_the_tunnel(self) -> None:
        """The same through the control plane's side of the tunnel, where it is told goodbye at a stop."""
        self.start_agent()
        await self.until_connected()
        client = self.websocket(port=self.known.ports["agent-http"])
        await client.wait_for("message", type="status")
        await self.ask(client, "subscribe", "subscribed", data={"channels": ["agent"]})
        await self.agent.stopService()
        self.assertEqual((await client.wait_for("closed"))["code"], 1001)

    async def test_refused(self) -> None:
        """Without a token 401, from another site's page 403, beyond the limit 503."""
        self.start_agent(self.settings(realtime={"max_connections": 1}))
        cases: list[tuple[dict[str, str], int]] = [
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Origin": "http://evil.example"}, 403),
        ]
        for headers, status in cases:
            client = self.websocket(headers)
            self.assertEqual((await client.wait_for("refused"))["status"], status)
        await self.websocket().wait_for("open")
        self.assertEqual((await self.websocket().wait_for("refused"))["status"], 503)

    async def test_switched_off(self) -> None:
        """What is switched off is not there."""
        self.start_agent(self.settings(server={"enable_websocket": False, "enable_sse": False}))
        self.assertEqual((await self.websocket().wait_for("refused"))["status"], 404)
        for path in ("/api/realtime/events", "/api/realtime/logs"):
            self.assertEqual((await self.get(path, token=TOKEN))[0], 404)


class TLSTests(RealtimeCase):
    """Both over TLS, with a certificate of the agent's own."""

    async def test_both(self) -> None:
        """Messages, large ones too, events, and a goodbye."""
        self.start_agent(self.settings(server={"tls": ServerTLSSettings(mode="auto")}))
        socket, stream = self.websocket(), self.curl("/api/realtime/events?channels=health")
        await socket.wait_for("message", type="status")
        await self.ask(socket, "get_status", "status_response", id="x" * 100)
        await self.ask(socket, "subscribe", "subscribed", data={"channels": ["health"]})
        await socket.wait_for("message", type="event", count=3)
        await stream.wait_for("event", value="health", count=3)
        await self.agent.stopService()
        self.assertEqual((await socket.wait_for("closed"))["code"], 1001)
        self.assertEqual(await stream.ended(), 0, stream.output)


class SightTests(RealtimeCase, ClusterHouse):
    """A caller with a token of the cluster's own."""

    async def test_own_rights(self) -> None:
        """Gets the changes of what it may list in the cluster, and is let go when it is nobody any more."""
        self.patch(presence, "REVIEW", 0.2)
        self.patch(cluster_reviews, "LIFETIME", 0.5)
        self.start_api()
        reviews = operating.Reviews(self.api)
        reviews.users[ANNA.reveal()] = {"username": "anna"}
        reviews.cluster = {"list pods", "watch pods"}
        reviews.user_rights = {("anna", "get deployments"), ("anna", "list pods in shop")}
        self.start_agent(self.with_kubeconfig())
        await self.until_connected()
        await self.until_watched()
        header = {"Authorization": f"Bearer {ANNA.reveal()}"}
        socket = self.websocket(header)
        await self.ask(socket, "subscribe", "subscribed", data={"channels": ["cluster"]})
        storage = self.api.storage
        storage.create("pods", "shop", pod("c"))
        # It had not been asked yet whether they are seen there.
        await socket.wait_for("message", type="dropped")
        storage.create("pods", "web", pod("hidden"))
        storage.create("pods", "shop", pod("d"))
        await look_until(lambda: "pods shop/d" in self.changed(socket), "the change")
        self.assertEqual(self.changed(socket), ["pods shop/d"])
        reviews.users.clear()
        await socket.wait_for("closed", code=1008)

    def changed(self, client: Program) -> list[str]:
        """Kind and key of every change that has come."""
        events = [each["message"]["data"] for each in client.seen("message", type="event")]
        return [
            f"{change['kind']} {change['key']}"
            for event in events
            if event["event"] == "changes"
            for change in event["data"]["changes"]
        ]


class StreamTests(RealtimeCase):
    """C{/api/realtime/*}, with C{curl -N}."""

    async def test_events(self) -> None:
        """The state, then events as they happen."""
        self.start_agent()
        client = self.curl("/api/realtime/events?channels=health,agent")
        self.assertEqual((await client.wait_for("retry"))["value"], "3000")
        await client.wait_for("event", value="status")
        await client.wait_for("event", value="health", count=3)
        events = self.data(client)[1:]
        numbers = [event["seq"] for event in events]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertEqual({event["channel"] for event in events} - {"health", "agent"}, set())

    async def test_resume(self) -> None:
        """Who was cut and comes again has every event once."""
        self.start_agent()
        client = self.curl("/api/realtime/events")
        await client.wait_for("event", value="health", count=5)
        client.signal("KILL")
        await client.ended()
        before = self.data(client)[1:]
        last = client.seen("id")[len(before)]["value"]
        await self.heartbeats(3)
        client = self.curl("/api/realtime/events", "-H", f"Last-Event-ID: {last}")
        await client.wait_for("event", value="health", count=5)
        self.assertEqual(client.seen("event", value="gap"), [])
        first = int(last.partition("-")[2]) + 1
        numbers = [event["seq"] for event in self.data(client)]
        # Without audit's, of which there is none: the numbers follow one another.
        self.assertEqual(numbers, list(range(first, first + len(numbers))))

    async def test_logs(self) -> None:
        """The agent's own records, without the token that is in every request."""
        self.start_agent()
        client = self.curl("/api/realtime/logs?tail=1000")
        await client.wait_for("data", count=5)
        self.assertEqual({each["value"] for each in client.seen("event")}, {"log"})
        self.assertTrue(
            all({"time", "level", "msg", "component"} <= each.keys() for each in self.data(client))
        )
        self.assertNotIn(TOKEN.reveal(), str(client.events))

    async def test_logs_end(self) -> None:
        """C{follow=false} ends, as a whole answer."""
        self.start_agent()
        client = self.curl("/api/realtime/logs?tail=10&follow=false")
        self.assertEqual(await client.ended(), 0)


class StopTests(RealtimeCase):
    """The end."""

    async def test_under_load(self) -> None:
        """Every WebSocket gets 1001, what runs is cancelled and says so, streams end whole; within 5 s."""
        self.start_agent()
        await self.until_connected()
        sockets = [self.websocket() for _ in range(3)]
        streams = [self.curl("/api/realtime/events"), self.curl("/api/realtime/logs?tail=1")]
        for client in sockets:
            await self.ask(
                client, "subscribe", "subscribed", data={"channels": ["health", "agent", "tunnel"]}
            )
            client.order("send", message={"type": "logs", "id": "l", "data": {"tail": 10}})
            await client.wait_for("message", type="log")
        for client in streams:
            await client.wait_for("id")
        began = REACTOR.seconds()
        await self.agent.stopService()
        self.assertLess(REACTOR.seconds() - began, 5.0)
        for client in sockets:
            self.assertEqual((await client.wait_for("closed"))["code"], 1001)
            self.assertEqual(client.seen("message", type="cancelled")[0]["message"]["id"], "l")
        for client in streams:
            self.assertEqual(await client.ended(), 0, client.output)
        self.assertNotIn("going on without it", self.logged())

    async def test_stuck(self) -> None:
        """A client that reads nothing holds nothing up."""
        self.start_agent()
        await self.until_connected()
        client = self.websocket()
        await self.ask(client, "subscribe", "subscribed", data={"channels": ["health"]})
        os.kill(client.pid, signal.SIGSTOP)
        began = REACTOR.seconds()
        await self.agent.stopService()
        self.assertLess(REACTOR.seconds() - began, 5.0)
        await client.kill()
