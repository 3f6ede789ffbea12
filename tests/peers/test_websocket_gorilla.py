"""C{/ws} with Go's gorilla: another making of the protocol, which wants its compression without context."""

from __future__ import annotations

from tests.agent.test_realtime import AUTHORIZATION, RealtimeCase
from tests.peers.building import gohub
from tests.peers.processes import Program, real_reactor


class GorillaTests(RealtimeCase):
    """The whole agent, and a client in Go."""

    def gorilla(self) -> Program:
        client = Program.start(real_reactor(), [gohub(), "client", f"-url={self.address('/ws', 'ws')}"])
        self.addCleanup(client.stop)
        client.order("open", headers={"Authorization": AUTHORIZATION})
        return client

    async def test_life(self) -> None:
        """It agrees to compression, reads long and short messages, and is told goodbye."""
        self.start_agent()
        client = self.gorilla()
        opened = await client.wait_for("open")
        for word in ("permessage-deflate", "server_no_context_takeover", "client_no_context_takeover"):
            self.assertIn(word, opened["extensions"])
        await client.wait_for("message", type="status")
        await self.ask(client, "ping", "pong")
        await self.ask(client, "subscribe", "subscribed", data={"channels": ["agent", "health", "tunnel"]})
        await client.wait_for("message", type="event", count=20)
        numbers = [each["message"]["data"]["seq"] for each in client.seen("message", type="event")]
        self.assertEqual(numbers, sorted(set(numbers)))
        client.order("send", message={"type": "logs", "id": "l", "data": {"tail": 1000}})
        await client.wait_for("message", type="log", count=20)
        await self.ask(client, "get_status", "status_response")
        await self.agent.stopService()
        self.assertEqual((await client.wait_for("closed"))["code"], 1001)
        self.assertEqual(len(client.seen("message", type="cancelled")), 1)

    async def test_goodbye(self) -> None:
        """Its own goodbye is answered."""
        self.start_agent()
        client = self.gorilla()
        await client.wait_for("message", type="status")
        client.order("close")
        self.assertEqual((await client.wait_for("closed"))["code"], 1000)
