"""Tests of L{pipeops_agent.cluster.discovery}, and of what it makes of a server's answers."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.web.server import NOT_DONE_YET, Request

from pipeops_agent.cluster import discovery
from pipeops_agent.cluster.discovery import LIFETIME, MISS_INTERVAL, Catalog, Discovery, NotServed
from pipeops_agent.cluster.errors import BadAnswer, StatusError
from pipeops_agent.cluster.resources import DEPLOYMENTS, NODES, PODS, Resource
from pipeops_agent.cluster.served import sound
from tests.cluster.case import FakeApiCase
from tests.cluster.fakeapi import operating

TEAPOTS = Resource(group="kitchen.example.com", version="v1beta1", plural="te-a-pots-2", kind="TeaPot")


class Cases:
    """What holds of both ways to read."""

    class Base(FakeApiCase):
        """With a L{Discovery} on a fake server."""

        aggregated = True

        def setUp(self) -> None:
            super().setUp()
            self.served = operating.Discovery(self.server, aggregated=self.aggregated)
            self.told: list[Catalog] = []
            self.discovery = Discovery(self.clock, self.api, told=self.told.append)

        def test_kind(self) -> None:
            """C{apiVersion} and C{kind} give the resource, its verbs and subresources."""
            found = self.result(self.discovery.kind("apps/v1", "Deployment"))
            self.assertEqual(found.resource, DEPLOYMENTS)
            self.assertIn("patch", found.verbs)
            self.assertEqual(found.subresources, {"scale", "status"})
            self.assertEqual(self.result(self.discovery.kind("v1", "Node")).resource, NODES)

        def test_names(self) -> None:
            """What people write, in any case of letters."""
            for name in ("pods", "pod", "po", "Pod", "PODS", "pods."):
                self.assertEqual(self.result(self.discovery.named(name)).resource, PODS, name)
            for name in (
                "deploy",
                "deployments",
                "deployments.apps",
                "deployment.apps",
                "deployments.v1.apps",
            ):
                self.assertEqual(self.result(self.discovery.named(name)).resource, DEPLOYMENTS, name)

        def test_path(self) -> None:
            """Group, version and plural, as in a path."""
            self.assertEqual(
                self.result(self.discovery.path("apps", "v1", "deployments")).resource, DEPLOYMENTS
            )
            self.failure(self.discovery.path("apps", "v2", "deployments"), NotServed)

        def test_core_first(self) -> None:
            """Where two groups have a name, the core's is meant; the other has its group's."""
            usage = Resource(group="metrics.k8s.io", version="v1beta1", plural="pods", kind="PodMetrics")
            self.served.add(usage)
            self.assertEqual(self.result(self.discovery.named("pods")).resource, PODS)
            self.assertEqual(self.result(self.discovery.named("pods.metrics.k8s.io")).resource, usage)

        def test_preferred_version(self) -> None:
            """Of several versions the one that the server names first is meant; the others have theirs."""
            new, old = (
                Resource(group="example.com", version=version, plural="cups", kind="Cup")
                for version in ("v2", "v1")
            )
            self.server.known.update({"new": new, "old": old})
            self.assertEqual(self.result(self.discovery.named("cups")).resource, new)
            self.assertEqual(self.result(self.discovery.named("cups.v1.example.com")).resource, old)
            self.assertEqual(self.result(self.discovery.kind("example.com/v1", "Cup")).resource, old)
            self.assertEqual(self.result(self.discovery.catalog()).groups["example.com"], ["v2", "v1"])

        def test_stale_group(self) -> None:
            """A group whose server does not answer takes nothing but itself away, and is named."""
            self.served.add(TEAPOTS)
            self.served.stale.add("kitchen.example.com/v1beta1")
            self.assertEqual(self.result(self.discovery.named("pods"), 10).resource, PODS)
            error = self.failure(self.discovery.kind("kitchen.example.com/v1beta1", "TeaPot"), NotServed, 10)
            self.assertIn("kitchen.example.com/v1beta1 can't be read", error.sentence)


class AggregatedTests(Cases.Base):
    """Everything in two answers."""

    def test_two_calls(self) -> None:
        """The server is asked twice: once for the core, once for all groups."""
        self.result(self.discovery.catalog())
        self.assertEqual([code for _, what, code in self.observed if what == "discovery"], [200, 200])

    def test_new_kind(self) -> None:
        """What was not there is looked for anew: a CRD with a strange name."""
        self.failure(self.discovery.kind(TEAPOTS.api_version, "TeaPot"), NotServed)
        self.served.add(TEAPOTS)
        self.advance(MISS_INTERVAL + 1)
        self.assertEqual(self.result(self.discovery.kind(TEAPOTS.api_version, "TeaPot")).resource, TEAPOTS)
        self.assertEqual(self.result(self.discovery.named("te-a-pots-2")).resource, TEAPOTS)

    def test_misses_are_bounded(self) -> None:
        """Whoever guesses names does not make the agent read all the time."""
        for _ in range(50):
            self.failure(self.discovery.named("nonsense"), NotServed)
        self.assertEqual(self.served.read, 1)
        self.advance(MISS_INTERVAL + 1)
        for _ in range(50):
            self.failure(self.discovery.named("nonsense"), NotServed)
        self.assertEqual(self.served.read, 2)

    def test_lifetime(self) -> None:
        """What was read holds for its lifetime, then it is read again."""
        self.result(self.discovery.named("pods"))
        self.advance(LIFETIME - 1, step=60)
        self.result(self.discovery.named("pods"))
        self.assertEqual(self.served.read, 1)
        self.advance(2)
        self.result(self.discovery.named("pods"))
        self.assertEqual(self.served.read, 2)

    def test_at_once(self) -> None:
        """Many who ask at one time share one reading, and one who gives up takes it from nobody."""
        page = self.server.pages["/api"]
        self.server.pages["/api"] = lambda request: NOT_DONE_YET
        waiting = [Deferred.fromCoroutine(self.discovery.named("pods")) for _ in range(5)]
        self.flush()
        self.server.pages["/api"] = page
        waiting[0].cancel()
        self.failureResultOf(waiting[0], CancelledError)
        self.flush()
        for each in waiting[1:]:
            self.assertEqual(self.successResultOf(each).resource, PODS)
        self.assertEqual(self.served.read, 1)

    def test_told(self) -> None:
        """Each catalog that was read is told, once."""
        for _ in range(2):
            self.result(self.discovery.named("pods"))
        (catalog,) = self.told
        self.assertEqual(catalog.groups["apps"], ["v1"])

    def test_another_server(self) -> None:
        """What is read while the server becomes another one is not kept."""
        page = self.server.pages["/api"]
        held: list[Request] = []

        def hold(request: Request) -> int:
            held.append(request)
            return NOT_DONE_YET

        self.server.pages["/api"] = hold
        waiting = self.begin(self.discovery.catalog())
        self.discovery.forget()
        self.server.pages["/api"] = page
        held[0].write(page(held[0]))
        held[0].finish()
        self.flush()
        self.successResultOf(waiting)
        self.assertEqual(self.told, [])
        self.result(self.discovery.catalog())
        self.assertEqual(len(self.told), 1)

    def test_other_versions(self) -> None:
        """A kind that is there in another version: the message names that."""
        error = self.failure(self.discovery.kind("apps/v1beta2", "Deployment"), NotServed)
        self.assertIn("it has apps/v1", error.sentence)

    def test_unsound_names(self) -> None:
        """A server that names what can't stand in a path is not believed; the rest is."""
        self.server.known["bad"] = Resource(
            group="example.com", version="v1", plural="../secrets", kind="Bad"
        )
        self.failure(self.discovery.kind("example.com/v1", "Bad"), NotServed)
        self.assertEqual(self.result(self.discovery.named("po")).resource, PODS)

    def test_too_many(self) -> None:
        """A server with more resources than the limit is an error, not a full memory."""
        self.patch(discovery, "MAX_RESOURCES", 5)
        self.assertIn("more than 5", self.failure(self.discovery.catalog(), BadAnswer).sentence)

    def test_not_discovery(self) -> None:
        """An answer that is something else."""
        self.server.pages["/apis"] = lambda request: b"<html>"
        self.assertIn("no list of API groups", self.failure(self.discovery.catalog(), BadAnswer).sentence)


class ListedTests(Cases.Base):
    """Group by group, from a server that does not aggregate."""

    aggregated = False

    def test_refused(self) -> None:
        """Where discovery is not allowed, that is the error."""
        del self.server.pages["/api"]
        self.failure(self.discovery.catalog(), StatusError)


class SoundTests(FakeApiCase):
    """What can stand in a path."""

    def test_names(self) -> None:
        """Letters, digits, dots and dashes."""
        for name in ("pods", "te-a-pots-2", "example.com", "v1beta1", "x"):
            self.assertTrue(sound(name), name)
        for name in ("", ".", "..", "a/b", "a%2fb", "a b", "-", "a?", "é", "a" * 300):
            self.assertFalse(sound(name), name)
