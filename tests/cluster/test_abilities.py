"""Tests of L{pipeops_agent.cluster.abilities}: rights within the owner's rules."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.cluster.abilities import MAX_TOLD, abilities, told
from pipeops_agent.cluster.needs import FEATURES, own_features
from pipeops_agent.cluster.rights import Missing, Report, Verdict
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.status import AbilityStatus

OWN = own_features(namespace="agents", state_secret="state", lease="lease", service_account="control")
ALL = (*FEATURES, *OWN)
SHOP = Scope(namespaces=frozenset({"shop"}))


def everything(**verdicts: Verdict) -> Report:
    """All is granted, but for C{verdicts}."""
    granted = {feature.name: Verdict(state="allowed") for feature in ALL}
    return Report(features={**granted, **verdicts})


class AbilitiesTests(SynchronousTestCase):
    def look(self, scope: Scope, **verdicts: Verdict) -> dict[str, AbilityStatus]:
        return {each.name: each for each in abilities(ALL, everything(**verdicts), scope)}

    def denied(self, scope: Scope) -> set[str]:
        """What can't be done within C{scope} though all rights are there."""
        return {name for name, each in self.look(scope).items() if each.state == "denied"}

    def test_all(self) -> None:
        """Without rules of the owner's rights decide."""
        self.assertEqual(self.denied(Scope()), set())

    def test_missing(self) -> None:
        """A right that is missing is told with what would grant it."""
        (scale,) = (feature for feature in FEATURES if feature.name == "scale")
        missing = Verdict(state="denied", missing=(Missing(need=scale.needs[0]),))
        found = self.look(Scope(), scale=missing)["scale"]
        self.assertEqual(found.state, "denied")
        self.assertIn("patch deployments.apps/scale; a ClusterRole grants it", found.message)

    def test_read_only(self) -> None:
        """What reads is left, and what the agent needs for itself."""
        found = self.look(Scope(read_only=True))
        self.assertEqual((found["logs"].state, found["rollout"].state), ("allowed", "allowed"))
        for name in ("exec", "attach", "port_forward", "scale", "apply", "delete", "drain"):
            self.assertEqual(found[name].message, "not allowed: access.read_only")
        for feature in OWN:
            self.assertEqual(found[feature.name].state, "allowed")

    def test_verbs(self) -> None:
        """An operation is denied by its own name, by what else it is called, and by the API's verbs."""
        self.assertEqual(self.denied(Scope(denied_verbs=frozenset({"exec"}))), {"exec"})
        self.assertEqual(self.denied(Scope(denied_verbs=frozenset({"port-forward"}))), {"port_forward"})
        self.assertEqual(self.denied(Scope(denied_verbs=frozenset({"deploy"}))), {"apply"})
        self.assertEqual(self.denied(Scope(denied_verbs=frozenset({"delete"}))), {"delete", "drain"})
        self.assertEqual(
            self.denied(Scope(denied_verbs=frozenset({"patch"}))),
            {"apply", "scale", "restart", "cordon", "drain"},
        )

    def test_namespaces(self) -> None:
        """With allowed namespaces it is those; what concerns a node can't be done."""
        found = self.look(SHOP)
        self.assertEqual((found["exec"].state, found["exec"].namespaces), ("namespaces", ("shop",)))
        self.assertEqual(self.denied(SHOP), {"cordon", "drain"})
        self.assertEqual(found["inventory_nodes"].state, "allowed")

    def test_rights_in_others(self) -> None:
        """Rights in namespaces that are out of reach are none."""
        verdict = Verdict(state="namespaces", namespaces=("bank", "shop"))
        self.assertEqual(self.look(SHOP, exec=verdict)["exec"].namespaces, ("shop",))
        denied = Scope(denied_namespaces=frozenset({"bank", "shop"}))
        self.assertEqual(self.look(denied, exec=verdict)["exec"].state, "denied")

    def test_told(self) -> None:
        """What can be done, everywhere or where; what can't is left out, and of very many places the rest."""
        names = tuple(f"n{number:03}" for number in range(MAX_TOLD + 1))
        found = abilities(
            FEATURES,
            everything(
                exec=Verdict(state="namespaces", namespaces=("bank", "shop")),
                logs=Verdict(state="namespaces", namespaces=names),
                scale=Verdict(state="denied"),
            ),
            Scope(),
        )
        said = told(found)
        self.assertEqual([each for each in said if "exec" in each], ["exec@bank", "exec@shop"])
        self.assertEqual(len([each for each in said if each.startswith("logs@")]), MAX_TOLD)
        self.assertIn("restart", said)
        self.assertNotIn("scale", said)
