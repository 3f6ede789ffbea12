"""Tests with real sockets on 127.0.0.1: what connections in memory can't show."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any, cast
from unittest import SkipTest

from twisted.internet import defer, protocol
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pipeops_agent.build import describe
from pipeops_agent.clock import utc_now
from pipeops_agent.events import EventHub
from pipeops_agent.health import standard_checks
from pipeops_agent.metrics import Metrics
from pipeops_agent.scheduling import sleep
from pipeops_agent.status import StatusBoard
from pipeops_agent.web import fetch_status
from pipeops_agent.web.channel import CLOSE_GRACE, MAX_BODY
from pipeops_agent.web.site import build_site
from tests.web.harness import Limits, one_token

GET = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"


class Received(protocol.Protocol):
    """Keeps what comes, and tells when the connection is gone."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: defer.Deferred[None] = defer.Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        self.lost.callback(None)


class SocketTests(TestCase):
    """The site behind a real port."""

    timeout = 30

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251 (real sockets need the real reactor)

        self.reactor = cast(Any, reactor)
        board = StatusBoard(EventHub(utc_now), utc_now)
        build = describe("1.2.3", None)
        self.site = build_site(
            self.reactor,
            board,
            standard_checks(),
            Metrics(board, utc_now, build),
            Limits(request_timeout=0.4, idle_timeout=0.6),
            utc_now,
            access=one_token(self.reactor, board),
            build=build,
        )
        self.listening = self.reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.port = self.listening.getHost().port

        self.addCleanup(self.site.close_connections)
        self.addCleanup(self.listening.stopListening)

    async def connect(self) -> Received:
        client = Received()
        await connectProtocol(TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.port), client)
        return client

    async def test_byte_by_byte(self) -> None:
        """A client that sends a byte now and then is told 408 and cut, however long it goes on."""
        client = await self.connect()
        assert client.transport is not None
        while not client.lost.called and len(client.data) == 0:
            client.transport.write(b"G")
            await sleep(self.reactor, 0.1)
        await client.lost
        self.assertTrue(client.data.startswith(b"HTTP/1.1 408 "), client.data)

    async def test_never_reads(self) -> None:
        """A client that asks and asks and never reads is cut, with its memory."""
        raw = socket.socket()
        self.addCleanup(raw.close)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", self.port))
        raw.setblocking(False)
        while len(self.site._channels) == 0:
            await sleep(self.reactor, 0.01)
        (channel,) = self.site._channels
        transport: Any = channel.transport
        buffered = 0
        for _ in range(200):
            if not self.site._channels:
                break
            with contextlib.suppress(BlockingIOError, ConnectionError):
                raw.send(GET * 20)
            buffered = max(buffered, sum(map(len, transport._tempDataBuffer)) + len(transport.dataBuffer))
            await sleep(self.reactor, 0.05)
        self.assertEqual(len(self.site._channels), 0)
        self.assertLess(buffered, 512 * 1024)

    async def test_refusal_is_read(self) -> None:
        """A client that sends all of a body that is too long gets to read that it was."""
        client = await self.connect()
        assert client.transport is not None
        body = b"x" * (4 * MAX_BODY)
        client.transport.write(b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        client.transport.write(body)
        await client.lost
        self.assertTrue(client.data.startswith(b"HTTP/1.1 413 "), client.data)
        self.assertIn(b'"body_too_large"', client.data)

    async def test_reset(self) -> None:
        """A client that resets its connection in the middle leaves nothing behind."""
        for data in (b"", GET[:10], GET):
            raw = socket.create_connection(("127.0.0.1", self.port))
            raw.sendall(data)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await sleep(self.reactor, 0.05)
            raw.close()
        while self.site._channels:
            await sleep(self.reactor, 0.01)
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_close(self) -> None:
        """Closing ends connections that would have stayed open."""
        client = await self.connect()
        while not self.site._channels:
            await sleep(self.reactor, 0.01)
        began = self.reactor.seconds()
        await self.site.close_connections()
        await client.lost
        self.assertLess(self.reactor.seconds() - began, CLOSE_GRACE)

    async def test_status_ipv6(self) -> None:
        """An agent that listens on all IPv6 addresses is asked on the loopback one."""
        try:
            listening = self.reactor.listenTCP(0, self.site, interface="::1")
        except CannotListenError as error:
            raise SkipTest("this machine has no IPv6 loopback address") from error
        self.addCleanup(listening.stopListening)
        text, _ = await fetch_status(self.reactor, "::", listening.getHost().port)
        self.assertIn(f"[::1]:{listening.getHost().port}: healthy", text)

    async def test_status(self) -> None:
        """The status client asks over a real connection, and says so when nothing listens."""
        text, well = await fetch_status(self.reactor, "127.0.0.1", self.port)
        self.assertFalse(well)
        self.assertIn(f"127.0.0.1:{self.port}: healthy, not ready", text)
        await defer.maybeDeferred(self.listening.stopListening)
        text, well = await fetch_status(self.reactor, "127.0.0.1", self.port)
        self.assertIn("nothing listens", text)
