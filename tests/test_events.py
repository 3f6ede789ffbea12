"""Tests for L{pipeops_agent.events}."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.events import CHANNELS, Event, EventHub


class Boom(Exception):
    """What goes wrong in these tests."""


class EventHubTests(SynchronousTestCase):
    """The one hub."""

    def setUp(self) -> None:
        self.now = datetime(2025, 10, 15, 8, 0, 0, tzinfo=UTC)
        self.hub = EventHub(lambda: self.now)

    def listen(self) -> list[tuple[int, str]]:
        """The numbers and names of the events from now on."""
        heard: list[tuple[int, str]] = []
        self.hub.subscribe(lambda event: heard.append((event.seq, event.event)))
        return heard

    def test_event(self) -> None:
        """An event carries its number, its time and what was said of it; it is returned as it is told."""
        told: list[Event] = []
        self.hub.subscribe(told.append)
        published = self.hub.publish("tunnel", "opened", {"port": 8000})
        self.assertEqual(
            published,
            Event(
                start=self.hub.start,
                seq=1,
                time=self.now,
                channel="tunnel",
                event="opened",
                data={"port": 8000},
            ),
        )
        self.assertEqual(told, [published])

    def test_numbers(self) -> None:
        """Events are numbered from 1 without a gap, whether anybody listens or not."""
        self.assertEqual(self.hub.seq, 0)
        self.hub.publish("agent", "a", {})
        heard = self.listen()
        self.now += timedelta(seconds=5)
        last = self.hub.publish("agent", "b", {})
        self.assertEqual(heard, [(2, "b")])
        self.assertEqual((self.hub.seq, last.time), (2, self.now))

    def test_start(self) -> None:
        """Each run has a name of its own, so that a reader can tell a restart from a gap."""
        starts = {EventHub(lambda: self.now).start for _ in range(5)}
        self.assertEqual(len(starts), 5)
        for start in starts:
            self.assertTrue(re.fullmatch("[0-9a-f]{8}", start))

    def test_unknown_channel(self) -> None:
        """An event on a channel that nobody can subscribe to is a mistake; it takes no number."""
        with self.assertRaises(ValueError):
            self.hub.publish("gossip", "a", {})
        self.assertEqual(self.hub.seq, 0)
        for channel in CHANNELS:
            self.hub.publish(channel, "a", {})

    def test_order_of_subscribers(self) -> None:
        """Subscribers are told in the order in which they came."""
        order: list[str] = []
        self.hub.subscribe(lambda _: order.append("first"))
        self.hub.subscribe(lambda _: order.append("second"))
        self.hub.publish("agent", "a", {})
        self.assertEqual(order, ["first", "second"])

    def test_unsubscribe(self) -> None:
        """Who has left is told no more; leaving twice takes nothing from another of the same function."""
        heard: list[Event] = []
        leave = self.hub.subscribe(heard.append)
        self.hub.subscribe(heard.append)
        leave()
        leave()
        self.hub.publish("agent", "a", {})
        self.assertEqual(len(heard), 1)

    def test_failing_subscriber(self) -> None:
        """A subscriber that fails is logged and dropped; the others hear everything."""
        calls: list[Event] = []

        def fail(event: Event) -> None:
            calls.append(event)
            raise Boom

        self.hub.subscribe(fail)
        heard = self.listen()
        with capturedLogs() as records:
            self.hub.publish("agent", "a", {})
            self.hub.publish("agent", "b", {})
        self.assertEqual(heard, [(1, "a"), (2, "b")])
        self.assertEqual(len(calls), 1)
        self.assertEqual([record["event_name"] for record in records], ["agent.a"])
        self.assertEqual(len(self.flushLoggedErrors(Boom)), 1)

    def test_published_by_a_subscriber(self) -> None:
        """What a subscriber publishes comes, for everybody, after the event that made it do so."""
        before = self.listen()

        def answer(event: Event) -> None:
            if event.event == "question":
                self.assertEqual(self.hub.publish("agent", "answer", {}).seq, 2)

        self.hub.subscribe(answer)
        after = self.listen()
        self.hub.publish("agent", "question", {})
        self.assertEqual(before, [(1, "question"), (2, "answer")])
        self.assertEqual(after, before)
        self.hub.publish("agent", "later", {})
        self.assertEqual(after[-1], (3, "later"))

    def test_leaving_while_told(self) -> None:
        """Who was removed by an earlier subscriber is not told any more, not even of the present event."""
        leave: list[Callable[[], None]] = []
        self.hub.subscribe(lambda _: leave[0]())
        heard: list[Event] = []
        leave.append(self.hub.subscribe(heard.append))
        self.hub.publish("agent", "a", {})
        self.assertEqual(heard, [])

    def test_coming_while_told(self) -> None:
        """Who comes while an event is told hears those that are published after that, and no earlier one."""
        heard: list[str] = []

        def first(event: Event) -> None:
            if event.event == "a":
                self.hub.publish("agent", "b", {})
                self.hub.subscribe(lambda event: heard.append(event.event))
                self.hub.publish("agent", "c", {})

        self.hub.subscribe(first)
        self.hub.publish("agent", "a", {})
        self.assertEqual(heard, ["c"])
