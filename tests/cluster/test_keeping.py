"""Tests of L{pipeops_agent.cluster.keeping}: which lists are kept, by the owner's rules and by rights."""

from __future__ import annotations

from typing import Any

from pipeops_agent.cluster.inventory import Inventory
from pipeops_agent.cluster.keeping import InventoryKeeper
from pipeops_agent.cluster.reflector import DENIED_RETRY
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.settings.model import KubernetesSettings
from tests.cluster.case import FakeApiCase

NAMESPACED = 8
"""Kinds that have namespaces; two have none."""


class KeepingCase(FakeApiCase):
    """A keeper for each test, stopped at its end."""

    def setUp(self) -> None:
        super().setUp()
        self.inventory = Inventory()
        self.keepers: list[InventoryKeeper] = []
        for namespace in ("shop", "bank", "agents"):
            self.storage.create("namespaces", "", {"metadata": {"name": namespace}})
            self.pod("web", namespace)

    def keep(self, scope: Scope | None = None, **settings: Any) -> InventoryKeeper:
        keeper = InventoryKeeper(
            self.clock,
            self.api,
            self.inventory,
            scope or Scope(),
            KubernetesSettings(**settings),
            home="agents",
            wall=self.wall,
        )
        self.keepers.append(keeper)
        keeper.startService()
        self.advance(1)
        return keeper

    def tearDown(self) -> None:
        for keeper in self.keepers:
            if keeper.running:
                self.successResultOf(keeper.stopService())
        super().tearDown()

    def keys(self, kind: str) -> list[str]:
        """What is kept of a kind."""
        return sorted(each.key for each in self.inventory[kind])

    def places(self, kind: str) -> set[str | None]:
        """The namespaces in which lists of a kind were asked for; None: all at once."""
        return {namespace for verb, resource, namespace in self.server.seen if resource == kind}

    def states(self, kind: str) -> dict[str | None, str]:
        return {place: status.state for place, status in self.inventory[kind].statuses.items()}


class ScopeTests(KeepingCase):
    """The owner's rules."""

    def test_everything(self) -> None:
        """Without rules one list of each kind has all namespaces."""
        self.keep()
        self.assertEqual(self.keys("pods"), ["agents/web", "bank/web", "shop/web"])
        self.assertEqual(self.places("pods"), {None})
        self.assertEqual(self.states("pods"), {None: "live"})

    def test_allowed(self) -> None:
        """Only the allowed namespaces are asked for, each for itself; of others not even the name is kept."""
        self.keep(Scope(namespaces=frozenset({"shop", "agents"})))
        self.assertEqual(self.keys("pods"), ["agents/web", "shop/web"])
        self.assertEqual(self.places("pods"), {"shop", "agents"})
        self.assertEqual(self.keys("namespaces"), ["agents", "shop"])

    def test_denied(self) -> None:
        """Of a denied namespace nothing is kept, what comes later neither."""
        self.keep(Scope(denied_namespaces=frozenset({"bank"})))
        self.pod("late", "bank")
        self.pod("late", "shop")
        self.advance(1)
        self.assertEqual(self.keys("pods"), ["agents/web", "shop/late", "shop/web"])
        self.assertEqual(self.keys("namespaces"), ["agents", "shop"])

    def test_denied_goes_before_allowed(self) -> None:
        """A namespace that is both is not asked for."""
        self.keep(Scope(namespaces=frozenset({"shop", "bank"}), denied_namespaces=frozenset({"bank"})))
        self.assertEqual(self.places("pods"), {"shop"})

    def test_denied_kind(self) -> None:
        """A kind that is out of reach is not asked for."""
        self.keep(Scope(denied_kinds=frozenset({"pods"})))
        self.assertEqual((self.places("pods"), self.states("pods")), (set(), {}))
        self.assertEqual(self.states("nodes"), {None: "live"})

    def test_denied_verb(self) -> None:
        """Neither is anything that may not be listed, or watched."""
        for verb in ("list", "watch"):
            self.keep(Scope(denied_verbs=frozenset({verb})))
        self.assertEqual((self.server.seen, self.states("pods")), ([], {}))

    def test_labels(self) -> None:
        """The label selector selects pods and workloads, not nodes."""
        self.storage.create("nodes", "", {"metadata": {"name": "n"}})
        self.pod("db", "shop")
        self.keep(labels="app=db")
        self.assertEqual((self.keys("pods"), self.keys("nodes")), (["shop/db"], ["n"]))


class RightsTests(KeepingCase):
    """Rights in some namespaces only."""

    def setUp(self) -> None:
        super().setUp()
        self.everywhere = False
        self.server.allowed = lambda asked: (
            self.everywhere or not asked.resource.namespaced or asked.namespace == "agents"
        )

    def test_home_alone(self) -> None:
        """Where all namespaces are denied, the agent's own is read; it costs no error a minute."""
        self.keep()
        self.assertEqual(self.keys("pods"), ["agents/web"])
        self.assertEqual(self.states("pods"), {None: "denied", "agents": "live"})
        self.observed.clear()
        self.advance(DENIED_RETRY - 10, step=5)
        self.assertEqual([call for call in self.observed if call[2] == 403], [])
        self.pod("late", "agents")
        self.advance(1)
        self.assertEqual(self.keys("pods"), ["agents/late", "agents/web"])

    def test_granted_later(self) -> None:
        """With the right for all, one list has all again, and nothing is asked twice."""
        self.keep()
        self.everywhere = True
        self.advance(DENIED_RETRY + 2, step=1)
        self.assertEqual(self.keys("pods"), ["agents/web", "bank/web", "shop/web"])
        self.assertEqual(self.states("pods"), {None: "live"})
        self.assertEqual(len(self.server.watches), NAMESPACED + 2)

    def test_taken_away(self) -> None:
        """What may not be read any more is not shown any more; the agent's own namespace still is."""
        self.everywhere = True
        self.keep()
        self.assertEqual(len(self.keys("pods")), 3)
        self.everywhere = False
        self.server.end_watches()
        self.until(lambda: self.states("pods").get("agents") == "live", 10)
        self.assertEqual(self.keys("pods"), ["agents/web"])

    def test_home_out_of_reach(self) -> None:
        """The agent's own namespace is not read where the owner denies it."""
        self.keep(Scope(denied_namespaces=frozenset({"agents"})))
        self.assertEqual((self.places("pods"), self.keys("pods")), ({None}, []))


class EndTests(KeepingCase):
    """Ending and beginning again."""

    def test_forgets(self) -> None:
        """A keeper that has stopped leaves nothing: no objects, states, watches; the next one starts anew."""
        keeper = self.keep()
        counts = dict(keeper.watches())
        self.assertEqual(counts["pods"], 1)
        self.successResultOf(keeper.stopService())
        self.flush()
        self.assertEqual((self.keys("pods"), self.states("pods"), self.server.watches), ([], {}, []))
        self.assertEqual(dict(keeper.watches()), counts)
        self.keep()
        self.assertEqual(len(self.keys("pods")), 3)
