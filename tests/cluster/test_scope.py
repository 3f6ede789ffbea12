"""Tests of L{pipeops_agent.cluster.scope}: the owner's switch."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.cluster.resources import DEPLOYMENTS, NAMESPACES, NODES, PODS, SECRETS
from pipeops_agent.cluster.scope import OutOfReach, Scope
from pipeops_agent.settings import Settings
from pipeops_agent.settings.model import AccessSettings, DenySettings, KubernetesSettings


class ScopeTests(SynchronousTestCase):
    """What passes, and what does not."""

    def refused(self, scope: Scope, *asked: object, name: str = "") -> str:
        with self.assertRaises(OutOfReach) as caught:
            scope.check(*asked, name=name)  # type: ignore[arg-type]  # as a test writes them
        return str(caught.exception)

    def test_nothing_said(self) -> None:
        """Without rules everything is within reach."""
        for verb in ("get", "delete", "exec"):
            Scope().check(verb, PODS, "shop")
            Scope().check(verb, NODES, None)

    def test_from_settings(self) -> None:
        """Each rule comes from its setting."""
        scope = Scope.of(
            Settings(
                access=AccessSettings(
                    read_only=True,
                    deny=DenySettings(verbs=("Exec",), kinds=("Secret",), namespaces=("kube-system",)),
                ),
                kubernetes=KubernetesSettings(namespaces=("shop", "bank"), denied_namespaces=("bank",)),
            )
        )
        self.assertTrue(scope.read_only)
        self.assertEqual(scope.namespaces, {"shop", "bank"})
        self.assertEqual(scope.denied_namespaces, {"bank", "kube-system"})
        self.assertEqual((scope.denied_verbs, scope.denied_kinds), ({"exec"}, {"secret"}))

    def test_read_only(self) -> None:
        """Reading passes, logs too; nothing else, exec included."""
        scope = Scope(read_only=True)
        for verb in ("get", "list", "watch", "logs"):
            scope.check(verb, PODS, "shop")
        for verb in ("create", "patch", "delete", "exec", "scale", "drain", "anything"):
            self.assertIn("access.read_only", self.refused(scope, verb, PODS, "shop"))

    def test_namespaces(self) -> None:
        """Only those that are named; a denied one not even then."""
        scope = Scope(namespaces=frozenset({"shop", "bank"}), denied_namespaces=frozenset({"bank"}))
        scope.check("get", PODS, "shop")
        self.assertIn("namespace lab", self.refused(scope, "get", PODS, "lab"))
        self.assertIn("namespace bank", self.refused(scope, "get", PODS, "bank"))
        self.assertEqual([scope.reaches(name) for name in ("shop", "bank", "lab")], [True, False, False])

    def test_namespace_as_an_object(self) -> None:
        """A namespace itself is as far away as what is in it."""
        scope = Scope(denied_namespaces=frozenset({"bank"}))
        self.assertIn("namespace bank", self.refused(scope, "delete", NAMESPACES, None, name="bank"))
        scope.check("get", NAMESPACES, None, name="shop")

    def test_all_namespaces(self) -> None:
        """With allowed namespaces nothing is changed in all of them at once; what has none can be read."""
        scope = Scope(namespaces=frozenset({"shop"}))
        self.assertIn("kubernetes.namespaces", self.refused(scope, "delete", PODS, None))
        scope.check("list", NODES, None)
        scope.check("cordon", NODES, None, name="n1")

    def test_verbs(self) -> None:
        """A denied verb is refused for every kind."""
        scope = Scope(denied_verbs=frozenset({"exec"}))
        self.assertIn("access.deny.verbs", self.refused(scope, "exec", PODS, "shop"))
        scope.check("delete", PODS, "shop")

    def test_kinds(self) -> None:
        """A kind is denied by any of its names."""
        for name in ("deployment", "deployments", "deployments.apps"):
            scope = Scope(denied_kinds=frozenset({name}))
            self.assertIn("access.deny.kinds", self.refused(scope, "get", DEPLOYMENTS, "shop"))
            scope.check("get", SECRETS, "shop")
