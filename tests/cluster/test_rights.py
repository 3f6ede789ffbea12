"""Tests of L{pipeops_agent.cluster.rights} and L{pipeops_agent.cluster.needs}: what the agent may do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import NOT_DONE_YET, Request

from pipeops_agent.cluster.errors import StatusError
from pipeops_agent.cluster.needs import FEATURES, Feature, Need, own_features, rules
from pipeops_agent.cluster.rights import (
    INTERVAL,
    MAX_INCOMPLETE,
    MAX_NAMED,
    MAX_NAMESPACES,
    RETRY,
    Places,
    Report,
    RightsService,
    Rule,
    places_within,
    review,
)
from pipeops_agent.cluster.scope import Scope
from tests.cluster.case import FakeApiCase
from tests.cluster.fakeapi import Asked, FakeApi, Fault, operating

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

    def look(self, *features: Feature, namespaces: Sequence[str] = (), whole: bool = False) -> Report:
        """One look, by default where these namespaces alone are meant."""
        return self.result(review(self.api, features, Places(names=tuple(namespaces), whole=whole)))


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
        report = self.look(PODS, NODES, namespaces=["shop"], whole=True)
        pods, nodes = report.features["pods"], report.features["nodes"]
        self.assertEqual((pods.state, nodes.state), ("denied", "denied"))
        self.assertEqual(
            pods.sentence,
            "the agent lacks the right to list pods, watch pods; a ClusterRole grants it with"
            ' {apiGroups: [""], resources: [pods], verbs: [list, watch]}',
        )
        self.assertIn("patch nodes; a ClusterRole grants it", nodes.sentence)

    def test_in_namespaces(self) -> None:
        """All of a feature's rights must be there; the others' namespaces are told."""
        self.reviews.cluster = {"list pods"}
        self.reviews.rules = {"shop": [rule("list watch", "pods")], "bank": [rule("list", "pods")]}
        verdict = self.look(PODS, namespaces=["bank", "shop"]).features["pods"]
        self.assertEqual((verdict.state, verdict.namespaces), ("namespaces", ("shop",)))
        self.assertTrue(verdict.allows("shop"))
        self.assertFalse(verdict.allows("bank") or verdict.allows(None))
        self.assertEqual(
            verdict.sentence,
            "the agent lacks the right to watch pods in bank; a Role there grants it with"
            ' {apiGroups: [""], resources: [pods], verbs: [watch]}',
        )

    def test_named_namespaces(self) -> None:
        """Where some namespaces are meant, a right in all of them lacks nothing."""
        self.reviews.rules = {name: [rule("list watch", "pods")] for name in ("bank", "shop")}
        verdict = self.look(PODS, namespaces=["bank", "shop"]).features["pods"]
        self.assertEqual((verdict.state, verdict.sentence), ("namespaces", ""))

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

    def test_incomplete_everywhere(self) -> None:
        """In most managed clusters no namespace shows all its rules; not each right is asked of each."""
        names = [f"n{number:02}" for number in range(MAX_INCOMPLETE + 5)]
        self.reviews.incomplete = set(names)
        self.reviews.rules = {"n14": [rule("list watch", "pods")]}
        self.reviews.hidden = {(name, right) for name in names for right in ("list pods", "watch pods")}
        found = self.look(PODS, namespaces=names).features["pods"].namespaces
        self.assertEqual(found, (*names[:MAX_INCOMPLETE], "n14"))
        asked = [kind for kind, _ in self.reviews.asked if kind == "SelfSubjectAccessReview"]
        self.assertEqual(len(asked), 2 + 2 * MAX_INCOMPLETE)

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
        self.assertEqual(
            report.features["cluster_token"].sentence,
            "the agent lacks the right to create serviceaccounts/token control in agents; a Role there grants"
            ' it with {apiGroups: [""], resources: [serviceaccounts/token], resourceNames: ["control"],'
            " verbs: [create]}",
        )

    def test_bounded(self) -> None:
        """In a cluster of thousands of namespaces not each of them is looked at."""
        for number in range(MAX_NAMESPACES + 50):
            self.storage.create("namespaces", "", {"metadata": {"name": f"n{number}"}})
        places = self.result(places_within(self.api, Scope(), "agents"))
        self.look(PODS, namespaces=places.names)
        asked = [kind for kind, _ in self.reviews.asked if kind == "SelfSubjectRulesReview"]
        self.assertEqual(len(asked), MAX_NAMESPACES)

    def test_short_sentence(self) -> None:
        """A message names a few of the namespaces."""
        names = [f"n{number:02}" for number in range(MAX_NAMED + 5)]
        self.reviews.rules = {"n00": [rule("list watch", "pods")]}
        said = self.look(PODS, namespaces=names).features["pods"].sentence
        self.assertIn("n10 and 4 more;", said)
        self.assertNotIn("n11", said)

    def test_all_features(self) -> None:
        """Every right of every feature has a rule that is YAML, and grants it."""
        for feature in FEATURES:
            granted = [granted_by(text) for text in rules(feature.needs)]
            for need in feature.needs:
                self.assertTrue(any(rule.grants(need) for rule in granted), need)
        self.assertEqual(len({feature.name for feature in FEATURES}), len(FEATURES))

    def test_no_more_than_needed(self) -> None:
        """What is said to be granted is what is needed: a verb more on a resource would be a gift."""
        for feature in FEATURES:
            given = {
                (group, resource, verb)
                for rule in map(granted_by, rules(feature.needs))
                for group in rule.api_groups
                for resource in rule.resources
                for verb in rule.verbs
            }
            self.assertEqual(given, {(need.group, need.resource, need.verb) for need in feature.needs})


def granted_by(text: str) -> Rule:
    """A rule as YAML has it."""
    said = yaml.safe_load(text)
    return Rule(
        verbs=tuple(said["verbs"]),
        api_groups=tuple(said["apiGroups"]),
        resources=tuple(said["resources"]),
        resource_names=tuple(said.get("resourceNames", ())),
    )


class PlacesTests(RightsCase):
    """Where the agent is to work."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("bank", "shop"):
            self.storage.create("namespaces", "", {"metadata": {"name": name}})

    def places(self, scope: Scope | None = None) -> Places:
        return self.result(places_within(self.api, scope or Scope(), "agents"))

    def test_named(self) -> None:
        """Those of the settings, but for the denied ones; nobody is asked."""
        scope = Scope(namespaces=frozenset({"shop", "lab"}), denied_namespaces=frozenset({"lab", "bank"}))
        found = self.places(scope)
        self.assertEqual(found, Places(names=("shop",), whole=False))
        self.assertEqual(self.server.seen, [])

    def test_all(self) -> None:
        """All that there are and may be reached, the agent's own first."""
        self.assertEqual(self.places(), Places(names=("agents", "bank", "shop")))
        self.assertEqual(self.places(Scope(denied_namespaces=frozenset({"bank"}))).names, ("agents", "shop"))

    def test_not_listed(self) -> None:
        """Who may not list them has its own."""
        self.server.allowed = lambda asked: False
        self.assertEqual(self.places(), Places(names=("agents",)))


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
        self.service = RightsService(self.clock, self.api, lambda: [PODS], self.places, self.told.append)

    async def places(self) -> Places:
        """One namespace."""
        return Places(names=("shop",))

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
        self.assertTrue(self.failure(review(self.api, [PODS], Places()), StatusError).forbidden)

    def test_looked(self) -> None:
        """Who waits for the first look hears of its end, also where it failed; later on nobody waits."""
        self.server.faults.append(Fault(code=403, times=1))
        waiting = self.begin(self.service.looked())
        self.assertNoResult(waiting)
        given_up = self.begin(self.service.looked())
        given_up.cancel()
        self.failureResultOf(given_up, CancelledError)
        self.service.startService()
        self.flush()
        self.successResultOf(waiting)
        self.assertIsNone(self.service.report)
        self.result(self.service.looked())
        self.service.stopService()

    def test_forget(self) -> None:
        """What is asked of a cluster that is none any more is not told; the new one is asked at once."""
        handlers, kind = self.server.handlers, "selfsubjectaccessreviews.authorization.k8s.io"
        held: list[Request] = []

        def hold(server: FakeApi, asked: Asked, request: Request) -> int:
            held.append(request)
            return NOT_DONE_YET

        answering, handlers[kind] = handlers[kind], hold
        self.service.startService()
        self.flush()
        self.service.forget()
        handlers[kind] = answering
        for request in held:
            request.write(operating.answer(request, {"status": {"allowed": False}}))
            request.finish()
        self.flush()
        self.reviews.cluster = {"list pods", "watch pods"}
        self.advance(1)
        self.assertEqual([report.features["pods"].state for report in self.told], ["allowed"])
        self.service.stopService()
