"""Tests of a watch that the server half-closes, over sockets: in memory there is no half of a connection."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from pipeops_agent.cluster.config import ClusterConfig, StaticCredentials
from pipeops_agent.cluster.inventory import Inventory
from pipeops_agent.cluster.objects import KINDS
from pipeops_agent.cluster.reflector import Reflector
from pipeops_agent.scheduling import bounded, sleep
from tests.cluster.client import Client
from tests.peers.processes import PATIENCE, real_reactor

REACTOR: Any = real_reactor()
PODS = next(kind for kind in KINDS if kind.name == "pods")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def event(name: str, version: int) -> bytes:
    """A chunk with one event."""
    meta = {"name": name, "namespace": "shop", "uid": name, "resourceVersion": str(version)}
    line = json.dumps({"type": "ADDED", "object": {"metadata": meta}}).encode() + b"\n"
    return b"%x\r\n%s\r\n" % (len(line), line)


class HalfClosing(Protocol):
    """
    An API server without a pod at first.

    Its first watch tells of one; then nothing more is sent, after a chunk or within one, while it still
    listens to whoever has asked. Its second tells of another.
    """

    factory: Any
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        if b"watch=true" not in data:
            body = b'{"metadata":{"resourceVersion":"1"},"items":[]}'
            self.transport.write(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            return
        version = data.partition(b"resourceVersion=")[2].partition(b"&")[0].partition(b" ")[0]
        self.factory.watches.append((int(version), self))
        head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        if len(self.factory.watches) == 1:
            self.transport.write(head + event("a", 2) + self.factory.last)
            self.transport.loseWriteConnection()
        else:
            self.transport.write(head + event("b", 3))

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.lost.append(self)


class HalfClosedTests(TestCase):
    """A server that says nothing more, and does not hang up."""

    async def half_closed(self, last: bytes) -> None:
        """Follow such a server, whose last bytes are these, until all is well again."""
        factory: Any = Factory.forProtocol(HalfClosing)
        factory.noisy, factory.last, factory.watches, factory.lost = False, last, [], []
        listening = REACTOR.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        client, inventory = Client(REACTOR), Inventory()
        config = ClusterConfig(
            origin="a test",
            host="127.0.0.1",
            port=listening.getHost().port,
            tls=None,
            credentials=StaticCredentials(),
        )
        reflector = Reflector(
            REACTOR,
            client.api(config),
            PODS,
            inventory["pods"].part(None),
            wall=lambda: datetime.now(UTC),
            random=lambda: 0.0,
        )
        states: list[str] = []
        inventory.on_status(lambda kind: states.append(reflector.status.state))
        reflector.startService()
        try:
            await self.until(lambda: inventory["pods"].get("b", "shop") is not None)
        finally:
            await reflector.stopService()
            await client.close()
        self.assertIsNotNone(inventory["pods"].get("a", "shop"))
        self.assertEqual([version for version, _ in factory.watches], [1, 2])
        self.assertIn("broken", states)
        await self.until(
            lambda: factory.watches[0][1] in factory.lost and factory.watches[1][1] in factory.lost
        )

    async def until(self, what: Any) -> None:
        async def look() -> None:
            while not what():
                await sleep(REACTOR, 0.01)

        await bounded(REACTOR, PATIENCE, look(), "what was waited for")

    async def test_after_a_chunk(self) -> None:
        """That is no end of a watch: broken, gone on with from its last version, the connection let go."""
        await self.half_closed(b"")

    async def test_within_a_chunk(self) -> None:
        """Half an event is none."""
        await self.half_closed(b'ff\r\n{"type":"ADDED","obj')
