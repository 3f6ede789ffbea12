"""A long log and a slow reader, over a real socket: flat memory, every line once, in order."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qs

import psutil
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from pipeops_agent.caller import Caller, Grant
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.config import ClusterConfig, StaticCredentials
from pipeops_agent.cluster.log_items import LogLine, LogMarker, LogOptions
from pipeops_agent.cluster.logs import LogRequest, Logs
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.transport import Transport
from pipeops_agent.net import Connector
from tests.cluster.fakeapi.logs import stamp
from tests.peers.processes import real_reactor

MEGABYTES = 200 if os.environ.get("PIPEOPS_ENDURANCE") else 20
LINE = 200
COUNT = MEGABYTES * 1_000_000 // LINE
NOON = 1_772_625_600 * 1_000_000_000
STEP = 10_000
"""Nanoseconds between two lines: a hundred thousand lines have the same second."""

GROWTH = 24 * 1024 * 1024
"""Bytes by which the process may grow: what is read ahead, and what Python keeps for later."""


AHEAD: Final = 8_000_000
"""Bytes that the server may have sent and the reader not read: what the kernel's buffers take, most of it."""


def line(number: int) -> bytes:
    """One line of the log, its stamp included."""
    text = b"%s line %09d " % (stamp(NOON + number * STEP).encode(), number)
    return text.ljust(LINE - 1, b".") + b"\n"


@implementer(IPushProducer)
class Writer:
    """
    Writes the log as fast as the connection takes it, and loses it after each of C{cuts} lines.

    It knows nothing but what the kubelet does: the lines from C{sinceTime} on.
    """

    def __init__(self, request: Request, cuts: list[int], sent: list[int]) -> None:
        since = parse_qs(request.uri.decode().partition("?")[2]).get("sinceTime")
        self._next = 0
        if since is not None:
            after = int(datetime.fromisoformat(since[0]).timestamp()) * 1_000_000_000 - NOON
            self._next = max(0, after // STEP)
        self._request = request
        self._cuts = cuts
        self._sent = sent
        self._going = self._over = False
        request.notifyFinish().addErrback(lambda _: self.stopProducing())
        request.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self) -> None:
        self._going = False

    def stopProducing(self) -> None:
        self._going, self._over = False, True

    def resumeProducing(self) -> None:
        if self._going or self._over:
            return
        self._going = True
        while self._going and self._next < COUNT:
            end = min(self._next + 300, COUNT)
            self._request.write(b"".join(map(line, range(self._next, end))))
            self._next = end
            self._sent[0] = max(self._sent[0], end)
            if self._cuts and end > self._cuts[0]:
                self._cuts.pop(0)
                self.stopProducing()
                self._request.transport.abortConnection()  # type: ignore[union-attr]  # it is there while one writes
                return
        if self._going:
            self._over = True
            self._request.unregisterProducer()
            self._request.finish()


class Server(Resource):
    """One pod and its log."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.cuts = [COUNT // 7, COUNT // 3, COUNT - COUNT // 9]
        self.sent = [0]

    def render_GET(self, request: Request) -> Any:  # noqa: N802  # twisted.web's name
        if request.path.endswith(b"/log"):
            Writer(request, self.cuts, self.sent)
            return NOT_DONE_YET
        return b'{"metadata":{"name":"web","uid":"1"},"spec":{"containers":[{"name":"main"}]}}'


class VolumeTests(TestCase):
    """Real sockets, on loopback."""

    timeout = 600

    async def test_slow_reader(self) -> None:
        """
        A log of 20 MB (in full: 200), cut three times, and a reader that rests: the server is held back by
        it, memory stays flat, and every line comes once, in order.
        """
        reactor: Any = real_reactor()
        resource = Server()
        port = reactor.listenTCP(0, Site(resource, reactor=reactor), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        config = ClusterConfig(
            origin="a test",
            host="127.0.0.1",
            port=port.getHost().port,
            tls=None,
            credentials=StaticCredentials(),
        )
        connector = Connector(reactor, connect_timeout=10)
        self.addCleanup(lambda: Deferred.fromCoroutine(connector.close()))
        transport = Transport(reactor, connector, config, version="0", observe=lambda *_: None)
        caller = Caller(subject="x", scopes=frozenset({Grant("read")}), origin="")
        logs = Logs(reactor, Api(transport), Reach(), random=lambda: 0.1)
        stream = await logs.open(caller, LogRequest(namespace="shop", pod="web", options=LogOptions()))
        process, before, most, ahead = psutil.Process(), 0, 0, 0
        expected, reads, rested, markers = 0, 0, False, list[str]()
        while items := await stream.read():
            for item in items:
                if isinstance(item, LogMarker):
                    markers.append(item.what)
                    continue
                assert isinstance(item, LogLine)
                self.assertEqual(item.data[:14], b"line %09d" % expected)
                expected += 1
            reads += 1
            if expected > COUNT * 2 // 5 and not rested:  # long enough for the server to send all that it may
                rested = True
                await deferLater(reactor, 2.0, lambda: None)
            ahead = max(ahead, resource.sent[0] - expected)
            if reads % 16 == 0:
                await deferLater(reactor, 0.01, lambda: None)
                most = max(most, process.memory_info().rss)
                before = before or most  # after the first portions: what every stream takes is there
        self.assertEqual(expected, COUNT)
        self.assertEqual(markers, [*["cut", "resumed"] * 3, "complete"])
        self.assertLess(most - before, GROWTH)
        self.assertLess(ahead * LINE, AHEAD)
