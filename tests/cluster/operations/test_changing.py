"""Tests of reading, patch, scale, restart and delete."""

from __future__ import annotations

import copy
from typing import Any

from twisted.web.server import Request

from pipeops_agent.cluster.discovery import NotServed
from pipeops_agent.cluster.errors import StatusError
from pipeops_agent.cluster.operations import BadRequest, OutOfTime
from pipeops_agent.cluster.operations.changing import MAX_REPLICAS, RESTARTED_AT
from pipeops_agent.cluster.operations.reading import MAX_OBJECTS
from pipeops_agent.cluster.scope import OutOfReach, Scope
from tests.cluster.fakeapi import Asked, FakeApi
from tests.cluster.fakeapi.operating import answer
from tests.cluster.operations.case import OperationCase


def names(found: Any) -> list[str]:
    """The names of what was read."""
    return [item["metadata"]["name"] for item in found.items]


class ReadTests(OperationCase):
    """C{get_resources}."""

    def setUp(self) -> None:
        super().setUp()
        for namespace, name in (("bank", "a"), ("lab", "b"), ("shop", "c"), ("shop", "d")):
            self.pod(name, namespace)

    def test_one(self) -> None:
        """By any name of its kind, without what only the server has use for."""
        self.pod("e", metadata={"name": "e", "managedFields": [{"manager": "x"}]})
        found = self.done("get_resources", "po shop/e")
        self.assertEqual(names(found), ["e"])
        self.assertNotIn("managedFields", found.items[0]["metadata"])

    def test_list(self) -> None:
        """Of a namespace, of all; by labels and fields."""
        self.assertEqual(names(self.done("get_resources", "pods shop/")), ["c", "d"])
        self.assertEqual(names(self.done("get_resources", "pods")), ["a", "b", "c", "d"])
        self.assertEqual(names(self.done("get_resources", "pods", labels="app=d")), ["d"])
        self.assertEqual(names(self.done("get_resources", "pods", fields="metadata.name=a")), ["a"])

    def test_pages(self) -> None:
        """A page at a time."""
        first = self.done("get_resources", "pods", limit=3)
        self.assertEqual((names(first), first.remaining), (["a", "b", "c"], 1))
        last = self.done("get_resources", "pods", limit=3, more={"continue": first.continue_})
        self.assertEqual((names(last), last.continue_), (["d"], ""))

    def test_some_namespaces(self) -> None:
        """A list of everything goes through those within reach, page by page, and shows no other."""
        scope = Scope(namespaces=frozenset({"shop", "bank", "lab"}), denied_namespaces=frozenset({"lab"}))
        seen, token = [], ""
        for _ in range(5):
            page = self.done("get_resources", "pods", scope=scope, limit=1, more={"continue": token})
            seen += names(page)
            token = page.continue_
            if not token:
                break
        self.assertEqual(seen, ["a", "c", "d"])
        self.assertNotIn(("list", "pods", None), self.server.seen)
        for token in ("lab/x", "nonsense", "../x"):
            self.failure(
                self.command("get_resources", "pods", scope=scope, more={"continue": token}), BadRequest
            )

    def test_none_within_reach(self) -> None:
        """All that are named are denied."""
        scope = Scope(namespaces=frozenset({"shop"}), denied_namespaces=frozenset({"shop"}))
        self.assertEqual(self.done("get_resources", "pods", scope=scope).items, [])

    def test_denied_namespace(self) -> None:
        """What is in it is left out; asked for by name it is refused."""
        for name in ("shop", "bank"):
            self.storage.create("namespaces", "", {"metadata": {"name": name}})
        scope = Scope(denied_namespaces=frozenset({"bank"}))
        self.assertEqual(names(self.done("get_resources", "pods", scope=scope)), ["b", "c", "d"])
        self.assertEqual(names(self.done("get_resources", "namespaces", scope=scope)), ["shop"])
        for target in ("pods bank/a", "pods bank/", "ns bank"):
            self.failure(self.command("get_resources", target, scope=scope), OutOfReach)

    def test_denied(self) -> None:
        """By its own name, and by the API's verbs."""
        for verb, target in (
            ("get_resources", "pods shop/b"),
            ("get-resources", "pods"),
            ("get", "pods shop/b"),
            ("list", "pods"),
        ):
            scope = Scope(denied_verbs=frozenset({verb}))
            self.failure(self.command("get_resources", target, scope=scope), OutOfReach)
        self.assertNotIn("pods", [resource for _, resource, _ in self.server.seen])

    def test_own_objects(self) -> None:
        """The agent's state is not shown to those who act with its rights; to others as RBAC says."""
        for name in ("pipeops-agent-state", "other"):
            self.storage.create("secrets", "pipeops-system", {"metadata": {"name": name}})
        self.assertEqual(names(self.done("get_resources", "secrets")), ["other"])
        self.assertEqual(names(self.done("get_resources", "secrets pipeops-system/")), ["other"])
        target = "secrets pipeops-system/pipeops-agent-state"
        self.failure(self.command("get_resources", target), OutOfReach)
        self.assertEqual(names(self.done("get_resources", target, caller=self.own)), ["pipeops-agent-state"])

    def test_bad(self) -> None:
        """Each has its sentence."""
        for target, args, words in (
            ("", {}, "the target has no type"),
            ("nodes shop/", {}, "nodes have no namespace"),
            ("pods a/b/c", {}, "a namespace can't be 'a/b'"),
            ("pods ../x", {}, "a namespace can't be '..'"),
            ("pods x", {}, "the target has no namespace"),
            ("pods shop/c", {"labels": "a=b"}, "selectors are for lists"),
            ("pods", {"limit": 0}, "limit"),
            ("pods", {"limit": MAX_OBJECTS + 1}, "limit"),
            ("pods", {"limit": "5"}, "limit"),
            ("pods", {"label": "a=b"}, "unknown field `label`"),
        ):
            error = self.failure(self.command("get_resources", target, **args), BadRequest)
            self.assertIn(words, error.sentence, target)
        self.failure(self.command("get_resources", "potatoes"), NotServed)
        self.failure(self.command("get_resources", "pods shop/none"), StatusError)


class PatchTests(OperationCase):
    """C{patch}."""

    def setUp(self) -> None:
        super().setUp()
        self.deployment()

    def test_kinds(self) -> None:
        """Merge and strategic patches are objects, JSON patches lists."""
        changed = self.done("patch", "deploy shop/web", patch={"spec": {"replicas": 4}})
        self.assertEqual(changed.item["spec"]["replicas"], 4)
        changed = self.done("patch", "deploy shop/web", kind="strategic", patch={"spec": {"paused": True}})
        self.assertTrue(changed.item["spec"]["paused"])
        types: list[str | None] = []

        def seen(server: FakeApi, asked: Asked, request: Request) -> Any:
            types.append(request.getHeader("content-type"))
            return answer(request, {})

        self.server.handlers["deployments.apps/status"] = seen
        self.done("patch", "deploy shop/web", kind="json", patch=[{"op": "test"}], subresource="status")
        self.assertEqual(types, ["application/json-patch+json"])
        for kind, patch in (("json", {}), ("merge", []), ("strategic", [{}])):
            self.failure(self.command("patch", "deploy shop/web", kind=kind, patch=patch), BadRequest)

    def test_dry_run(self) -> None:
        """What would be is shown, and is not."""
        changed = self.done("patch", "deploy shop/web", patch={"spec": {"replicas": 4}}, dry_run=True)
        self.assertEqual((changed.item["spec"]["replicas"], changed.dry_run), (4, True))
        self.assertEqual(self.storage.get("deployments.apps", "shop", "web")["spec"]["replicas"], 1)

    def test_subresource(self) -> None:
        """Only some; not those that start programs."""
        for subresource in ("ephemeralcontainers", "exec", "eviction"):
            self.failure(self.command("patch", "pods shop/x", patch={}, subresource=subresource), BadRequest)
        self.failure(self.command("patch", "secrets shop/x", patch={}, subresource="scale"), BadRequest)
        scope = Scope(denied_verbs=frozenset({"scale"}))
        self.failure(
            self.command("patch", "deploy shop/web", patch={}, subresource="scale", scope=scope), OutOfReach
        )


class ScaleTests(OperationCase):
    """C{scale}."""

    def test_scale(self) -> None:
        """By the subresource alone, so that the right to that is enough."""
        self.deployment()
        scaled = self.done("scale", "deploy shop/web", replicas=5)
        self.assertEqual(scaled.replicas, 5)
        self.assertEqual(self.changes(), [("patch", "deployments.apps/scale", "shop")])
        self.assertEqual(self.storage.get("deployments.apps", "shop", "web")["spec"]["replicas"], 5)

    def test_bad(self) -> None:
        """Numbers that make no sense, and kinds that have none."""
        for replicas in (-1, MAX_REPLICAS + 1, 1.5, "3", None):
            self.failure(self.command("scale", "deploy shop/web", replicas=replicas), BadRequest)
        self.failure(self.command("scale", "deploy shop/web"), BadRequest)
        error = self.failure(self.command("scale", "daemonsets shop/x", replicas=1), BadRequest)
        self.assertIn("daemonsets.apps can't be scaled", error.sentence)
        self.assertEqual(self.changes(), [])

    def test_denied(self) -> None:
        """By its own name, and by the API's verb."""
        for verb in ("scale", "patch"):
            scope = Scope(denied_verbs=frozenset({verb}))
            self.failure(self.command("scale", "deploy shop/web", replicas=1, scope=scope), OutOfReach)
        self.failure(
            self.command("scale", "deploy shop/web", replicas=1, scope=Scope(read_only=True)), OutOfReach
        )


class RestartTests(OperationCase):
    """C{restart}."""

    def test_restart(self) -> None:
        """The template's annotation is the time of day."""
        self.deployment()
        restarted = self.done("restart", "deploy shop/web")
        self.assertEqual(restarted.restarted_at, "2026-03-04T12:00:00Z")
        found = self.storage.get("deployments.apps", "shop", "web")
        self.assertEqual(
            found["spec"]["template"]["metadata"]["annotations"], {RESTARTED_AT: "2026-03-04T12:00:00Z"}
        )

    def test_refused(self) -> None:
        """One that is paused, or rolls out nothing."""
        self.deployment(spec={"paused": True})
        self.assertIn("paused", self.failure(self.command("restart", "deploy shop/web"), BadRequest).sentence)
        self.failure(self.command("restart", "pods shop/web"), BadRequest)
        self.failure(self.command("restart", "deploy shop/web", when="now"), BadRequest)
        self.assertEqual(self.changes(), [])


class DeleteTests(OperationCase):
    """C{delete}."""

    def test_delete(self) -> None:
        """With options as asked for."""
        sent: list[Any] = []
        self.pod("a")

        def seen(server: FakeApi, asked: Asked, request: Request) -> Any:
            assert request.content is not None
            sent.append(request.content.read())
            return answer(request, {})

        self.done("delete", "pod shop/a")
        self.assertEqual(self.storage.all("pods", None), [])
        self.server.handlers["pods"] = seen
        self.done(
            "delete", "pod shop/a", propagation="Orphan", grace_seconds=3, uid="u", resource_version="7"
        )
        self.assertEqual(
            sent,
            [
                b'{"propagationPolicy":"Orphan","preconditions":{"uid":"u","resourceVersion":"7"},'
                b'"gracePeriodSeconds":3}'
            ],
        )

    def test_missing(self) -> None:
        """An error, unless it is all the same."""
        self.assertTrue(self.failure(self.command("delete", "pod shop/a"), StatusError).not_found)
        for wait in (True, False):
            found = self.done("delete", "pod shop/a", missing="ignore", wait=wait)
            self.assertEqual((found.found, found.gone), (False, True))

    def test_precondition(self) -> None:
        """Another one of its name stays."""
        self.pod("a")
        self.assertTrue(self.failure(self.command("delete", "pod shop/a", uid="old"), StatusError).conflict)
        self.assertEqual(len(self.storage.all("pods", None)), 1)

    def test_dry_run(self) -> None:
        """Nothing is changed, nor waited for."""
        self.pod("a")
        found = self.done("delete", "pod shop/a", dry_run=True, wait=True)
        self.assertEqual((found.found, found.gone, found.dry_run), (True, False, True))
        self.assertEqual(len(self.storage.all("pods", None)), 1)

    def lingering(self) -> None:
        """Let there be a pod that stays after its deletion, held by a finalizer."""
        self.pod("a", metadata={"name": "a", "finalizers": ["example.com/keep"]})

    def let_go(self) -> None:
        """Take the finalizer away, as its controller does."""
        found = copy.deepcopy(self.storage.get("pods", "shop", "a"))
        del found["metadata"]["finalizers"]
        self.storage.replace("pods", "shop", "a", found)

    def test_wait(self) -> None:
        """Until it is gone; what holds it is told."""
        self.lingering()
        running = self.begin(self.command("delete", "pod shop/a", wait=True))
        self.advance(3)
        self.assertNoResult(running)
        self.assertIn("pods shop/a: still there, held by its finalizers: example.com/keep", self.said())
        self.let_go()
        self.advance(2)
        found: Any = self.successResultOf(running)
        self.assertTrue(found.gone)

    def test_wait_for_another(self) -> None:
        """A new one of its name is not the one that was deleted."""
        self.lingering()
        running = self.begin(self.command("delete", "pod shop/a", wait=True))
        self.let_go()
        self.pod("a")
        self.advance(2)
        self.successResultOf(running)

    def test_wait_too_long(self) -> None:
        """The error says what it waits for."""
        self.lingering()
        error = self.failure(self.command("delete", "pod shop/a", wait=True, timeout=5.0), OutOfTime, 6)
        self.assertIn(
            "delete pod shop/a: not done within 5 s; last: pods shop/a: still there", error.sentence
        )

    def test_no_collections(self) -> None:
        """One object at a time: a name that was forgotten does not empty a namespace."""
        self.failure(self.command("delete", "pods shop/"), BadRequest)
        self.assertEqual(self.changes(), [])

    def test_namespace(self) -> None:
        """A namespace out of reach can't be deleted."""
        scope = Scope(namespaces=frozenset({"shop"}))
        self.failure(self.command("delete", "ns bank", scope=scope), OutOfReach)


class FrontTests(OperationCase):
    """What is no command."""

    def test_types(self) -> None:
        """The specification's, but for those that are streams of their own."""
        expected = (
            "get_resources create apply deploy patch scale restart delete rollout cordon uncordon drain"
        )
        self.assertEqual(self.operations().types, set(expected.split()))

    def test_unknown(self) -> None:
        """Each is refused before anything is asked of the server."""
        self.assertIn("no operation 'explode'", self.failure(self.command("explode"), BadRequest).sentence)
        self.assertEqual(self.server.seen, [])
