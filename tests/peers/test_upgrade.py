"""What the first request to a chisel server carries, as a server without SSH or TLS sees it."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from pipeops_agent.orders import ServerAddress, TunnelServer
from pipeops_agent.scheduling import bounded
from pipeops_agent.tunnel.errors import SessionError
from tests.peers.client import Client, remote_to
from tests.peers.harness import CREDENTIALS
from tests.peers.processes import PATIENCE, real_reactor


class Eavesdropper(Protocol):
    """Keeps the head of the first request, and hangs up."""

    def __init__(self, head: Deferred[bytes]) -> None:
        self._head = head
        self._data = b""

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if b"\r\n\r\n" in self._data and not self._head.called:
            assert self.transport is not None
            self.transport.loseConnection()
            self._head.callback(self._data)


class UpgradeTests(TestCase):
    """The WebSocket's opening handshake."""

    async def test_nothing_but_the_upgrade(self) -> None:
        """The path is kept, the subprotocol is chisel's; no token, no header that is not needed."""
        reactor: Any = real_reactor()
        head: Deferred[bytes] = Deferred()
        factory = Factory.forProtocol(partial(Eavesdropper, head))
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number = port.getHost().port
        server = TunnelServer(
            ServerAddress("127.0.0.1", number, "/a/path", tls=False), "A" * 43 + "=", CREDENTIALS
        )
        with self.assertRaises(SessionError):
            await Client(reactor).open(server, remote_to("127.0.0.1:9", 8000))
        request, *lines = (await bounded(reactor, PATIENCE, head, "a request")).decode().split("\r\n")
        self.assertEqual(request, "GET /a/path HTTP/1.1")
        headers = dict(line.split(": ", 1) for line in lines if line)
        self.assertEqual(
            {name.lower() for name in headers},
            {
                "user-agent",
                "host",
                "upgrade",
                "connection",
                "pragma",
                "cache-control",
                "sec-websocket-key",
                "sec-websocket-protocol",
                "sec-websocket-version",
            },
        )
        self.assertEqual(headers["Host"], f"127.0.0.1:{number}")
        self.assertEqual(headers["Sec-WebSocket-Protocol"], "chisel-v3")
