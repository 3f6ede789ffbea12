"""Tests of L{pipeops_agent.cluster.lease}: several replicas, one lease."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from pipeops_agent.cluster.lease import DURATION, RENEW_DEADLINE, RETRY_PERIOD, LeaseGate
from tests.cluster.case import NOON, FakeApiCase
from tests.cluster.fakeapi import Fault

PLACE = ("leases.coordination.k8s.io", "pipeops-system", "pipeops-agent")
TURN = 2 * RETRY_PERIOD
"""Seconds in which every replica has looked."""


class LeaseCase(FakeApiCase):
    """Replicas that are made with L{gate}, and left at the end of the test."""

    def setUp(self) -> None:
        super().setUp()
        self.gates: list[LeaseGate] = []
        self.entering: list[Deferred[None]] = []
        self.said: list[str] = []

    def gate(self, identity: str, *, strict: bool = False, skew: float = 0.0) -> LeaseGate:
        def wall() -> datetime:
            return NOON + timedelta(seconds=self.clock.seconds() + skew)

        gate = LeaseGate(
            self.clock,
            self.api,
            PLACE[1],
            PLACE[2],
            identity=identity,
            strict=strict,
            wall=wall,
            say=self.said.append,
            random=lambda: 0.5,
        )
        self.gates.append(gate)
        return gate

    def enter(self, gate: LeaseGate) -> Deferred[None]:
        entering: Deferred[None] = self.begin(gate.enter())
        self.entering.append(entering)
        return entering

    def tearDown(self) -> None:
        for entering in self.entering:
            entering.addErrback(lambda failure: failure.trap(CancelledError))
            entering.cancel()
        self.server.faults.clear()
        for gate in self.gates:
            self.result(gate.leave(), 2)
        super().tearDown()

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.storage.get(*PLACE)["spec"]
        return spec


class EnterTests(LeaseCase):
    """Who gets in."""

    def test_first(self) -> None:
        """The first one makes the lease and holds it, with the usual fields."""
        entering = self.enter(self.gate("a"))
        self.successResultOf(entering)
        self.assertEqual(self.spec["holderIdentity"], "a")
        self.assertEqual((self.spec["leaseDurationSeconds"], self.spec["leaseTransitions"]), (DURATION, 0))
        self.assertEqual(self.spec["renewTime"], "2026-03-04T12:00:00.000000Z")

    def test_second_waits(self) -> None:
        """The second one waits as long as the first renews, and says for whom, once."""
        self.enter(self.gate("a"))
        entering = self.enter(self.gate("b"))
        self.advance(10 * DURATION, step=0.5)
        self.assertNoResult(entering)
        self.assertEqual(len(self.said), 1)
        self.assertIn("a is active and holds the lease pipeops-system/pipeops-agent", self.said[0])

    def test_released(self) -> None:
        """A lease that was given back is taken within a turn, not after its duration."""
        first = self.gate("a")
        self.enter(first)
        entering = self.enter(self.gate("b"))
        self.result(first.leave())
        self.advance(TURN)
        self.successResultOf(entering)
        self.assertEqual((self.spec["holderIdentity"], self.spec["leaseTransitions"]), ("b", 1))

    def test_dead_holder(self) -> None:
        """A lease that is not renewed is taken when its duration is over, and not before."""
        self.storage.create(
            PLACE[0],
            PLACE[1],
            {
                "metadata": {"name": PLACE[2]},
                "spec": {"holderIdentity": "dead", "leaseDurationSeconds": 15, "leaseTransitions": 3},
            },
        )
        entering = self.enter(self.gate("b"))
        self.advance(DURATION - 1)
        self.assertNoResult(entering)
        self.advance(1 + TURN)
        self.successResultOf(entering)
        self.assertEqual(self.spec["leaseTransitions"], 4)

    def test_skewed_clocks(self) -> None:
        """Clocks that are ten minutes off, either way, change nothing: none is stolen, none waited for."""
        for skew in (-600.0, 600.0):
            self.enter(self.gate("a"))
            late = self.gate("b", skew=skew)
            entering = self.enter(late)
            self.advance(2 * DURATION)
            self.assertNoResult(entering)
            self.result(self.gates[-2].leave())
            self.advance(TURN)
            self.successResultOf(entering)
            self.result(late.leave())

    def test_race(self) -> None:
        """Of two that find the lease free at the same moment one gets it."""
        self.server.faults.append(Fault(verb="update", times=0))
        first = self.gate("a")
        self.enter(first)
        self.result(first.leave())
        entering = [self.enter(self.gate(name)) for name in ("b", "c")]
        self.advance(TURN)
        self.assertEqual(sum(each.called for each in entering), 1)

    def test_no_server(self) -> None:
        """While the API server can't be reached it waits and says why; then it enters."""
        self.server.faults.append(Fault(times=12, code=503))
        entering = self.enter(self.gate("a"))
        self.advance(3)
        self.assertNoResult(entering)
        self.advance(30)
        self.successResultOf(entering)
        self.assertIn("waiting for the lease", self.said[0])

    def test_cancel(self) -> None:
        """Cancelled, it has not entered, and asks no more."""
        self.enter(self.gate("a"))
        entering = self.enter(self.gate("b"))
        entering.cancel()
        self.failureResultOf(entering, CancelledError)
        seen = len(self.server.seen)
        self.gates[0]._tasks.stop()
        self.advance(3 * DURATION)
        self.assertEqual(len(self.server.seen), seen)


class KeepTests(LeaseCase):
    """Holding it, and losing it."""

    def hold(self, *, strict: bool = False) -> tuple[LeaseGate, list[str]]:
        gate = self.gate("a", strict=strict)
        self.successResultOf(self.enter(gate))
        lost: list[str] = []
        gate.when_lost().addCallback(lost.append)
        return gate, lost

    def test_renewed(self) -> None:
        """It is renewed every two seconds."""
        self.hold()
        self.advance(20)
        self.assertEqual(self.spec["renewTime"], "2026-03-04T12:00:20.000000Z")

    def test_other_holder(self) -> None:
        """Another holder in the lease: lost, whoever is right."""
        _, lost = self.hold()
        taken = dict(self.storage.get(*PLACE))
        taken["spec"] = {"holderIdentity": "b", "leaseDurationSeconds": 15}
        self.storage.replace(*PLACE, taken)
        self.advance(TURN)
        self.assertEqual(len(lost), 1)
        self.assertIn("b holds the lease", lost[0])

    def test_someone_changed_a_label(self) -> None:
        """A write that leaves us the holder is no loss."""
        _, lost = self.hold()
        changed = dict(self.storage.get(*PLACE))
        changed["metadata"] = {**changed["metadata"], "labels": {"seen": "yes"}}
        self.storage.replace(*PLACE, changed)
        self.advance(3 * TURN)
        self.assertEqual(lost, [])
        self.assertEqual(self.spec["renewTime"][:19], "2026-03-04T12:00:12")
        self.assertEqual(self.storage.get(*PLACE)["metadata"]["labels"], {"seen": "yes"})

    def test_what_others_put_there(self) -> None:
        """Labels, annotations and fields that the agent has no use for stay, from first to last."""
        more = {"labels": {"app": "agent"}, "annotations": {"of": "a chart"}}
        spec = {"holderIdentity": "", "preferredHolder": "a"}
        self.storage.create(*PLACE[:2], {"metadata": {"name": PLACE[2], **more}, "spec": spec})
        gate, _ = self.hold()
        self.advance(3 * TURN)
        self.result(gate.leave(), 2)
        kept = self.storage.get(*PLACE)["metadata"]
        self.assertEqual({name: kept[name] for name in more}, more)
        self.assertEqual((self.spec["preferredHolder"], self.spec["holderIdentity"]), ("a", ""))

    def test_deleted(self) -> None:
        """A lease that somebody deletes is made anew."""
        _, lost = self.hold()
        self.storage.delete(*PLACE)
        self.advance(TURN)
        self.assertEqual((lost, self.spec["holderIdentity"]), ([], "a"))

    def test_server_away(self) -> None:
        """An API server that is away changes nothing, however long; then it is renewed again."""
        _, lost = self.hold()
        self.server.faults.append(Fault(times=10**6, hang=True))
        self.advance(300, step=0.5)
        self.assertEqual(lost, [])
        self.assertEqual(len(self.said), 1)
        self.server.faults.clear()
        self.advance(RENEW_DEADLINE + TURN)
        self.assertGreater(self.spec["renewTime"], "2026-03-04T12:05:00")

    def test_strict(self) -> None:
        """A strict holder gives up at the renew deadline: before others may take the lease."""
        for fault in (Fault(times=10**6, hang=True), Fault(times=10**6, code=503)):
            gate, lost = self.hold(strict=True)
            self.advance(1)
            self.server.faults.append(fault)
            self.advance(RENEW_DEADLINE - 1.5)
            self.assertEqual(lost, [])
            self.advance(DURATION - RENEW_DEADLINE)
            self.assertEqual(len(lost), 1)
            self.assertIn("could not be renewed", lost[0])
            self.server.faults.clear()
            self.result(gate.leave(), 2)
            self.storage.delete(*PLACE)

    def test_enter_again(self) -> None:
        """What was lost can be waited for again."""
        gate, lost = self.hold(strict=True)
        self.server.faults.append(Fault(times=10**6, hang=True))
        self.advance(DURATION)
        self.assertEqual(len(lost), 1)
        self.server.faults.clear()
        entering = self.enter(gate)
        self.advance(TURN)
        self.successResultOf(entering)

    def test_leave(self) -> None:
        """Left, the lease is nobody's; a second time does nothing."""
        gate, _ = self.hold()
        self.result(gate.leave())
        self.assertEqual((self.spec["holderIdentity"], self.spec["leaseDurationSeconds"]), ("", 1))
        seen = len(self.server.seen)
        self.result(gate.leave())
        self.assertEqual(len(self.server.seen), seen)

    def test_leave_with_a_server_that_hangs(self) -> None:
        """Leaving takes a second at most."""
        gate, _ = self.hold()
        self.server.faults.append(Fault(times=10**6, hang=True))
        self.result(gate.leave(), 1.5)
