"""Tests for what a scope means."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.caller import MAX_SCOPE, OPERATE, READ, READING, Caller, Grant
from pipeops_agent.secrets import Secret


def caller(*scopes: str) -> Caller:
    return Caller(subject="ci", scopes=frozenset(map(Grant.parse, scopes)), origin="10.0.0.7")


class ParseTests(SynchronousTestCase):
    """Scopes as people write them."""

    def test_forms(self) -> None:
        """The right, then verbs, kinds and namespaces, then the cluster's id."""
        for text, grant in (
            ("read", Grant("read")),
            ("operate", Grant("operate")),
            ("operate:scale@shop", Grant("operate", frozenset({"scale"}), cluster="shop")),
            (
                "operate:scale,restart:deployments,StatefulSets.apps:web,shop@5-5",
                Grant(
                    "operate",
                    frozenset({"scale", "restart"}),
                    frozenset({"deployments", "statefulsets.apps"}),
                    frozenset({"web", "shop"}),
                    "5-5",
                ),
            ),
            ("read:*:pods", Grant("read", kinds=frozenset({"pods"}))),
            (" read:*:*:web ", Grant("read", namespaces=frozenset({"web"}))),
        ):
            self.assertEqual(Grant.parse(text), grant, text)
            self.assertEqual(Grant.parse(grant.text), grant, text)

    def test_refused(self) -> None:
        """What is not understood is no scope: never a wider one."""
        for text in (
            "",
            "write",
            "READ",
            "read,operate",
            "operate:",
            "operate:scale:",
            "operate:,scale",
            "operate:scale:*:*:x",
            "operate:sc ale",
            "operate:scale@",
            "operate:scale@a@b",
            "operate@*",
            "operate:*,scale",
            "read:*:*:Web",
            "read:*:*:-web",
            "read:*:pods/log",
            "read:" + "x" * MAX_SCOPE,
        ):
            self.assertRaises(ValueError, Grant.parse, text)

    def test_wrong_right(self) -> None:
        """A verb that the right does not have would never allow anything, and is refused."""
        for text in ("read:scale", "operate:get", "operate:scale,logs"):
            error = self.assertRaises(ValueError, Grant.parse, text)
            self.assertIn("is a verb of", str(error))
        for text in ("read:read", "operate:operate", "operate:scale,read"):
            error = self.assertRaises(ValueError, Grant.parse, text)
            self.assertIn("is a right", str(error))

    @given(st.text(max_size=40))
    def test_any_text(self, text: str) -> None:
        """Any text is a scope, which can be written again, or a ValueError that does not quote it."""
        try:
            grant = Grant.parse(text)
        except ValueError:
            return
        self.assertEqual(Grant.parse(grant.text), grant)


class AllowsTests(SynchronousTestCase):
    """What scopes allow."""

    def test_rights(self) -> None:
        """Reading and operating are two rights, and neither includes the other."""
        reader, operator = caller("read"), caller("operate")
        for verb in (READ, *READING):
            self.assertTrue(reader.allows(verb), verb)
            self.assertFalse(operator.allows(verb), verb)
        for verb in (OPERATE, "scale", "exec", "proxy", "create", "a verb of tomorrow"):
            self.assertFalse(reader.allows(verb), verb)
            self.assertTrue(operator.allows(verb), verb)
        self.assertFalse(caller().allows(READ))

    def test_verbs(self) -> None:
        """Narrowed to verbs, these alone; not the right as a whole."""
        ci = caller("operate:scale,restart")
        self.assertTrue(ci.allows("scale", kind="deployments.apps", namespace="web"))
        self.assertTrue(ci.allows("restart"))
        for verb in ("delete", "exec", OPERATE, "get"):
            self.assertFalse(ci.allows(verb, kind="deployments.apps", namespace="web"), verb)

    def test_kinds(self) -> None:
        """A kind is meant with its group, or in any group; what is of no kind is not meant."""
        ci = caller("operate:*:deployments,jobs.batch")
        self.assertTrue(ci.allows("scale", kind="deployments.apps"))
        self.assertTrue(ci.allows("scale", kind="Deployments"))
        self.assertTrue(ci.allows("delete", kind="jobs.batch"))
        for kind in ("jobs", "jobs.example.com", "secrets", "deploymentsx.apps", ""):
            self.assertFalse(ci.allows("delete", kind=kind), kind)

    def test_namespaces(self) -> None:
        """Narrowed to namespaces, neither others, nor all of them, nor what has none."""
        ci = caller("read:*:*:web,shop")
        self.assertTrue(ci.allows("list", kind="pods", namespace="web"))
        for namespace in ("kube-system", "", "we", "web2"):
            self.assertFalse(ci.allows("list", kind="pods", namespace=namespace), namespace)
        self.assertFalse(ci.allows("list", kind="nodes"))
        self.assertFalse(ci.allows(READ))

    def test_cluster(self) -> None:
        """Narrowed to a cluster, in that one alone, and not where the cluster is not known."""
        ci = caller("operate:scale@shop")
        self.assertTrue(ci.allows("scale", cluster="shop"))
        self.assertFalse(ci.allows("scale", cluster="other"))
        self.assertFalse(ci.allows("scale"))

    def test_parts_of_one_scope(self) -> None:
        """What is allowed is what one scope allows: two are not mixed."""
        ci = caller("operate:scale:*:web", "operate:delete:*:shop")
        self.assertTrue(ci.allows("scale", namespace="web"))
        self.assertTrue(ci.allows("delete", namespace="shop"))
        self.assertFalse(ci.allows("scale", namespace="shop"))
        self.assertFalse(ci.allows("delete", namespace="web"))

    def test_holds(self) -> None:
        """A narrow scope is one of its right all the same."""
        ci = caller("operate:scale:*:web")
        self.assertTrue(ci.holds(OPERATE))
        self.assertFalse(ci.holds(READ))

    def test_repr(self) -> None:
        """A caller can be shown: its token can't."""
        shown = repr(
            Caller(subject="s", scopes=frozenset(), origin="o", kubernetes_token=Secret("eyJhbGc.x.y"))
        )
        self.assertNotIn("eyJhbGc", shown)
