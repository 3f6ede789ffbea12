"""Tests of L{pipeops_agent.cluster.operations.rollout}: how far, and why not."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.cluster.operations import BadRequest
from pipeops_agent.cluster.operations.reasons import MAX_PROBLEMS
from pipeops_agent.cluster.operations.workloads import Selector
from pipeops_agent.cluster.scope import OutOfReach, Scope
from tests.cluster.fakeapi import Fault
from tests.cluster.operations.case import OperationCase

DONE = {
    "observedGeneration": 9,
    "replicas": 2,
    "updatedReplicas": 2,
    "readyReplicas": 2,
    "availableReplicas": 2,
}


class RolloutCase(OperationCase):
    """With a deployment of two pods."""

    def web(self, status: dict[str, Any], plural: str = "deployments.apps", **spec: Any) -> None:
        """Let it stand like this."""
        selector = {"matchLabels": {"app": "web"}}
        made = {
            "metadata": {"name": "web", "annotations": {"deployment.kubernetes.io/revision": "3"}},
            "spec": {"replicas": 2, "selector": selector, **spec},
            "status": {"observedGeneration": 9, **status},
        }
        try:
            self.storage.delete(plural, "shop", "web")
        except Exception:
            self.uid = ""
        self.uid = self.storage.create(plural, "shop", made)["metadata"]["uid"]

    def replica_set(self, revision: str = "3", conditions: tuple[Any, ...] = ()) -> None:
        """Let there be one of this revision."""
        meta = {
            "name": f"web-{revision}",
            "labels": {"app": "web", "pod-template-hash": f"h{revision}"},
            "annotations": {"deployment.kubernetes.io/revision": revision},
            "ownerReferences": [{"uid": self.uid, "kind": "Deployment", "controller": True}],
        }
        made = {"metadata": meta, "spec": {}, "status": {"conditions": list(conditions)}}
        self.storage.create("replicasets.apps", "shop", made)

    def waiting(
        self, reason: str, message: str = "", *, name: str = "web-3-a", revision: str = "3", **more: Any
    ) -> None:
        """Let there be a pod whose container waits for something."""
        status = {"name": "main", "state": {"waiting": {"reason": reason, "message": message}}, **more}
        self.pod(
            name,
            metadata={"name": name, "labels": {"app": "web", "pod-template-hash": f"h{revision}"}},
            status={"phase": "Pending", "containerStatuses": [status]},
        )

    def look(self, target: str = "deploy shop/web") -> Any:
        """One look."""
        return self.done("rollout", target, wait=False)


class StandTests(RolloutCase):
    """How far a rollout is: the rules of kubectl."""

    def test_deployment(self) -> None:
        """Seen, made, old ones gone, available."""
        for status, message in (
            ({"observedGeneration": 0}, "waiting until the controller has seen the change"),
            ({"updatedReplicas": 1}, "1 of 2 new pods made"),
            ({"updatedReplicas": 2, "replicas": 3}, "1 old pod still to end"),
            ({"updatedReplicas": 2, "replicas": 2, "availableReplicas": 1}, "1 of 2 new pods available"),
        ):
            self.web(status)
            found = self.look()
            self.assertEqual((found.state, found.message), ("going on", message))
        self.web(DONE)
        found = self.look()
        self.assertEqual(
            (found.state, found.message, found.ready, found.wanted), ("done", "2 pods available", 2, 2)
        )

    def test_stateful_set(self) -> None:
        """Ready, and renewed above the partition."""
        plural, target = "statefulsets.apps", "statefulsets shop/web"
        revisions = {"currentRevision": "a", "updateRevision": "b"}
        self.web({"readyReplicas": 1}, plural)
        self.assertEqual(self.look(target).message, "1 of 2 pods ready")
        self.web({"readyReplicas": 2, "updatedReplicas": 1, **revisions}, plural)
        self.assertEqual(self.look(target).message, "1 of 2 pods renewed")
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
        self.web({"readyReplicas": 2, "updatedReplicas": 1, **revisions}, plural, updateStrategy=rolling)
        self.assertEqual(self.look(target).state, "done")

    def test_daemon_set(self) -> None:
        """On every node, renewed and available."""
        plural, target = "daemonsets.apps", "daemonsets shop/web"
        status = {"desiredNumberScheduled": 3, "updatedNumberScheduled": 2, "numberAvailable": 2}
        self.web(status, plural)
        self.assertEqual(self.look(target).message, "2 of 3 pods renewed")
        self.web({**status, "updatedNumberScheduled": 3}, plural)
        self.assertEqual(self.look(target).message, "2 of 3 pods available")
        self.web({**status, "updatedNumberScheduled": 3, "numberAvailable": 3}, plural)
        self.assertEqual(self.look(target).state, "done")

    def test_nothing_rolls_out(self) -> None:
        """Paused, renewed by hand, or another kind."""
        self.web({}, paused=True)
        self.assertIn("paused", self.failure(self.command("rollout", "deploy shop/web"), BadRequest).sentence)
        self.web({}, "daemonsets.apps", updateStrategy={"type": "OnDelete"})
        error = self.failure(self.command("rollout", "daemonsets shop/web"), BadRequest)
        self.assertIn("OnDelete", error.sentence)
        self.failure(self.command("rollout", "pods shop/web"), BadRequest)

    def test_reading(self) -> None:
        """To follow one changes nothing, so the owner's switch lets it pass; a denial by name does not."""
        self.web(DONE)
        self.done("rollout", "deploy shop/web", scope=Scope(read_only=True))
        for scope in (Scope(denied_verbs=frozenset({"rollout"})), Scope(denied_verbs=frozenset({"get"}))):
            self.failure(self.command("rollout", "deploy shop/web", scope=scope), OutOfReach)


class FollowTests(RolloutCase):
    """Until it is done, or can't be."""

    def test_done(self) -> None:
        """Each step is told once."""
        self.web({"updatedReplicas": 1})
        running = self.begin(self.command("rollout", "deploy shop/web"))
        self.advance(7)
        self.web({"updatedReplicas": 2, "replicas": 2, "availableReplicas": 1})
        self.advance(3)
        self.web(DONE)
        self.advance(3)
        found: Any = self.successResultOf(running)
        self.assertTrue(found.success)
        self.assertEqual(
            [each.message for each in self.progress],
            ["1 of 2 new pods made", "1 of 2 new pods available", "2 pods available"],
        )
        self.assertEqual((self.progress[-1].done, self.progress[-1].total), (2, 2))

    def test_lasting(self) -> None:
        """An image that can't be pulled fails it after a while, with the pod's own words."""
        self.web({"updatedReplicas": 2, "replicas": 2})
        self.replica_set()
        self.waiting("ImagePullBackOff", 'Back-off pulling image "shop:9"')
        running = self.begin(self.command("rollout", "deploy shop/web", patience=20))
        self.advance(19)
        self.assertNoResult(running)
        self.advance(4)
        found: Any = self.successResultOf(running)
        self.assertEqual((found.success, found.state, found.reason), (False, "failed", "ImagePull"))
        self.assertIn(
            'pods shop/web-3-a: container main: ImagePullBackOff: Back-off pulling image "shop:9"',
            found.error,
        )

    def test_passing(self) -> None:
        """What passes in time does not count; nor do two short ones together."""
        self.web({"updatedReplicas": 2, "replicas": 2})
        self.replica_set()
        running = self.begin(self.command("rollout", "deploy shop/web", patience=20))
        for _ in range(3):
            self.waiting("ErrImagePull")
            self.advance(15)
            self.storage.delete("pods", "shop", "web-3-a")
            self.advance(5)
        self.assertNoResult(running)
        self.web(DONE)
        self.advance(3)
        self.assertEqual(self.successResultOf(running).success, True)

    def test_progress_deadline(self) -> None:
        """The deployment's own deadline ends it at once."""
        late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
        self.web({"updatedReplicas": 1, "conditions": [late]})
        found = self.done("rollout", "deploy shop/web")
        self.assertEqual((found.state, found.reason), ("failed", "DeadlineExceeded"))
        self.assertIn("1 of 2 new pods made", found.error)

    def test_time_is_up(self) -> None:
        """The operation's own time: a result with what is known, before it is cut off."""
        self.web({"updatedReplicas": 1})
        found = self.done("rollout", "deploy shop/web", timeout=20.0, seconds=20)
        self.assertEqual((found.state, found.reason), ("failed", "TimedOut"))

    def test_deleted_meanwhile(self) -> None:
        """A workload that goes is the API's error."""
        self.web({"updatedReplicas": 1})
        running = self.begin(self.command("rollout", "deploy shop/web"))
        self.storage.delete("deployments.apps", "shop", "web")
        self.advance(3)
        self.failureResultOf(running)


class ReasonTests(RolloutCase):
    """What keeps it."""

    def setUp(self) -> None:
        super().setUp()
        self.web({"updatedReplicas": 2, "replicas": 2})

    def reasons(self) -> list[tuple[str, str]]:
        return [(problem.reason, problem.object) for problem in self.look().problems]

    def test_containers(self) -> None:
        """Each of the states that hardly ever pass, in init containers too."""
        self.replica_set()
        for index, (waiting, reason) in enumerate(
            (
                ("ErrImagePull", "ImagePull"),
                ("InvalidImageName", "ImagePull"),
                ("CrashLoopBackOff", "CrashLoop"),
                ("CreateContainerConfigError", "Configuration"),
            )
        ):
            self.waiting(waiting, name=f"web-{index}")
            self.assertEqual(self.reasons(), [(reason, f"pods shop/web-{index}")])
            self.storage.delete("pods", "shop", f"web-{index}")
        self.waiting("ContainerCreating")
        self.assertEqual(self.reasons(), [])

    def test_crash(self) -> None:
        """A crash loop has the exit code and how often."""
        self.replica_set()
        ended = {"terminated": {"exitCode": 3, "reason": "Error"}}
        self.waiting("CrashLoopBackOff", "back-off 10s", lastState=ended, restartCount=4)
        problem = self.look().problems[0]
        self.assertTrue(problem.lasting)
        self.assertIn("back-off 10s (exit code 3, 4 restarts)", problem.message)

    def test_only_new_pods(self) -> None:
        """Old pods' troubles are not the rollout's."""
        self.replica_set("2")
        self.replica_set("3")
        self.waiting("CrashLoopBackOff", name="web-2-a", revision="2")
        self.assertEqual(self.reasons(), [])

    def test_quota(self) -> None:
        """Of the replica set of this revision."""
        failure = {
            "type": "ReplicaFailure",
            "status": "True",
            "reason": "FailedCreate",
            "message": 'pods "web" is forbidden: exceeded quota: none',
        }
        self.replica_set("3", (failure,))
        problem = self.look().problems[0]
        self.assertEqual((problem.reason, problem.object), ("Quota", "replicasets.apps shop/web-3"))
        self.assertFalse(problem.lasting)

    def test_unschedulable(self) -> None:
        """With the scheduler's words; a lasting problem comes before it."""
        self.replica_set()
        no_room = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
        labels = {"app": "web", "pod-template-hash": "h3"}
        self.pod("web-3-0", metadata={"name": "web-3-0", "labels": labels}, status={"conditions": [no_room]})
        self.assertIn("0/3 nodes are available (Unschedulable)", self.look().problems[0].sentence)
        self.waiting("CrashLoopBackOff")
        self.assertEqual([reason for reason, _ in self.reasons()], ["CrashLoop", "Unschedulable"])

    def test_events(self) -> None:
        """Where the pods themselves say nothing, the warnings about one do."""
        self.replica_set()
        self.waiting("ContainerCreating")
        uid = self.storage.get("pods", "shop", "web-3-a")["metadata"]["uid"]
        for name, kind, of in (("a", "Warning", uid), ("b", "Normal", uid), ("c", "Warning", "other")):
            self.storage.create(
                "events",
                "shop",
                {
                    "metadata": {"name": name},
                    "type": kind,
                    "reason": "FailedMount",
                    "message": f"no volume\n{name}",
                    "involvedObject": {"uid": of},
                },
            )
        self.assertEqual(
            [problem.sentence for problem in self.look().problems],
            ["pods shop/web-3-a: FailedMount: no volume a (Event)"],
        )

    def test_not_allowed_to_look(self) -> None:
        """Whoever may not list pods is told how far it is all the same."""
        self.replica_set()
        self.waiting("CrashLoopBackOff")
        for path in ("pods", "events"):
            self.server.faults.append(Fault(path=f"/api/v1/namespaces/shop/{path}", code=403, times=9))
        found = self.look()
        self.assertEqual((found.message, found.problems), ("0 of 2 new pods available", ()))

    def test_many(self) -> None:
        """What is told is bounded."""
        self.replica_set()
        for index in range(2 * MAX_PROBLEMS):
            self.waiting("CrashLoopBackOff", name=f"web-{index}")
        self.assertEqual(len(self.look().problems), MAX_PROBLEMS)


class SelectorTests(SynchronousTestCase):
    """A workload's selector as a query has it."""

    def test_text(self) -> None:
        """Labels and each kind of expression."""
        given = {
            "matchLabels": {"a": "b"},
            "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["d", "e"]},
                {"key": "f", "operator": "NotIn", "values": ["g"]},
                {"key": "h", "operator": "Exists"},
                {"key": "i", "operator": "DoesNotExist"},
            ],
        }
        self.assertEqual(msgspec.convert(given, Selector).text(), "a=b,c in (d,e),f notin (g),h,!i")
