"""Tests for L{pipeops_agent.realtime.events} and L{pipeops_agent.realtime.state}."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.events import EventHub
from pipeops_agent.health import Feature, FeatureState, Registry
from pipeops_agent.realtime import Entry, EventFeed, Missed, present_state
from pipeops_agent.realtime.events import LINGER
from pipeops_agent.realtime.feed import SPACING
from pipeops_agent.status import StatusBoard
from tests.realtime.test_feed import BOTH, Kept

NOW = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)


def text(entry: Entry) -> bytes:
    return entry.text + b"\n"


class EventFeedTests(SynchronousTestCase):
    """The agent's events."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.hub = EventHub(lambda: NOW)
        self.feed = EventFeed(self.clock, self.hub)
        self.addCleanup(self.feed.stop)

    def add(self, *, after: int | None = None) -> Kept:
        sink = Kept()
        sink.reader = self.feed.read(sink, BOTH, text, after=after)
        sink.reader.resume()
        return sink

    def events(self, sink: Kept) -> list[dict[str, Any]]:
        return [json.loads(each) for each in b"".join(sink.pieces).splitlines()]

    def test_event(self) -> None:
        """An event has the contract's fields and no other."""
        sink = self.add()
        self.hub.publish("tunnel", "opened", {"port": 8000})
        self.clock.advance(SPACING)
        self.assertEqual(
            self.events(sink),
            [
                {
                    "start": self.hub.start,
                    "seq": 1,
                    "time": "2024-01-15T10:30:00Z",
                    "channel": "tunnel",
                    "event": "opened",
                    "data": {"port": 8000},
                }
            ],
        )

    def test_nobody(self) -> None:
        """While there is no reader nobody is told: what is costly to say is not put together."""
        self.assertFalse(self.hub.watched)
        reader = self.add().reader
        self.assertTrue(self.hub.watched)
        reader.close()
        self.clock.advance(LINGER - 1)
        self.assertTrue(self.hub.watched)
        self.clock.advance(1)
        self.assertFalse(self.hub.watched)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_comes_again(self) -> None:
        """Who was cut and comes again in time has lost nothing."""
        self.add().reader.close()
        self.hub.publish("health", "a", {})
        self.clock.advance(LINGER / 2)
        sink = self.add(after=0)
        self.clock.advance(LINGER)
        self.assertEqual([event["seq"] for event in self.events(sink)], [1])
        self.assertTrue(self.hub.watched)

    def test_comes_too_late(self) -> None:
        """What was told while nobody listened is said to be lost, and the numbers go on from there."""
        self.add().reader.close()
        self.hub.publish("health", "a", {})
        self.clock.advance(LINGER)
        self.hub.publish("health", "b", {})
        sink = self.add(after=0)
        self.hub.publish("health", "c", {})
        self.clock.advance(SPACING)
        self.assertEqual((sink.said, self.events(sink)[0]["seq"]), ([Missed(2, 1, 2)], 3))

    def test_not_json(self) -> None:
        """An event that can't be written is logged, and its number stands there without what it said."""
        sink = self.add()
        self.hub.publish("health", "odd", {"x": "\ud800"})
        self.hub.publish("health", "even", {})
        self.clock.advance(SPACING)
        self.assertEqual(
            [(each["event"], each["data"]) for each in self.events(sink)], [("odd", {}), ("even", {})]
        )
        self.assertEqual(len(self.flushLoggedErrors()), 1)


class PresentStateTests(SynchronousTestCase):
    """What is told first."""

    def test_fields(self) -> None:
        """Who, how, what it can do, and which events are in it already."""
        hub = EventHub(lambda: NOW)
        board = StatusBoard(hub, lambda: NOW)
        features: Registry[Feature] = Registry()
        state = FeatureState(enabled=True, available=False, reason="not yet")
        features.add(Feature(name="sse", state=lambda status: state))
        board.identify("agent-1")
        board.set_registration(cluster_id="c-1")
        board.enter("running")
        self.assertEqual(
            present_state(board, features, hub),
            {
                "agent_id": "agent-1",
                "cluster_id": "c-1",
                "status": "running",
                "features": {"sse": {"enabled": True, "available": False, "reason": "not yet"}},
                "start": hub.start,
                "seq": 3,
            },
        )
