"""Tests of L{pipeops_agent.cluster.reach}: owner's rules, scopes, and what is the agent's own."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.caller import Caller, Grant
from pipeops_agent.cluster.reach import NotGranted, Reach
from pipeops_agent.cluster.resources import DEPLOYMENTS, NAMESPACES, NODES, PODS, Resource
from pipeops_agent.cluster.scope import OutOfReach, Scope


def caller(*scopes: str) -> Caller:
    """Somebody with these scopes."""
    return Caller(subject="ci", scopes=frozenset(map(Grant.parse, scopes)), origin="10.0.0.7")


class ScopeTests(SynchronousTestCase):
    """What scopes let pass."""

    def check(self, reach: Reach, who: Caller, resource: Resource, namespace: str | None, name: str) -> bool:
        try:
            reach.check(who, ("patch",), resource, namespace, name=name)
        except NotGranted:
            return False
        return True

    def test_nobody_has_asked(self) -> None:
        """What the agent does of its own accord needs no scope."""
        self.assertTrue(self.check(Reach(), caller(), PODS, "shop", "web"))

    def test_names(self) -> None:
        """A scope for any of an operation's names is enough; one for the API's verb is not."""
        reach = Reach().asking("shell", "exec")
        for scope, passes in (
            ("operate", True),
            ("operate:exec", True),
            ("operate:shell", True),
            ("operate:patch", False),
            ("read", False),
        ):
            self.assertEqual(self.check(reach, caller(scope), PODS, "shop", "web"), passes, scope)

    def test_narrowed(self) -> None:
        """By kind and namespace; what has no namespace is in none, but a namespace is in itself."""
        reach = Reach().asking("scale")
        who = caller("operate:scale:deployments,namespaces,nodes:shop")
        for resource, namespace, name, passes in (
            (DEPLOYMENTS, "shop", "web", True),
            (DEPLOYMENTS, "bank", "web", False),
            (DEPLOYMENTS, None, "", False),
            (PODS, "shop", "web", False),
            (NAMESPACES, None, "shop", True),
            (NAMESPACES, None, "bank", False),
            (NODES, None, "n", False),
        ):
            self.assertEqual(self.check(reach, who, resource, namespace, name), passes, (resource, namespace))

    def test_sentence(self) -> None:
        """It says which scope would do."""
        error = self.assertRaises(
            NotGranted, Reach().asking("scale").check, caller(), ("scale",), DEPLOYMENTS, "shop", name="web"
        )
        self.assertEqual(
            str(error),
            "scale of deployments.apps in shop needs a scope for it: operate:scale:deployments.apps:shop",
        )
        everywhere = self.assertRaises(
            NotGranted, Reach().asking("logs").check, caller(), ("list",), PODS, None
        )
        self.assertEqual(str(everywhere), "logs of pods needs a scope for it: read:logs:pods")

    def test_owner_first(self) -> None:
        """What the owner forbids is said to be so, whatever the scope."""
        reach = Reach(scope=Scope(read_only=True)).asking("scale")
        error = self.assertRaises(
            OutOfReach, reach.check, caller(), ("scale",), DEPLOYMENTS, "shop", name="web"
        )
        self.assertNotIsInstance(error, NotGranted)

    def test_somewhere(self) -> None:
        """What is about no object is for who may do such a thing anywhere."""
        reach = Reach().asking("proxy")
        for scope, passes in (
            ("operate:proxy:pods:shop", True),
            ("operate", True),
            ("operate:*:pods", True),
            ("operate:scale", False),
            ("read", False),
        ):
            if passes:
                reach.check_asked(caller(scope))
            else:
                self.assertRaises(NotGranted, reach.check_asked, caller(scope))
