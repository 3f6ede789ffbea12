"""Tests for L{pipeops_agent.web.view}, with rights that an API server in memory knows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from pipeops_agent.access.kubernetes import Sight
from pipeops_agent.caller import Caller, Grant
from pipeops_agent.cluster.reviews import LIFETIME
from pipeops_agent.realtime import Entry, Missed
from pipeops_agent.web.access import RefusingSight
from pipeops_agent.web.replies import Refusal
from pipeops_agent.web.view import HOLDS, MAX_PLACES, View
from tests.access.test_kubernetes import KubernetesCase, jwt
from tests.cluster.fakeapi import Fault

ANNA = Caller(
    subject="kubernetes:anna",
    scopes=frozenset({Grant("read")}),
    origin="10.0.0.7",
    kubernetes_token=jwt(),
)


class ViewTests(KubernetesCase):
    """What anna sees, who may list pods in C{shop}, and services everywhere."""

    def setUp(self) -> None:
        super().setUp()
        self.rights = {("anna", "shop", "list pods"), ("anna", "", "list services")}
        self.missed: list[Missed] = []
        self.gone: list[Refusal] = []
        sight = RefusingSight(Sight(self.reviews))
        self.view = View(self.clock, sight, lambda: ANNA, self.gone.append)
        self.encode = self.view.narrow(lambda entry: entry.text, self.missed.append)
        self.seq = 0
        self.result(self.view.look())

    def tell(self, *keys: str, channel: str = "cluster", left_out: dict[str, int] | None = None) -> Any:
        """Changes of these (C{pods shop/web}); what is left of them, or None."""
        changes = [{"kind": kind, "key": name, "gone": True} for kind, name in map(str.split, keys)]
        data = {"changes": changes, "left_out": left_out or {}}
        told = self.say(channel, "changes", data)
        if told is None:
            return None
        self.assertEqual({**told, "data": None}, {"seq": self.seq, "event": "changes", "data": None})
        return [f"{change['kind']} {change['key']}" for change in told["data"]["changes"]]

    def say(self, channel: str, event: str, data: Any) -> Any:
        self.seq += 1
        text = msgspec.json.encode({"seq": self.seq, "event": event, "data": data})
        told = self.encode(Entry(self.seq, channel, b'""', text))
        self.advance(0)
        return msgspec.json.decode(told) if told else None

    def learned(self) -> Iterable[tuple[int, int, int]]:
        """What the client is told it has lost."""
        missed, self.missed = self.missed, []
        return [(each.count, each.first, each.last) for each in missed]

    def test_whole(self) -> None:
        """What may be listed everywhere is there from the beginning, wherever it is."""
        self.assertEqual(self.tell("services web/a", "services new/b"), ["services web/a", "services new/b"])
        self.assertEqual(self.learned(), [])

    def test_some(self) -> None:
        """Of other kinds, those in the namespaces in which it may list them."""
        told = self.tell("pods shop/a", "pods web/b", "services web/c")
        self.assertEqual(told, ["pods shop/a", "services web/c"])
        self.assertIsNone(self.tell("pods web/b"))
        self.assertEqual(self.learned(), [])

    def test_held_back(self) -> None:
        """Until it is known whether something is seen it is not; then the client is told what it has lost."""
        self.server.faults.append(Fault(code=429, headers={"Retry-After": "1"}, times=2))
        self.assertIsNone(self.tell("pods shop/a"))
        self.assertIsNone(self.tell("pods shop/a", "pods web/b"))
        self.assertEqual(self.tell("services web/c", "pods web/b"), ["services web/c"])
        self.advance(10)
        self.assertEqual(self.learned(), [(2, 1, 2)])
        self.assertEqual(self.tell("pods shop/a", "pods web/b"), ["pods shop/a"])

    def test_without_a_namespace(self) -> None:
        """What has no namespace is for those who may list it, and is not asked about in any."""
        asked = len(self.asked)
        self.assertIsNone(self.tell("nodes a", "namespaces shop"))
        self.assertEqual(len(self.asked), asked)

    def test_other_events(self) -> None:
        """What is no change of objects is everybody's."""
        self.assertEqual(self.say("cluster", "reached", {"x": 1})["data"], {"x": 1})
        self.assertEqual(self.say("health", "changes", {"y": 2})["data"], {"y": 2})

    def test_left_out(self) -> None:
        """How many more changed is told of what is seen whole alone."""
        left_out = {"pods": 7, "services": 8}
        changes = {"changes": [], "left_out": left_out}
        told = self.say("cluster", "changes", changes)["data"]
        self.assertEqual(told, {"changes": [], "left_out": {"services": 8}})
        self.assertIsNone(self.say("cluster", "changes", {"changes": [], "left_out": {"pods": 7}}))

    def test_kubernetes_events(self) -> None:
        """Kubernetes' own events are a kind like any other."""
        self.rights.add(("anna", "shop", "list events"))
        self.assertEqual(self.tell("events shop/a", "events web/b", channel="events"), ["events shop/a"])

    def test_taken_away(self) -> None:
        """A right that is taken away is gone when it is looked at again."""
        self.assertEqual(self.tell("pods shop/a"), ["pods shop/a"])
        self.rights.clear()
        self.advance(LIFETIME)
        self.result(self.view.look())
        self.assertIsNone(self.tell("pods shop/a", "services web/b"))

    def test_granted_later(self) -> None:
        """One that is granted later counts after a minute."""
        self.assertIsNone(self.tell("pods web/a"))
        self.rights.add(("anna", "web", "list pods"))
        self.advance(HOLDS / 2)
        self.result(self.view.look())
        self.assertIsNone(self.tell("pods web/a"))
        self.advance(HOLDS / 2)
        self.result(self.view.look())
        self.assertEqual(self.tell("pods web/a"), ["pods web/a"])

    def test_bounded(self) -> None:
        """Namespaces without end do not make the agent ask without end."""
        asked = len(self.asked)
        for number in range(MAX_PLACES + 50):
            self.tell(f"pods n{number}/a")
        self.assertEqual(len(self.asked) - asked, MAX_PLACES)

    def test_cluster_away(self) -> None:
        """Where the cluster can't be asked, the client has to go."""
        self.server.faults.append(Fault(times=100))
        self.tell("pods new/a")
        self.advance(60)
        self.assertEqual([refusal.code for refusal in self.gone], [503])

    def test_gone(self) -> None:
        """Who has gone is told nothing any more."""
        self.server.faults.append(Fault(hang=True))
        self.assertIsNone(self.tell("pods shop/a"))
        self.successResultOf(self.view.stop())
        self.advance(60)
        self.assertEqual((self.missed, self.gone), ([], []))
