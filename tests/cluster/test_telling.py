"""Tests of L{pipeops_agent.cluster.telling}: the inventory's changes on the hub."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.cluster.inventory import Inventory
from pipeops_agent.cluster.objects import KubeEvent, Pod
from pipeops_agent.cluster.reflector import ListStatus
from pipeops_agent.cluster.telling import BATCH, MOST, ChangeTeller
from pipeops_agent.events import Event, EventHub
from tests.cluster.case import NOON


def pod(name: str, version: str = "1") -> Pod:
    """A pod of the namespace shop."""
    return Pod(namespace="shop", name=name, uid=name, resource_version=version)


class TellingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.inventory = Inventory()
        self.hub = EventHub(lambda: NOON)
        self.heard: list[Event] = []
        self.teller = ChangeTeller(self.clock, self.inventory, self.hub)
        self.teller.startService()
        self.live("pods")
        self.live("events")

    def tearDown(self) -> None:
        self.teller.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def live(self, kind: str) -> None:
        """The list of a kind is whole."""
        self.inventory[kind].note(None, ListStatus(state="live", since=NOON, synced=NOON))

    def listen(self) -> None:
        self.hub.subscribe(self.heard.append)

    def changes(self) -> list[dict[str, Any]]:
        """What the one event says."""
        (event,) = self.heard
        found: list[dict[str, Any]] = event.data["changes"]
        return found

    def test_batch(self) -> None:
        """Changes come together, at the latest after L{BATCH}; of each object the last state."""
        self.listen()
        self.inventory["pods"].put(pod("a"))
        self.inventory["pods"].put(pod("b"))
        self.inventory["pods"].put(pod("b", "2"))
        self.inventory["pods"].drop("shop/a")
        self.assertEqual(self.heard, [])
        self.clock.advance(BATCH)
        gone, there = self.changes()
        self.assertEqual(gone, {"kind": "pods", "key": "shop/a", "gone": True})
        self.assertEqual((there["key"], there["object"]["resource_version"]), ("shop/b", "2"))
        self.assertEqual((self.heard[0].channel, self.heard[0].event), ("cluster", "changes"))

    def test_kubernetes_events(self) -> None:
        """Kubernetes' own events have a channel of their own."""
        self.listen()
        self.inventory["events"].put(KubeEvent(namespace="shop", name="e", uid="e", resource_version="1"))
        self.clock.advance(BATCH)
        self.assertEqual([event.channel for event in self.heard], ["events"])

    def test_nobody_listens(self) -> None:
        """Without a subscriber nothing is collected, and no event is numbered."""
        self.inventory["pods"].put(pod("a"))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.hub.seq, 0)

    def test_first_list(self) -> None:
        """A list that is read for the first time is not told object by object; one read again is."""
        self.listen()
        self.inventory["pods"].note(None, ListStatus(state="listing", since=NOON))
        self.inventory["pods"].put(pod("a"))
        self.inventory["pods"].note(None, ListStatus(state="listing", since=NOON, synced=NOON))
        self.inventory["pods"].put(pod("b"))
        self.clock.advance(BATCH)
        self.assertEqual([change["key"] for change in self.changes()], ["shop/b"])

    def test_bounded(self) -> None:
        """Of more than L{MOST} changes in one batch the rest is a number."""
        self.listen()
        for number in range(MOST + 7):
            self.inventory["pods"].put(pod(f"p{number}"))
        self.clock.advance(BATCH)
        self.assertEqual((len(self.changes()), self.heard[0].data["left_out"]), (MOST, {"pods": 7}))

    def test_stopped(self) -> None:
        """What was collected when it stops is dropped, and told neither later."""
        self.listen()
        self.inventory["pods"].put(pod("a"))
        self.teller.stopService()
        self.inventory["pods"].put(pod("b"))
        self.clock.advance(2 * BATCH)
        self.assertEqual(self.heard, [])
        self.teller.startService()
        self.inventory["pods"].put(pod("c"))
        self.clock.advance(BATCH)
        self.assertEqual([change["key"] for change in self.changes()], ["shop/c"])
