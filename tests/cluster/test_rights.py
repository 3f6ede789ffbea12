"""Tests of L{pipeops_agent.cluster.rights} and L{pipeops_agent.cluster.needs}: what the agent may do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.cluster.errors import StatusError
from pipeops_agent.cluster.needs import FEATURES, Feature, Need, own_features
from pipeops_agent.cluster.rights import INTERVAL, MAX_NAMESPACES, RETRY, Report, RightsService, Rule, review
from tests.cluster.case import FakeApiCase
from tests.cluster.fakeapi import Fault, operating

PODS = Feature(name="pods", needs=(Need(verb="list", resource="pods"), Need(verb="watch", resource="pods")))
NODES = Feature(name="nodes", needs=(Need(verb="patch", resource="nodes", namespaced=False),))
SCALE = Feature(name="scale", needs=(Need(verb="patch", group="apps", resource="deployments/scale"),))


def rule(verbs: str, resources: str, group: str = "", names: Sequence[str] = ()) -> dict[str, object]:
    """A rule, as a SelfSubjectRulesReview shows it."""
    found: dict[str, object] = {"verbs": verbs.split(), "apiGroups": [group], "resources": resources.split()}
    return {**found, "resourceNames": list(names)} if names else found


class RightsCase(FakeApiCase):
    """With an API server that answers reviews."""

    def setUp(self) -> None:
        super().setUp()
        self.reviews = operating.Reviews(self.server)

    def look(self, *features: Feature, namespaces: Sequence[str] = ()) -> Report:
        """One look."""
        return self.result(review(self.api, features, namespaces))


class ReviewTests(RightsCase):
    """Allowed, denied, or in these namespaces."""

    def test_everywhere(self) -> None:
        """What is granted in the whole cluster needs no look at namespaces."""
        self.reviews.cluster = {"list pods", "watch pods"}
        verdict = self.look(PODS, namespaces=["shop"]).features["pods"]
        self.assertEqual((verdict.state, verdict.missing), ("allowed", ()))
        self.assertTrue(verdict.allows(None) and verdict.allows("anything"))
        self.assertEqual({kind for kind, _ in self.reviews.asked}, {"SelfSubjectAccessReview"})

    def test_denied(self) -> None:
        """With each right that is missing, and the rule that would grant it."""
        report = self.look(PODS, NODES)
        self.assertEqual(report.features["pods"].state, "denied")
        missing = report.features["nodes"].missing[0]
        self.assertEqual((missing.right, missing.kind), ("patch nodes", "ClusterRole"))
        self.assertEqual(
            yaml.safe_load(missing.rule), [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}]
        )
        self.assertEqual([each.right for each in report.missing], ["list pods", "watch pods", "patch nodes"])

    def test_in_namespaces(self) -> None:
        """All of a feature's rights must be there; the others' namespaces are told."""
        self.reviews.cluster = {"list pods"}
        self.reviews.rules = {"shop": [rule("list watch", "pods")], "bank": [rule("list", "pods")]}
        verdict = self.look(PODS, namespaces=["bank", "shop"]).features["pods"]
        self.assertEqual((verdict.state, verdict.namespaces), ("namespaces", ("shop",)))
        self.assertTrue(verdict.allows("shop"))
        self.assertFalse(verdict.allows("bank") or verdict.allows(None))
        self.assertEqual(
            [(each.right, each.kind, each.namespaces) for each in verdict.missing],
            [("watch pods", "Role", ("bank",))],
        )

    def test_both_or_neither(self) -> None:
        """Half of a feature's rights here and half there is nowhere."""
        self.reviews.rules = {"shop": [rule("list", "pods")], "bank": [rule("watch", "pods")]}
        verdict = self.look(PODS, namespaces=["bank", "shop"]).features["pods"]
        self.assertEqual((verdict.state, verdict.namespaces), ("denied", ()))

    def test_incomplete(self) -> None:
        """Where the rules are not all shown, each right is asked about."""
        self.reviews.incomplete = {"shop"}
        self.reviews.hidden = {("shop", "list pods"), ("shop", "watch pods")}
        self.assertEqual(self.look(PODS, namespaces=["shop", "bank"]).features["pods"].namespaces, ("shop",))

    def test_asked_once(self) -> None:
        """The same question is asked once, however many features have it."""
        self.reviews.rules = {"shop": []}
        self.look(PODS, renamed(PODS), namespaces=["shop"])
        self.assertEqual(len(self.reviews.asked), 3)

    def test_one_namespace(self) -> None:
        """What the agent needs for itself is asked where it is needed."""
        own = own_features(namespace="agents", state_secret="state", lease="", service_account="control")
        self.assertEqual([feature.name for feature in own], ["state", "cluster_token"])
        self.reviews.rules = {"agents": [rule("get update", "secrets", names=["state"])]}
        report = self.look(*own, namespaces=["shop"])
        self.assertEqual([verdict.state for verdict in report.features.values()], ["allowed", "denied"])
        missing = report.features["cluster_token"].missing[0]
        self.assertEqual((missing.kind, missing.namespaces), ("Role", ("agents",)))
        self.assertEqual(yaml.safe_load(missing.rule)[0]["resourceNames"], ["control"])
        self.assertIn("create serviceaccounts/token control is missing in agents", missing.sentence)

    def test_bounded(self) -> None:
        """In a cluster of thousands of namespaces not each of them is looked at."""
        self.look(PODS, namespaces=[f"n{number}" for number in range(MAX_NAMESPACES + 50)])
        rules = [kind for kind, _ in self.reviews.asked if kind == "SelfSubjectRulesReview"]
        self.assertEqual(len(rules), MAX_NAMESPACES)

    def test_all_features(self) -> None:
        """Every right of every feature has a rule that is YAML, and grants it."""
        for feature in FEATURES:
            for need in feature.needs:
                said = yaml.safe_load(need.rule)[0]
                granted = Rule(
                    verbs=tuple(said["verbs"]),
                    api_groups=tuple(said["apiGroups"]),
                    resources=tuple(said["resources"]),
                )
                self.assertTrue(granted.grants(need), need)
        self.assertEqual(len({feature.name for feature in FEATURES}), len(FEATURES))


class DocumentTests(SynchronousTestCase):
    """What operators read."""

    def test_every_right(self) -> None:
        """The document names each feature with all of its rights."""
        text = (Path(__file__).parents[2] / "docs/kubernetes-operations.md").read_text("utf-8")
        for feature in FEATURES:
            row = f"| `{feature.name}` | {', '.join(need.words for need in feature.needs)} |"
            self.assertIn(row, text)


def renamed(feature: Feature) -> Feature:
    """The same under another name."""
    return Feature(name=f"{feature.name} again", needs=feature.needs)


class RuleTests(SynchronousTestCase):
    """A rule is read as RBAC reads it."""

    def test_grants(self) -> None:
        """Stars, subresources, names."""
        scale = SCALE.needs[0]
        named = Need(verb="get", resource="secrets", name="state")
        for verbs, group, resources, names, need, expected in (
            ("patch", "apps", "deployments/scale", (), scale, True),
            ("*", "*", "*", (), scale, True),
            ("patch", "apps", "*/scale", (), scale, True),
            ("patch", "apps", "deployments", (), scale, False),
            ("patch", "apps", "deployments/*", (), scale, False),
            ("patch", "", "deployments/scale", (), scale, False),
            ("get", "apps", "deployments/scale", (), scale, False),
            ("patch", "apps", "deployments/scale", ("web",), scale, False),
            ("get", "", "secrets", ("state",), named, True),
            ("get", "", "secrets", ("other",), named, False),
            ("get", "", "secrets", (), named, True),
        ):
            found = Rule(verbs=(verbs,), api_groups=(group,), resources=(resources,), resource_names=names)
            self.assertEqual(found.grants(need), expected, found)


class ServiceTests(RightsCase):
    """At start and every hour."""

    def setUp(self) -> None:
        super().setUp()
        self.told: list[Report] = []
        self.service = RightsService(self.clock, self.api, [PODS], self.namespaces, self.told.append)

    async def namespaces(self) -> Sequence[str]:
        """Those within reach."""
        return ["shop"]

    def test_hourly(self) -> None:
        """A right that was granted meanwhile is seen."""
        self.service.startService()
        self.flush()
        self.assertEqual([report.features["pods"].state for report in self.told], ["denied"])
        self.reviews.cluster = {"list pods", "watch pods"}
        self.advance(INTERVAL + 1, step=60)
        self.assertEqual([report.features["pods"].state for report in self.told], ["denied", "allowed"])
        self.assertIs(self.service.report, self.told[-1])
        self.service.stopService()

    def test_failure(self) -> None:
        """What was known stays; it is asked again sooner."""
        self.reviews.cluster = {"list pods", "watch pods"}
        self.service.startService()
        self.flush()
        self.server.faults.append(Fault(code=403, times=1))
        self.advance(INTERVAL + 1, step=60)
        self.assertEqual(len(self.told), 1)
        self.assertIsNotNone(self.service.report)
        self.advance(RETRY + 1)
        self.assertEqual(len(self.told), 2)
        self.service.stopService()

    def test_not_allowed_to_ask(self) -> None:
        """Every account may ask about itself; where one may not, that is the error."""
        self.server.allowed = lambda asked: False
        self.assertTrue(self.failure(review(self.api, [PODS], []), StatusError).forbidden)
