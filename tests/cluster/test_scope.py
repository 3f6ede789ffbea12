"""Tests of L{pipeops_agent.cluster.scope}: the owner's switch."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.cluster.resources import (
    DEPLOYMENTS,
    NAMESPACES,
    NODE_METRICS,
    NODES,
    PODS,
    SECRETS,
    Resource,
)
from pipeops_agent.cluster.scope import OutOfReach, Scope
from pipeops_agent.settings import Settings
from pipeops_agent.settings.model import AccessSettings, DenySettings, KubernetesSettings

CLUSTER_ROLES = Resource(
    group="rbac.authorization.k8s.io",
    version="v1",
    plural="clusterroles",
    kind="ClusterRole",
    namespaced=False,
)


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
        """Where some namespaces are out of reach nothing is changed in all of them at once."""
        for scope in (Scope(namespaces=frozenset({"shop"})), Scope(denied_namespaces=frozenset({"bank"}))):
            self.assertIn("kubernetes.namespaces", self.refused(scope, "delete", PODS, None))
            scope.check("list", PODS, None)

    def test_without_namespace(self) -> None:
        """With allowed namespaces nodes can be read, and those namespaces; the rest concerns all others."""
        scope = Scope(namespaces=frozenset({"shop"}))
        for verb in ("get", "list", "watch"):
            for resource in (NODES, NODE_METRICS, NAMESPACES):
                scope.check(verb, resource, None)
        scope.check("get", NAMESPACES, None, name="shop")
        for verb, resource, name in (
            ("cordon", NODES, "n1"),
            ("patch", NODES, "n1"),
            ("delete", NAMESPACES, "shop"),
            ("create", NAMESPACES, "shop"),
            ("create", CLUSTER_ROLES, "everything"),
            ("get", CLUSTER_ROLES, "everything"),
            ("list", CLUSTER_ROLES, ""),
        ):
            self.assertIn("kubernetes.namespaces", self.refused(scope, verb, resource, None, name=name))

    def test_denied_namespaces_alone(self) -> None:
        """They take away themselves, and nothing that has no namespace."""
        scope = Scope(denied_namespaces=frozenset({"bank"}))
        scope.check("cordon", NODES, None, name="n1")
        scope.check("create", CLUSTER_ROLES, None, name="everything")

    def test_verbs(self) -> None:
        """A denied verb is refused for every kind."""
        scope = Scope(denied_verbs=frozenset({"exec"}))
        self.assertIn("access.deny.verbs", self.refused(scope, "exec", PODS, "shop"))
        scope.check("delete", PODS, "shop")
        for written in ("port-forward", "port_forward", "portforward"):
            scope = Scope(denied_verbs=frozenset({written}))
            for verb in ("port-forward", "portforward"):
                self.assertIn("access.deny.verbs", self.refused(scope, verb, PODS, "shop"))

    def test_kinds(self) -> None:
        """A kind is denied by any of its names."""
        for name in ("deployment", "deployments", "deployments.apps"):
            scope = Scope(denied_kinds=frozenset({name}))
            self.assertIn("access.deny.kinds", self.refused(scope, "get", DEPLOYMENTS, "shop"))
            scope.check("get", SECRETS, "shop")
