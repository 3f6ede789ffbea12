"""Tests for L{pipeops_agent.web.api.lists}: pages, what is in them, and what happens between two."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.caller import Caller, Grant
from pipeops_agent.cluster.inventory import Inventory
from pipeops_agent.cluster.objects import KubeEvent, Namespace, Node, Pod
from pipeops_agent.cluster.resources import Resource
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.events import EventHub
from pipeops_agent.status import KindStatus, StatusBoard
from pipeops_agent.web.api.cursor import MAX_LENGTH, read_cursor, write_cursor
from pipeops_agent.web.api.lists import LISTED, MAX_LIMIT, ClusterLists, NamespacedQuery, Sight, SightByScope
from pipeops_agent.web.replies import Refusal
from tests.web.api.case import ApiCase, Cluster
from tests.web.harness import START

READER = Caller(subject="a reader", scopes=frozenset({Grant("read")}), origin="10.0.0.7")
PODS = next(each for each in LISTED if each.name == "pods")


def pod(key: str, version: str = "1") -> Pod:
    namespace, _, name = key.rpartition("/")
    return Pod(namespace=namespace, name=name, uid=key, resource_version=version)


def event(name: str, minutes: int | None, version: str = "1") -> KubeEvent:
    seen = None if minutes is None else START + timedelta(minutes=minutes)
    return KubeEvent(namespace="shop", name=name, uid=name, resource_version=version, last_seen=seen)


def names(answer: Any) -> list[str]:
    return [each["name"] for each in answer["items"]]


class ListCase(ApiCase):
    def put(self, *keys: str) -> None:
        for key in keys:
            self.cluster.inventory["pods"].put(pod(key))

    def page(self, query: str = "", kind: str = "pods") -> Any:
        answer = self.get(f"/api/cluster/{kind}?{query}")
        self.assertEqual(answer.code, 200, answer.body)
        return answer.json

    def next_page(self, answer: Any, query: str = "", kind: str = "pods") -> Any:
        return self.page(f"continue={quote(answer['continue'])}&{query}", kind)


class PageTests(ListCase):
    """What a page holds."""

    def test_whole(self) -> None:
        """A short list is one page, by namespace and name."""
        self.put("web/a", "shop/b", "shop/a")
        answer = self.page()
        self.assertEqual([each["uid"] for each in answer["items"]], ["shop/a", "shop/b", "web/a"])
        self.assertIsNone(answer["continue"])

    def test_fields(self) -> None:
        """An object has all that is known of it."""
        self.cluster.inventory["nodes"].put(
            Node(name="node-1", uid="u", resource_version="7", ready=True, schedulable=True, created=START)
        )
        (node,) = self.page(kind="nodes")["items"]
        self.assertEqual((node["ready"], node["created"]), (True, "2024-01-15T10:30:00Z"))
        self.assertEqual(set(node), set(Node.__struct_fields__))

    def test_pages(self) -> None:
        """Page by page nothing is missing and nothing is twice; the last one says so."""
        self.put(*(f"shop/{number:02}" for number in range(7)))
        first = self.page("limit=3")
        self.assertEqual(names(first), ["00", "01", "02"])
        second = self.next_page(first, "limit=3")
        third = self.next_page(second, "limit=3")
        self.assertEqual((names(second), names(third)), (["03", "04", "05"], ["06"]))
        self.assertIsNone(third["continue"])

    def test_exactly_full(self) -> None:
        """A page that is just full is the last: nobody is sent for an empty one."""
        self.put("shop/a", "shop/b")
        self.assertIsNone(self.page("limit=2")["continue"])

    def test_another_limit(self) -> None:
        """The next page may be longer or shorter."""
        self.put("shop/a", "shop/b", "shop/c")
        self.assertEqual(names(self.next_page(self.page("limit=1"), "limit=5")), ["b", "c"])

    def test_namespace(self) -> None:
        """One namespace alone, page by page, and not those that begin like it."""
        self.put("shop/a", "shop/b", "shop-2/c", "web/d")
        first = self.page("namespace=shop&limit=1")
        self.assertEqual(names(first), ["a"])
        self.assertEqual(names(self.next_page(first, "namespace=shop")), ["b"])
        self.assertEqual(names(self.page("namespace=nowhere")), [])

    def test_events(self) -> None:
        """The newest first; those without a time last."""
        for each in (event("old", -50), event("new", -1), event("when", None), event("middle", -20)):
            self.cluster.inventory["events"].put(each)
        first = self.page("limit=2", "events")
        self.assertEqual(names(first), ["new", "middle"])
        self.assertEqual(names(self.next_page(first, "", "events")), ["old", "when"])

    def test_state(self) -> None:
        """What the list is worth: nothing is watched, then the state of its kind."""
        self.board.set_cluster(configured=True, message="looking for the cluster")
        self.assertEqual(
            self.page()["list"],
            {"state": "unwatched", "since": None, "synced": None, "message": "looking for the cluster"},
        )
        self.board.set_cluster(reachable=True)
        self.assertIn("registered and active", self.page()["list"]["message"])
        self.board.set_cluster(
            lists=(
                KindStatus(kind="nodes", state="live", since=START),
                KindStatus(kind="pods", state="denied", since=START, message="pods is forbidden"),
            )
        )
        self.assertEqual(
            self.page()["list"],
            {
                "state": "denied",
                "since": "2024-01-15T10:30:00Z",
                "synced": None,
                "message": "pods is forbidden",
            },
        )

    def test_compressed(self) -> None:
        """A large page goes compressed to who takes that."""
        self.put(*(f"shop/{number:03}" for number in range(200)))
        plain = self.get("/api/cluster/pods")
        packed = self.get("/api/cluster/pods", Accept_Encoding="gzip")
        self.assertLess(len(packed.body), len(plain.body) // 8)


class BetweenPagesTests(ListCase):
    """What the documentation promises of changes between two pages."""

    def test_made(self) -> None:
        """What is made ahead is given, what is made behind is not."""
        self.put("shop/b", "shop/d")
        first = self.page("limit=1")
        self.put("shop/a", "shop/c")
        self.assertEqual(names(self.next_page(first)), ["c", "d"])

    def test_last_one_deleted(self) -> None:
        """The object that a page ended with may go: the next page begins behind its place."""
        self.put("shop/a", "shop/b", "shop/c")
        first = self.page("limit=2")
        self.cluster.inventory["pods"].drop("shop/b")
        self.assertEqual(names(self.next_page(first)), ["c"])

    def test_all_deleted(self) -> None:
        """Where nothing is left the page is empty, and the last."""
        self.put("shop/a", "shop/b")
        first = self.page("limit=1")
        self.cluster.inventory["pods"].drop("shop/b")
        second = self.next_page(first)
        self.assertEqual((names(second), second["continue"]), ([], None))

    def test_event_again(self) -> None:
        """An event that happens again is not given twice: it has moved to the front."""
        for each in (event("a", -1), event("b", -2), event("c", -3)):
            self.cluster.inventory["events"].put(each)
        first = self.page("limit=1", "events")
        self.cluster.inventory["events"].put(event("a", 5, "2"))
        self.cluster.inventory["events"].put(event("c", 5, "2"))
        self.assertEqual(names(self.next_page(first, "", "events")), ["b"])

    def test_started_anew(self) -> None:
        """A cursor is good after a restart of the agent: nothing is kept for it."""
        self.put("shop/a", "shop/b")
        first = self.page("limit=1")
        self.build()
        self.put("shop/a", "shop/b")
        self.assertEqual(names(self.next_page(first)), ["b"])

    def test_rules_changed(self) -> None:
        """The owner's rules hold for each page anew."""
        self.put("shop/a", "shop/b", "web/c")
        first = self.page("limit=1")
        self.scope = Scope(denied_namespaces=frozenset({"web"}))
        self.assertEqual(names(self.next_page(first)), ["b"])


class Hiding:
    """Hides some namespaces, or what has none, from everybody."""

    def __init__(self, case: RightsTests) -> None:
        self._case = case

    async def namespaces(
        self, caller: Caller, verb: str, resource: Resource, known: Collection[str]
    ) -> frozenset[str] | None:
        self._case.known = set(known)
        return frozenset(known) - self._case.hidden if self._case.hidden else None


class RightsTests(ListCase):
    """Who sees what."""

    def setUp(self) -> None:
        self.hidden: set[str] = set()
        self.known: set[str] = set()
        super().setUp()
        self.put("shop/a", "web/b", "secret/c")

    def sight(self) -> Sight:
        return Hiding(self)

    def test_owners_namespaces(self) -> None:
        """What is out of reach is in no list, and asking for it is refused with the setting's name."""
        for scope in (
            Scope(denied_namespaces=frozenset({"secret"})),
            Scope(namespaces=frozenset({"shop", "web"})),
        ):
            self.scope = scope
            answer = self.page()
            self.assertEqual(names(answer), ["a", "b"])
            self.assertIn("kubernetes.namespaces", self.refused("/api/cluster/pods?namespace=secret", 403))

    def test_owners_kinds_and_verbs(self) -> None:
        """A kind, and listing itself, can be out of reach."""
        for scope, setting in (
            (Scope(denied_kinds=frozenset({"pod"})), "access.deny.kinds"),
            (Scope(denied_verbs=frozenset({"list"})), "access.deny.verbs"),
        ):
            self.scope = scope
            self.assertIn(setting, self.refused("/api/cluster/pods", 403))

    def test_read_only(self) -> None:
        """Reading is what is left where nothing may be changed."""
        self.scope = Scope(read_only=True)
        self.assertEqual(len(names(self.page())), 3)

    def test_caller(self) -> None:
        """A caller sees only the namespaces that are its own; others it can't ask for, nor know of."""
        self.hidden = {"web", "secret"}
        answer = self.page("limit=1")
        self.assertEqual((names(answer), answer["continue"]), (["a"], None))
        self.assertIn("in namespace web", self.refused("/api/cluster/pods?namespace=web", 403))

    def test_namespaces_that_there_are(self) -> None:
        """They are told to who decides: those of the inventory, or where it has none those of the objects."""
        self.page()
        self.assertEqual(self.known, {"shop", "web", "secret"})
        self.cluster.inventory["namespaces"].put(Namespace(name="empty", uid="e", resource_version="1"))
        self.page("namespace=shop")
        self.assertEqual(self.known, {"empty", "shop"})

    def test_by_scope(self) -> None:
        """Without anything else it is the caller's scopes that decide."""
        nobody = Caller(subject="nobody", scopes=frozenset(), origin="10.0.0.7")
        resource = PODS.resource
        for caller, expected in ((READER, None), (nobody, frozenset())):
            asking = SightByScope().namespaces(caller, "list", resource, ["shop"])
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(asking)), expected)

    def test_caller_without_nodes(self) -> None:
        """What has no namespace is seen or refused as a whole."""
        self.hidden = {"nodes"}
        self.assertIn("nodes", self.refused("/api/cluster/nodes", 403))


class BadParameterTests(ListCase):
    """Each mistake: 400, with the parameter and the reason."""

    def test_limit(self) -> None:
        """The least and the most are taken, what is beyond is not."""
        self.page("limit=1")
        self.page(f"limit={MAX_LIMIT}")
        for limit in ("0", str(MAX_LIMIT + 1), "-1", "ten", "", "9" * 30):
            self.assertIn(
                "limit: expected an integer from 1 to 1000", self.refused(f"/api/cluster/pods?limit={limit}")
            )

    def test_namespace(self) -> None:
        """Only what can be the name of a namespace; an empty one is a mistake, and not all of them."""
        for namespace in ("", "Shop", "-shop", "shop-", "a.b", "shop%0A", "a/b", "*", "x" * 64, "%C3%A4"):
            self.assertIn(
                "namespace: expected the name of a namespace",
                self.refused(f"/api/cluster/pods?namespace={namespace}"),
            )

    def test_namespace_of_nodes(self) -> None:
        """Nodes have none."""
        self.assertIn("unknown parameter 'namespace'", self.refused("/api/cluster/nodes?namespace=shop"))

    def test_continue(self) -> None:
        """Only what an answer had, and of the same list."""
        self.put("shop/a", "shop/b")
        cursor = self.page("limit=1")["continue"]
        for bad in (
            cursor[:-3],
            f"{cursor}AA",
            "x",
            "%20",
            "%C3%A4",
            "bnVsbA",
            "W1tbW1tb" * 50,
        ):
            self.assertIn("continue: expected", self.refused(f"/api/cluster/pods?continue={bad}"))
        for query in (f"pods?namespace=shop&continue={cursor}", f"services?continue={cursor}"):
            self.assertIn("of another list", self.refused(f"/api/cluster/{query}"))

    def test_no_such_kind(self) -> None:
        """Other kinds are no paths."""
        self.assertEqual(self.get("/api/cluster/secrets").code, 404)

    def test_no_cluster(self) -> None:
        """An agent without a cluster has no lists."""
        self.cluster.configured = False
        answer = self.get("/api/cluster/pods")
        self.assertEqual((answer.code, answer.json["error"]["code"]), (404, "no_cluster"))


KEYS = [f"{namespace}/{name}" for namespace in ("a", "b", "c") for name in "pqrst"]


class PromiseTests(SynchronousTestCase):
    """The promise of the documentation, for any changes between any pages."""

    def make(self) -> tuple[Inventory, ClusterLists]:
        def wall() -> Any:
            return START

        cluster = Cluster()
        board = StatusBoard(EventHub(wall), wall)
        return cluster.inventory, ClusterLists(cluster, board, Scope)

    @given(
        st.sets(st.sampled_from(KEYS)),
        st.lists(st.dictionaries(st.sampled_from(KEYS), st.booleans()), max_size=20),
        st.lists(st.integers(1, 4), min_size=21, max_size=21),
    )
    def test_once(self, there: set[str], changes: list[dict[str, bool]], limits: list[int]) -> None:
        """What is there throughout is given once; what never was, never; and the pages come to an end."""
        inventory, lists = self.make()
        for key in there:
            inventory["pods"].put(pod(key))
        throughout, ever, given_keys, after = set(there), set(there), [], ""
        for limit, change in zip(limits, [*changes, {}], strict=False):
            query = NamespacedQuery(limit=limit, after=after)
            page = self.successResultOf(Deferred.fromCoroutine(lists.page(READER, PODS, query)))
            given_keys += [item.key for item in page.items]
            after = page.after or ""
            if not after:
                break
            for key, makes in change.items():
                if makes:
                    inventory["pods"].put(pod(key))
                    ever.add(key)
                else:
                    inventory["pods"].drop(key)
                    throughout.discard(key)
        self.assertEqual(len(given_keys), len(set(given_keys)))
        self.assertTrue(ever.issuperset(given_keys))
        if not after:
            self.assertTrue(throughout.issubset(given_keys))


class CursorTests(SynchronousTestCase):
    """Cursors, whatever they hold."""

    def test_longest(self) -> None:
        """The longest names that Kubernetes allows leave room."""
        cursor = write_cursor("deployments", "n" * 63, "f" * 16 + "n" * 63 + "/" + "d" * 253)
        self.assertLess(len(cursor), MAX_LENGTH)

    @given(st.text(max_size=60))
    def test_anything(self, text: str) -> None:
        """Text that nobody has written is refused with 400, or it is a place in this very list."""
        try:
            read_cursor(text, "pods", "")
        except Refusal as refusal:
            self.assertEqual(refusal.reply.code, 400)

    @given(st.text(st.characters(codec="utf-8"), max_size=300))
    def test_round_trip(self, place: str) -> None:
        """A place comes back exactly, and as text that needs no quoting in a URL."""
        cursor = write_cursor("events", "shop", place)
        self.assertEqual(read_cursor(cursor, "events", "shop"), place)
        self.assertEqual(quote(cursor), cursor)
