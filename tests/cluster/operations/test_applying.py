"""Tests of L{pipeops_agent.cluster.operations.applying}: apply and create."""

from __future__ import annotations

from typing import Any

from twisted.web.server import Request

from pipeops_agent.cluster.operations import BadManifest, BadRequest, OutOfTime
from pipeops_agent.cluster.operations.applying import NEW_KIND_PATIENCE
from pipeops_agent.cluster.resources import Resource
from pipeops_agent.cluster.scope import Scope
from tests.cluster.fakeapi import Asked, FakeApi, Fault
from tests.cluster.fakeapi.storage import Refused
from tests.cluster.operations.case import OperationCase

CRDS = Resource(
    group="apiextensions.k8s.io",
    version="v1",
    plural="customresourcedefinitions",
    kind="CustomResourceDefinition",
    namespaced=False,
)
TEAPOTS = Resource(group="example.com", version="v1", plural="teapots", kind="Teapot")
CRD = (
    "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n"
    "metadata: {name: teapots.example.com}\n"
    "spec: {group: example.com, names: {kind: Teapot, plural: teapots}}\n"
)


def secret(name: str, namespace: str = "", **more: Any) -> str:
    """A manifest."""
    place = f", namespace: {namespace}" if namespace else ""
    return f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}{place}}}\nstringData: {more}\n"


def text(*documents: str) -> str:
    """Several of them."""
    return "---\n".join(documents)


class ApplyTests(OperationCase):
    """Server-side apply."""

    def test_one(self) -> None:
        """A new object is created, one that was there applied; the server is asked as it should be."""
        asked: list[dict[str, str]] = []

        def allowed(each: Asked) -> bool:
            asked.append(each.query)
            return True

        self.server.allowed = allowed
        sent = self.done("apply", manifest=secret("a", "shop", k="v"))
        self.assertEqual(
            [(each.object, each.action) for each in sent.objects], [("Secret shop/a", "created")]
        )
        self.assertEqual(asked[-1], {"fieldManager": "pipeops-agent", "fieldValidation": "Strict"})
        again = self.done("deploy", manifest=secret("a", "shop", k="w"), force=True)
        self.assertEqual([each.action for each in again.objects], ["applied"])
        self.assertEqual(asked[-1]["force"], "true")
        self.assertEqual(self.storage.get("secrets", "shop", "a")["stringData"], {"k": "w"})
        self.assertEqual(self.said(), ["Secret shop/a: created", "Secret shop/a: applied"])

    def test_namespace(self) -> None:
        """The command's is that of objects that name none; two different ones are a mistake."""
        self.done("apply", "shop/", manifest=secret("a"))
        self.assertEqual(self.storage.get("secrets", "shop", "a")["metadata"]["namespace"], "shop")
        sent = self.done("apply", "shop/", manifest=secret("b", "bank"))
        self.assertIn("its namespace is bank, the command's shop", sent.error)
        sent = self.done("apply", manifest=secret("c"))
        self.assertIn("document 1 (line 1), Secret c: it names no namespace", sent.error)
        self.assertEqual(len(self.storage.all("secrets", None)), 1)

    def test_no_namespace_where_there_is_none(self) -> None:
        """The command's namespace is not one for a namespace."""
        sent = self.done("apply", "shop/", manifest="apiVersion: v1\nkind: Namespace\nmetadata: {name: a}")
        self.assertTrue(sent.success, sent.error)

    def test_order(self) -> None:
        """A namespace goes before what is in it, wherever it stands."""
        namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: new}\n"
        self.done("apply", manifest=text(secret("a", "new"), namespace))
        self.assertEqual([kind for _, kind, _ in self.changes()], ["namespaces", "secrets"])

    def test_stop(self) -> None:
        """After a failure the rest is skipped, and told of."""
        sent = self.done("apply", manifest=text(secret("a", "shop"), secret("b"), secret("c", "shop")))
        self.assertEqual([each.action for each in sent.objects], ["created", "failed", "skipped"])
        self.assertIn("1 of 3 objects failed: document 2 (line 6)", sent.error)
        self.assertFalse(sent.success)

    def test_continue(self) -> None:
        """Asked to go on, it does; the outcome is still a failure."""
        documents = text(secret("a", "shop"), secret("b"), secret("c", "shop"))
        sent = self.done("apply", manifest=documents, on_error="continue")
        self.assertEqual([each.action for each in sent.objects], ["created", "failed", "created"])
        self.assertFalse(sent.success)
        self.assertEqual(self.progress[-1].done, 3)

    def test_unknown_kind(self) -> None:
        """A kind that the server does not know: where, and which."""
        sent = self.done(
            "apply", manifest=f"{secret('a', 'shop')}---\napiVersion: v1\nkind: Potato\nmetadata: {{name: x}}"
        )
        self.assertIn("document 2 (line 6), Potato x: the server knows no kind 'Potato' in 'v1'", sent.error)

    def test_dry_run_only(self) -> None:
        """Nothing is changed."""
        sent = self.done("apply", manifest=secret("a", "shop"), dry_run="only")
        self.assertEqual([each.action for each in sent.objects], ["passed"])
        self.assertTrue(sent.dry_run)
        self.assertEqual(self.storage.all("secrets", None), [])

    def test_dry_run_first(self) -> None:
        """Where one would fail nothing is changed; each that would is told of."""
        documents = text(secret("a", "shop"), secret("b"), secret("c"))
        sent = self.done("apply", manifest=documents, dry_run="first")
        self.assertEqual([each.action for each in sent.objects], ["passed", "failed", "failed"])
        self.assertIn("nothing was changed", sent.error)
        self.assertEqual(self.storage.all("secrets", None), [])
        sent = self.done("apply", manifest=secret("a", "shop"), dry_run="first")
        self.assertEqual([each.action for each in sent.objects], ["created"])

    def test_conflict(self) -> None:
        """Fields of another manager: the message says what would take them over."""
        status = b'{"kind": "Status", "reason": "Conflict", "message": "Apply failed with 1 conflict: helm"}'
        self.server.faults.append(Fault(path="/api/v1/namespaces/shop", code=409, body=status))
        sent = self.done("apply", manifest=secret("a", "shop"))
        self.assertIn("conflict: helm (409); apply with force", sent.error)

    def test_bad(self) -> None:
        """What is no manifest fails as a whole, before the server is asked."""
        self.failure(self.command("apply", manifest="a: ["), BadManifest)
        self.failure(self.command("apply", manifest=""), BadManifest)
        self.failure(self.command("apply", "pods shop/a", manifest=secret("a")), BadRequest)
        self.failure(self.command("apply"), BadRequest)
        self.failure(self.command("apply", manifest=secret("a"), on_error="maybe"), BadRequest)
        self.assertEqual(self.server.seen, [])

    def test_generate_name(self) -> None:
        """Names that the server makes are for create."""
        manifest = "apiVersion: v1\nkind: Secret\nmetadata: {generateName: a-, namespace: shop}"
        self.assertIn("generateName is for create", self.done("apply", manifest=manifest).error)
        self.assertTrue(self.done("create", manifest=manifest).success)

    def test_managed_fields(self) -> None:
        """What was read from the API can be applied: C{managedFields} are left out, as they must be."""
        manifest = "apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: shop, managedFields: [{}]}"
        self.done("apply", manifest=manifest)
        self.assertNotIn("managedFields", self.storage.get("secrets", "shop", "a")["metadata"])

    def test_reach(self) -> None:
        """Each object is within the owner's rules, or fails; so is the agent's own."""
        documents = text(
            secret("a", "bank"), secret("b", "shop"), secret("pipeops-agent-state", "pipeops-system")
        )
        scope = Scope(denied_namespaces=frozenset({"bank"}))
        sent = self.done("apply", manifest=documents, on_error="continue", scope=scope)
        self.assertEqual([each.action for each in sent.objects], ["failed", "created", "failed"])
        self.assertIn("namespace bank is out of reach", sent.objects[0].error)
        self.assertIn("the agent's own", sent.objects[2].error)
        for verb in ("apply", "deploy", "patch", "create"):
            scope = Scope(denied_verbs=frozenset({verb}))
            self.assertFalse(self.done("apply", manifest=secret("c", "shop"), scope=scope).success, verb)
        namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: bank}\n"
        scope = Scope(namespaces=frozenset({"shop"}))
        self.assertFalse(self.done("apply", manifest=namespace, scope=scope).success)

    def test_own_token(self) -> None:
        """It goes out with the caller's own token; whose rights decide, also about the agent's objects."""
        self.server.users = {"token": "agent", "theirs": "somebody"}
        users: list[str] = []

        def allowed(each: Asked) -> bool:
            users.append(each.user)
            return True

        self.server.allowed = allowed
        manifest = secret("pipeops-agent-state", "pipeops-system")
        self.assertTrue(self.done("apply", manifest=manifest, caller=self.own).success)
        self.assertEqual(users, ["somebody"])

    def test_cancel(self) -> None:
        """Cancelled in the middle it ends at once; what was sent stays."""
        self.server.faults.append(Fault(path="/api/v1/namespaces/shop/secrets/b", hang=True))
        manifest = text(secret("a", "shop"), secret("b", "shop"))
        running = self.begin(self.command("apply", manifest=manifest))
        self.assertNoResult(running)
        running.cancel()
        self.failureResultOf(running)
        self.assertEqual(len(self.storage.all("secrets", None)), 1)

    def test_out_of_time(self) -> None:
        """The message says what was done last."""
        self.server.faults.append(Fault(path="/api/v1/namespaces/shop/secrets/b", hang=True))
        manifest = text(secret("a", "shop"), secret("b", "shop"))
        error = self.failure(self.command("apply", manifest=manifest, timeout=5.0), OutOfTime, 6)
        self.assertEqual(error.sentence, "apply: not done within 5 s; last: Secret shop/a: created")


class CrdTests(OperationCase):
    """A kind that comes with the text."""

    def setUp(self) -> None:
        super().setUp()
        self.served.add(CRDS)
        self.pot = "apiVersion: example.com/v1\nkind: Teapot\nmetadata: {name: brown, namespace: shop}\n"

    def test_waited_for(self) -> None:
        """Its objects are sent once the server serves it."""
        running = self.begin(self.command("apply", manifest=text(self.pot, CRD)))
        self.advance(2)
        self.assertNoResult(running)
        self.served.add(TEAPOTS)
        self.advance(1)
        sent: Any = self.successResultOf(running)
        self.assertEqual([each.action for each in sent.objects], ["created", "created"])
        self.assertIn("Teapot shop/brown: waiting until the server serves its kind", self.said())

    def test_never_served(self) -> None:
        """That is not waited for without an end."""
        running = self.begin(self.command("apply", manifest=text(self.pot, CRD)))
        self.advance(NEW_KIND_PATIENCE + 2)
        sent: Any = self.successResultOf(running)
        self.assertIn("the server knows no kind 'Teapot'", sent.error)

    def test_not_made(self) -> None:
        """Where the CRD itself fails, its kind is not waited for."""
        self.server.faults.append(
            Fault(path="/apis/apiextensions.k8s.io/v1/customresourcedefinitions/", code=422)
        )
        sent = self.done("apply", manifest=text(self.pot, CRD), on_error="continue")
        self.assertEqual([each.action for each in sent.objects], ["failed", "failed"])

    def test_dry_run(self) -> None:
        """A dry run can't know it; nor what is in a namespace that is not there yet."""

        def missing(server: FakeApi, asked: Asked, request: Request) -> Any:
            raise Refused(404, "NotFound", 'namespaces "new" not found')

        self.server.handlers["secrets"] = missing
        namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: new}\n"
        documents = text(self.pot, CRD, secret("a", "new"), namespace)
        sent = self.done("apply", manifest=documents, dry_run="only")
        self.assertEqual(
            [each.action for each in sent.objects], ["passed", "passed", "unchecked", "unchecked"]
        )
        self.assertTrue(sent.success)
        self.assertFalse(self.done("apply", manifest=secret("a", "other"), dry_run="only").success)


class CreateTests(OperationCase):
    """Objects that are not there yet."""

    def test_create(self) -> None:
        """A second time its name is taken."""
        sent = self.done("create", manifest=secret("a", "shop"))
        self.assertEqual([each.action for each in sent.objects], ["created"])
        sent = self.done("create", manifest=secret("a", "shop"))
        self.assertIn("already exists (409)", sent.error)
        self.assertNotIn("force", sent.error)

    def test_denied(self) -> None:
        """By its own name; what changes objects that are there goes on."""
        scope = Scope(denied_verbs=frozenset({"create"}))
        self.assertFalse(self.done("create", manifest=secret("a", "shop"), scope=scope).success)
        scope = Scope(denied_verbs=frozenset({"apply"}))
        self.assertTrue(self.done("create", manifest=secret("a", "shop"), scope=scope).success)
