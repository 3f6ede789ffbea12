"""Tests of L{pipeops_agent.cluster.logs}: several logs as one, and streams that are given up."""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import CancelledError

from pipeops_agent.cluster.log_items import Item, LogLine, LogMarker
from pipeops_agent.cluster.log_source import (
    LogSource,
)
from pipeops_agent.cluster.logs import LogStream
from tests.cluster.fakeapi import Fault
from tests.cluster.logs_case import FAILED, RUNNING, WEB, LogCase


class CancelTests(LogCase):
    """Who stops at whatever stage leaves nothing behind; C{tearDown} looks."""

    def test_opening(self) -> None:
        """While it waits for the first byte."""
        opening = self.opening(follow=True)
        self.assertEqual(len(self.kubelet.following), 1)
        opening.cancel()
        self.failureResultOf(opening, CancelledError)

    def test_reading(self) -> None:
        """A cancelled read loses nothing."""
        stream = self.open(follow=True)
        reading = self.begin(stream.read())
        reading.cancel()
        self.failureResultOf(reading, CancelledError)
        self.write(b"one", at=1)
        self.assertEqual(self.texts(stream, 1), [b"one"])

    def test_closed(self) -> None:
        """Closed in each of its states: while waiting for lines, before going on, for the next run."""
        for state in ("lines", "cut", "settling", "run"):
            self.kubelet.lines.clear()
            self.now(RUNNING)
            stream = self.open(follow=True)
            self.write(b"one", at=1)
            self.texts(stream, 1)
            if state == "cut":
                self.kubelet.end(cut=True)
                self.flush()
                self.marker(stream, "cut")
            elif state == "settling":
                self.kubelet.end()
            elif state == "run":
                self.now(FAILED)
                self.kubelet.end()
                self.flush()
                self.marker(stream, "ended")
            reading = self.begin(stream.read())
            self.assertNoResult(reading)
            stream.close()
            stream.close()
            self.flush()
            self.assertEqual(self.successResultOf(reading), [])
            self.assertEqual(self.clock.getDelayedCalls(), [], state)


class MergedTests(LogCase):
    """Several logs in one stream."""

    def setUp(self) -> None:
        super().setUp()
        self.container("api", "main", "side")
        for container in (("api", "main"), ("api", "side"), WEB):
            self.write(b"of " + container[1].encode(), at=1, container=container)

    def everything(self, stream: LogStream) -> list[Item]:
        items: list[Item] = []
        while found := self.read(stream):
            items += found
        return items

    def test_labels(self) -> None:
        """Every container of every pod that is selected; each line names them."""
        items = self.everything(self.open(labels="app=shop"))
        lines = {(item.pod, item.container, item.data) for item in items if isinstance(item, LogLine)}
        expected = {("api", "main", b"of main"), ("api", "side", b"of side"), ("web", "main", b"of main")}
        self.assertEqual(lines, expected)
        self.assertEqual(len([item for item in items if isinstance(item, LogMarker)]), 3)

    def test_containers(self) -> None:
        """Of a pod all containers, or those that are named; of selected pods those that have them."""
        self.everything(self.open(pod="api"))
        self.everything(self.open(labels="app=shop", containers=("side",)))
        self.assertEqual([asked["container"] for asked in self.kubelet.asked], ["main", "side", "side"])

    def test_one_fails(self) -> None:
        """One that can't be read says so; the others go on."""
        self.server.faults.append(Fault("/api/v1/namespaces/shop/pods/web/log", code=403, body=b"no"))
        items = self.everything(self.open(labels="app=shop"))
        failed = [item for item in items if isinstance(item, LogMarker) and item.what == "failed"]
        self.assertEqual([item.pod for item in failed], ["web"])
        self.assertEqual(len([item for item in items if isinstance(item, LogLine)]), 2)

    def test_in_turn(self) -> None:
        """A log that never stops does not keep the others from being read."""
        stream = self.open(labels="app=shop", follow=True)
        seen: set[tuple[str, str]] = set()
        for number in range(3):
            self.write(*[b"busy"] * 50, at=2 + number, container=("api", "main"))
            seen |= {(item.pod, item.container) for item in self.read(stream)}
        self.assertEqual(len(seen), 3)

    def test_read_ahead(self) -> None:
        """Of a log that always has something no more than one portion is taken with each read."""
        taken: list[int] = []

        class Busy:
            async def read(self) -> list[Item]:
                taken.append(1)
                return [LogLine("web", "main", b"busy")]

            def close(self) -> None:
                """Nothing to close."""

        stream = LogStream([cast(LogSource, Busy())])
        for count in range(1, 4):
            self.assertEqual(len(self.read(stream)), 1)
            self.assertEqual(len(taken), count)

    def test_closed(self) -> None:
        """Closing ends all of them."""
        stream = self.open(labels="app=shop", follow=True)
        self.read(stream)
        self.assertEqual(len(self.kubelet.following), 3)
        stream.close()
        self.assertEqual(self.read(stream), [])
