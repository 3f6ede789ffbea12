"""Tests of L{pipeops_agent.cluster.reaching}: whether the API server is there."""

from __future__ import annotations

from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.reaching import DOUBTS, PATIENCE, QUIET, SLOWEST, Reachability, Reached
from tests.cluster.case import FakeApiCase
from tests.cluster.fakeapi import Fault


class OneCluster:
    """An access to the one cluster of the test, found at the first look, or when it is moved."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.configured = True
        self.another = True
        self.looks = 0

    def look(self, *, again: bool = False) -> bool:
        self.looks += 1
        another, self.another = self.another, False
        return another


class ReachingTests(FakeApiCase):
    def setUp(self) -> None:
        super().setUp()
        self.access = OneCluster(self.api)
        self.told: list[Reached] = []
        self.changes = 0
        self.reachability = Reachability(
            self.clock,
            self.access,  # type: ignore[arg-type]  # which makes connections of its own
            told=self.told.append,
            changed=self.changed,
            random=lambda: 0.5,
        )

    def changed(self) -> None:
        self.changes += 1

    def tearDown(self) -> None:
        self.successResultOf(self.reachability.stopService())
        super().tearDown()

    def start(self) -> None:
        self.reachability.startService()
        self.advance(0.5)

    def asked(self) -> int:
        """How often the version was asked for."""
        return sum(resource == "version" for _, resource, _ in self.observed)

    def test_found(self) -> None:
        """At the start it is asked, and its version told."""
        self.start()
        self.assertEqual(self.told, [Reached(reached=True, version="v1.34.4")])
        self.assertEqual((self.changes, self.asked()), (1, 1))

    def test_quiet(self) -> None:
        """It is asked again when nothing was heard for L{QUIET} seconds, and no sooner."""
        self.start()
        self.advance(QUIET - 2)
        self.assertEqual(self.asked(), 1)
        self.advance(7)
        self.assertEqual(self.asked(), 2)

    def test_calls_are_proof(self) -> None:
        """While calls get through nothing is asked: an answer of any kind is one, but for 401 and 5xx."""
        self.start()
        for _ in range(10):
            self.advance(QUIET / 3)
            self.reachability.observed(403)
        self.assertEqual(self.asked(), 1)

    def test_one_bad_call(self) -> None:
        """A call that fails raises the question; it is not the answer."""
        self.start()
        self.advance(DOUBTS)
        for code in (None, 500, 401, None):
            self.reachability.observed(code)
        self.advance(1)
        self.assertEqual(self.asked(), 2)
        self.assertTrue(self.reachability.now.reached)

    def test_many_bad_calls(self) -> None:
        """However many fail, it is asked no more often than each L{DOUBTS} seconds."""
        self.start()
        for _ in range(100):
            self.reachability.observed(None)
            self.advance(0.1)
        self.assertLessEqual(self.asked(), 2 + 10 / DOUBTS)

    def test_silence(self) -> None:
        """A server that accepts and never answers counts as away after L{PATIENCE} seconds."""
        self.start()
        self.server.faults.append(Fault(path="/version", hang=True, times=99))
        self.advance(QUIET + PATIENCE + 6)
        self.assertFalse(self.reachability.now.reached)
        self.assertIn("no answer", self.reachability.now.sentence)
        self.assertEqual(self.reachability.now.version, "v1.34.4")

    def test_returns(self) -> None:
        """One that is away is asked again within L{SLOWEST} seconds, and at once when a call gets through."""
        self.server.faults.append(Fault(path="/version", code=503, times=10_000))
        self.start()
        self.advance(300, step=1)
        self.assertFalse(self.reachability.now.reached)
        self.server.faults.clear()
        self.advance(SLOWEST + 6)
        self.assertTrue(self.reachability.now.reached)

    def test_call_gets_through(self) -> None:
        """While it counts as away a call that gets through brings the question forward."""
        self.server.faults.append(Fault(path="/version", code=503, times=10_000))
        self.start()
        self.advance(100, step=1)
        self.server.faults.clear()
        self.reachability.observed(200)
        self.advance(0.5)
        self.assertTrue(self.reachability.now.reached)

    def test_another_cluster(self) -> None:
        """Another cluster is told as such, and asked at once."""
        self.start()
        self.access.another = True
        self.server.git_version = "v1.35.0"
        self.advance(6)
        self.assertEqual((self.changes, self.told[-1].version), (2, "v1.35.0"))

    def test_none_configured(self) -> None:
        """Without a cluster nothing is looked for."""
        self.access.configured = False
        self.start()
        self.advance(60)
        self.assertEqual((self.told, self.access.looks, self.asked()), ([], 0, 0))
