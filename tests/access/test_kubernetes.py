"""Tests for callers with tokens of the cluster's own, against an API server in memory."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.python.failure import Failure
from twisted.web.server import Request

from pipeops_agent.access.denied import Denied
from pipeops_agent.access.kubernetes import (
    DEPLOYMENT,
    MAX_NAMESPACES,
    PATIENCE,
    WAITING,
    KubernetesTokens,
    Sight,
)
from pipeops_agent.access.origins import Origin
from pipeops_agent.caller import OPERATE, READ, Caller, Grant
from pipeops_agent.cluster.api import LiveApi
from pipeops_agent.cluster.errors import Misconfigured
from pipeops_agent.cluster.resources import NODES, PODS
from pipeops_agent.cluster.reviews import BURST, LIFETIME, Reviews
from pipeops_agent.cluster.transport import Transport
from pipeops_agent.secrets import Secret
from tests.cluster.case import FakeApiCase
from tests.cluster.fakeapi import Asked, FakeApi, Fault, operating

FAR = Origin(name="10.0.0.7", client="10.0.0.7")
HOME = "pipeops-system"


def jwt(number: int = 0) -> Secret:
    return Secret(f"eyJhbGciOi.eyJpc3MiOi{number:06}.c2lnbmF0dXJl")


class KubernetesCase(FakeApiCase):
    """
    A cluster that knows one token, anna's.

    @ivar rights: (user, namespace, right) that are granted; an empty namespace is everywhere.
    """

    def setUp(self) -> None:
        super().setUp()
        self.reviewing = operating.Reviews(self.server)
        self.reviewing.users[jwt().reveal()] = {"username": "anna"}
        self.rights: set[tuple[str, str, str]] = set()
        self.server.handlers["subjectaccessreviews.authorization.k8s.io"] = self.review
        self.reviews = Reviews(self.clock, self.api)
        self.callers = KubernetesTokens(self.clock, self.reviews, lambda: HOME)
        self.asked: list[tuple[str, str, str]] = []

    def review(self, server: FakeApi, asked: Asked, request: Request) -> Any:
        spec = operating.body(request)["spec"]
        attributes = spec["resourceAttributes"]
        sub = f"/{attributes['subresource']}" if attributes.get("subresource") else ""
        name = f" {attributes['name']}" if attributes.get("name") else ""
        right = f"{attributes['verb']} {attributes['resource']}{sub}{name}"
        one = (spec["user"], attributes.get("namespace", ""), right)
        self.asked.append(one)
        return operating.answer(request, {"status": {"allowed": one in self.rights}}, code=201)

    def denied(self, asking: Coroutine[Any, Any, object]) -> Denied:
        """The refusal, after all attempts."""
        return self.failure(asking, Denied, seconds=30.0)


class TokenTests(KubernetesCase):
    """Whose a token is, and what it may."""

    def scopes(self) -> set[str]:
        known = self.result(self.callers.find(jwt(), FAR))
        assert known is not None
        return {grant.text for grant in known.scopes}

    def test_rights(self) -> None:
        """Who may get the agent's Deployment may read, who may update it may operate; else nothing."""
        get, update = (("anna", HOME, f"{verb} deployments {DEPLOYMENT}") for verb in ("get", "update"))
        for rights, scopes in (
            (set(), set()),
            ({get}, {READ}),
            ({update}, {OPERATE}),
            ({get, update}, {READ, OPERATE}),
            ({("anna", "other", get[2]), ("otto", HOME, get[2])}, set()),
        ):
            self.rights = rights
            self.advance(LIFETIME)
            self.assertEqual(self.scopes(), scopes)

    def test_known(self) -> None:
        """Its owner's name is told from those of static tokens, and operations go out with it."""
        known = self.result(self.callers.find(jwt(), FAR))
        assert known is not None
        self.assertEqual((known.subject, known.kubernetes_token), ("kubernetes:anna", jwt()))
        self.reviewing.users[jwt(1).reveal()] = {"username": "system:\n" + "x" * 2000}
        known = self.result(self.callers.find(jwt(1), FAR))
        assert known is not None
        self.assertTrue(known.subject.startswith("kubernetes:system:?xxx"))
        self.assertLess(len(known.subject), 320)

    def test_unknown(self) -> None:
        """Nobody's token is nobody's; what has no JWT's shape is never sent to the cluster."""
        self.assertIsNone(self.result(self.callers.find(jwt(5), FAR)))
        asked = len(self.reviewing.asked)
        for text in ("opaque-token-0123456789", "a.b.c", "", "eyJhbGciOi.eyJpc3MiOi.c2ln bmF0"):
            self.assertIsNone(self.result(self.callers.find(Secret(text), FAR)))
        self.assertEqual(len(self.reviewing.asked), asked)

    def test_taken_away(self) -> None:
        """A right that is taken away holds for a minute at most."""
        self.rights = {("anna", HOME, f"get deployments {DEPLOYMENT}")}
        self.assertEqual(self.scopes(), {READ})
        self.rights.clear()
        self.advance(LIFETIME + 1)
        self.assertEqual(self.scopes(), set())
        del self.reviewing.users[jwt().reveal()]
        self.advance(LIFETIME + 1)
        self.assertIsNone(self.result(self.callers.find(jwt(), FAR)))

    def test_cluster_away(self) -> None:
        """A server that fails is said, with when to come again; nothing of the token is in it."""
        self.server.faults.append(Fault(times=100))
        error = self.denied(self.callers.find(jwt(), FAR))
        self.assertEqual((error.reason, error.retry_after), ("unavailable", 5.0))
        self.assertNotIn("eyJ", error.sentence)

    def test_agent_may_not_ask(self) -> None:
        """Where the agent lacks the right to ask, the right is named."""
        self.server.allowed = lambda asked: asked.resource.plural != "tokenreviews"
        error = self.denied(self.callers.find(jwt(), FAR))
        self.assertEqual((error.reason, error.retry_after), ("unavailable", None))
        self.assertIn("tokenreviews", error.sentence)

    def test_no_cluster(self) -> None:
        """Without a cluster it is nobody's token."""

        def none() -> Transport:
            raise Misconfigured("no cluster is configured")

        callers = KubernetesTokens(self.clock, Reviews(self.clock, LiveApi(none)), lambda: HOME)
        self.assertIsNone(self.result(callers.find(jwt(), FAR)))


class PaceTests(KubernetesCase):
    """Many tokens from one origin."""

    def flood(self, count: int = BURST) -> None:
        """So many wrong tokens; by default as many as are looked at at once."""
        for number in range(count):
            self.assertIsNone(self.result(self.callers.find(jwt(100 + number), FAR)))

    def test_late_not_refused(self) -> None:
        """A valid token is late for another's guesses, and never refused for them."""
        self.flood()
        waiting = self.begin(self.callers.find(jwt(), FAR))
        self.assertNoResult(waiting)
        self.advance(1.1)
        known = self.successResultOf(waiting)
        assert known is not None
        self.assertEqual(known.subject, "kubernetes:anna")

    def test_known_already(self) -> None:
        """One that is known already is not even late."""
        self.result(self.callers.find(jwt(), FAR))
        self.flood(BURST - 1)
        self.assertIsNotNone(self.result(self.callers.find(jwt(), FAR)))

    def test_bounded(self) -> None:
        """Only so many wait, and not for ever."""
        self.flood()
        waiting = [self.begin(self.callers.find(jwt(200 + number), FAR)) for number in range(WAITING)]
        refused = self.failure(self.callers.find(jwt(), FAR), Denied)
        self.assertEqual((refused.reason, refused.retry_after), ("too_many", 1.0))
        ends: list[object] = []
        for one in waiting:
            one.addBoth(ends.append)
        self.advance(PATIENCE + 1)
        late = [end for end in ends if isinstance(end, Failure)]
        self.assertEqual({end.value.reason for end in late if isinstance(end.value, Denied)}, {"too_many"})
        self.assertEqual(len(ends), WAITING)
        self.assertGreaterEqual(len(ends) - len(late), PATIENCE - 1, "one each second has its turn")


class SightTests(KubernetesCase):
    """What a caller is shown."""

    known = ("kube-system", "shop", "web")

    def setUp(self) -> None:
        super().setUp()
        self.sight = Sight(self.reviews)

    def static(self, *scopes: str) -> Caller:
        return Caller(subject="ci", scopes=frozenset(map(Grant.parse, scopes)), origin="10.0.0.7")

    def anna(self, *scopes: str) -> Caller:
        return Caller(
            subject="kubernetes:anna",
            scopes=frozenset(map(Grant.parse, scopes or ("read",))),
            origin="10.0.0.7",
            kubernetes_token=jwt(),
        )

    def test_static(self) -> None:
        """A static token sees what its scopes name; the cluster is not asked."""
        for scopes, seen in (
            (("read",), None),
            (("read:*:pods",), None),
            (("read:list:*:web,shop",), {"web", "shop"}),
            (("read:*:*:gone",), set()),
            (("read:*:services",), set()),
            (("operate",), set()),
            ((), set()),
        ):
            found = self.result(self.sight.namespaces(self.static(*scopes), "list", PODS, self.known))
            self.assertEqual(found, seen, scopes)
        self.assertEqual(self.asked, [])

    def test_everywhere(self) -> None:
        """Who may list them in the whole cluster sees all."""
        self.rights = {("anna", "", "list pods"), ("anna", "", "list nodes")}
        for resource in (PODS, NODES):
            self.assertIsNone(self.result(self.sight.namespaces(self.anna(), "list", resource, self.known)))

    def test_some(self) -> None:
        """Who may in some namespaces sees these, and nothing that has none."""
        self.rights = {("anna", "shop", "list pods"), ("otto", "web", "list pods")}
        self.assertEqual(self.result(self.sight.namespaces(self.anna(), "list", PODS, self.known)), {"shop"})
        self.assertEqual(self.result(self.sight.namespaces(self.anna(), "list", NODES, self.known)), set())

    def test_both(self) -> None:
        """Scopes and rights both count."""
        self.rights = {("anna", "", "list pods")}
        narrow = self.anna("read:*:*:web")
        self.assertEqual(self.result(self.sight.namespaces(narrow, "list", PODS, self.known)), {"web"})

    def test_logs(self) -> None:
        """Logs are a right of their own."""
        self.rights = {("anna", "shop", "get pods/log"), ("anna", "web", "get pods")}
        sight = self.sight.namespaces(self.anna(), "get", PODS, self.known, subresource="log")
        self.assertEqual(self.result(sight), {"shop"})

    def test_expired(self) -> None:
        """A token that is none any more sees nothing."""
        self.rights = {("anna", "", "list pods")}
        del self.reviewing.users[jwt().reveal()]
        self.assertEqual(self.result(self.sight.namespaces(self.anna(), "list", PODS, self.known)), set())

    def test_bounded(self) -> None:
        """Of very many namespaces the first are asked about, and kept for the next time."""
        many = [f"ns-{number:04}" for number in range(MAX_NAMESPACES + 20)]
        self.rights = {("anna", name, "list pods") for name in many}
        for _ in range(2):
            seen = self.result(self.sight.namespaces(self.anna(), "list", PODS, many))
            self.assertEqual(seen, set(many[:MAX_NAMESPACES]))
        self.assertEqual(len(self.asked), 1 + MAX_NAMESPACES)

    def test_cluster_away(self) -> None:
        """What can't be asked is not shown."""
        self.server.faults.append(Fault(times=100))
        self.assertEqual(
            self.denied(self.sight.namespaces(self.anna(), "list", PODS, self.known)).reason, "unavailable"
        )
