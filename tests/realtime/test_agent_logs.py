"""Tests for L{pipeops_agent.realtime.agent_logs}, on the real log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.log import AgentLog, LogConfig, Redactor
from pipeops_agent.realtime import LogFeed
from pipeops_agent.realtime.agent_logs import HANDOVER, LOG, RECORDS
from pipeops_agent.realtime.feed import SPACING
from pipeops_agent.secrets import Secret
from tests.realtime.test_feed import Kept

TOKEN = "pk_live-9f8E7d6C5b4A3z2Y1x"


class ThreadedClock(Clock):
    """A clock that keeps what other threads ask for, until L{run}."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Callable[[], object]] = []

    def callFromThread(self, call: Callable[[], object]) -> None:
        self.asked.append(call)

    def run(self) -> None:
        """A turn of the reactor."""
        asked, self.asked = self.asked, []
        for call in asked:
            call()
        self.advance(SPACING)


class LogFeedTests(SynchronousTestCase):
    """The agent's own records."""

    def setUp(self) -> None:
        self.reactor = ThreadedClock()
        path = Path(self.mktemp())
        self.redactor = Redactor()
        publisher = LogPublisher()
        self.log = AgentLog(LogConfig(output=str(path)), self.reactor, self.redactor)
        self.addCleanup(self.log.close)
        publisher.addObserver(self.log.observer)
        self.logger = Logger(namespace="web", observer=publisher)
        self.feed = LogFeed(self.reactor, "abcd", self.log)
        self.feed.begin()
        self.addCleanup(self.feed.stop)

    def add(self, *, after: int | None = None) -> Kept:
        sink = Kept()
        sink.reader = self.feed.read(sink, frozenset({LOG}), lambda each: each.text + b"\n", after=after)
        sink.reader.resume()
        return sink

    def records(self, sink: Kept) -> list[dict[str, Any]]:
        return [json.loads(each) for each in b"".join(sink.pieces).splitlines()]

    def test_record(self) -> None:
        """A record is what stands in the log."""
        sink = self.add()
        self.logger.info("hello {name}", name="world")
        self.reactor.run()
        (record,) = self.records(sink)
        self.assertEqual(list(record), ["time", "level", "msg", "component", "name"])
        self.assertEqual(record["msg"], "hello world")

    def test_redacted(self) -> None:
        """No secret is in it."""
        self.redactor.learn(Secret(TOKEN))
        sink = self.add()
        self.logger.info("with {what}", what=TOKEN)
        self.reactor.run()
        self.assertNotIn(TOKEN.encode(), b"".join(sink.pieces))

    def test_past(self) -> None:
        """The last records are there for who comes later."""
        for number in range(RECORDS + 5):
            self.logger.info("{number}", number=number)
            self.reactor.run()
        sink = self.add(after=0)
        self.assertEqual(len(self.records(sink)), RECORDS)
        self.assertEqual(sink.said[0].count, 5)

    def test_from_a_thread(self) -> None:
        """What a thread logs is handed to the reactor first."""
        sink = self.add()
        thread = Thread(target=lambda: self.logger.info("from afar"))
        thread.start()
        thread.join()
        self.assertEqual(sink.pieces, [])
        self.reactor.run()
        self.assertEqual([each["msg"] for each in self.records(sink)], ["from afar"])

    def test_flood(self) -> None:
        """What comes while the reactor does not turn is bounded, asks it once, and the loss is a record."""
        sink = self.add()
        for number in range(HANDOVER + 7):
            self.logger.info("{number}", number=number)
        self.assertEqual(len(self.reactor.asked), 1)
        self.reactor.run()
        first, *others = self.records(sink)
        self.assertEqual((first["lost"], first["level"]), (7, "warn"))
        self.assertEqual([each["number"] for each in others], list(range(7, HANDOVER + 7)))

    def test_odd_text(self) -> None:
        """What is no Unicode does not end the feed."""
        sink = self.add()
        self.logger.info("{odd}", odd="\ud800")
        self.reactor.run()
        self.assertEqual(len(self.records(sink)), 1)

    def test_stop(self) -> None:
        """After a stop nothing is kept."""
        self.feed.stop()
        self.feed.stop()
        self.logger.info("unheard")
        self.assertEqual(self.reactor.asked, [])
