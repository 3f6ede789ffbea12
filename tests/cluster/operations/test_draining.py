"""Tests of L{pipeops_agent.cluster.operations.draining}."""

from __future__ import annotations

from typing import Any

from pipeops_agent.cluster.errors import StatusError
from pipeops_agent.cluster.operations import BadRequest, OutOfTime
from pipeops_agent.cluster.scope import OutOfReach, Scope
from tests.cluster.fakeapi import Fault
from tests.cluster.operations.case import OperationCase


class NodeCase(OperationCase):
    """With a node C{n1}."""

    def setUp(self) -> None:
        super().setUp()
        self.storage.create("nodes", "", {"metadata": {"name": "n1"}, "spec": {}})

    def on(
        self,
        name: str,
        owner: str = "ReplicaSet",
        *,
        namespace: str = "shop",
        node: str = "n1",
        phase: str = "Running",
        volumes: tuple[Any, ...] = (),
        **meta: Any,
    ) -> None:
        """Let there be a pod on a node."""
        if owner:
            meta["ownerReferences"] = [{"kind": owner, "name": "x", "uid": "u", "controller": True}]
        self.pod(
            name,
            namespace,
            metadata={"name": name, **meta},
            spec={"nodeName": node, "volumes": list(volumes)},
            status={"phase": phase},
        )

    def cordoned(self) -> bool:
        return bool(self.storage.get("nodes", "", "n1")["spec"].get("unschedulable"))

    def evicted(self) -> list[str]:
        return [key for key, _ in self.evictions.asked]


class CordonTests(NodeCase):
    """C{cordon} and C{uncordon}."""

    def test_there_and_back(self) -> None:
        """The type may be left out."""
        self.assertFalse(self.done("cordon", "node n1").schedulable)
        self.assertTrue(self.cordoned())
        self.assertTrue(self.done("uncordon", " n1").schedulable)
        self.assertFalse(self.cordoned())

    def test_refused(self) -> None:
        """Other kinds; what the owner denies."""
        self.assertIn("is for nodes", self.failure(self.command("cordon", "ns n1"), BadRequest).sentence)
        self.failure(self.command("cordon", "node"), BadRequest)
        self.failure(self.command("cordon", "node n1", scope=Scope(read_only=True)), OutOfReach)
        self.failure(
            self.command("cordon", "node n1", scope=Scope(denied_kinds=frozenset({"node"}))), OutOfReach
        )
        self.assertFalse(self.cordoned())


class DrainTests(NodeCase):
    """C{drain}."""

    def test_empty(self) -> None:
        """Pods are evicted, each as the very one that was seen; those of other nodes are not."""
        self.on("a")
        self.on("b", namespace="bank")
        self.on("elsewhere", node="n2")
        uid = self.storage.get("pods", "shop", "a")["metadata"]["uid"]
        drained = self.done("drain", "node n1", grace_seconds=5, seconds=3)
        self.assertEqual(drained.evicted, ["bank/b", "shop/a"])
        self.assertTrue(self.cordoned())
        options = dict(self.evictions.asked)["shop/a"]["deleteOptions"]
        self.assertEqual(options, {"preconditions": {"uid": uid}, "gracePeriodSeconds": 5})
        self.assertEqual(self.said()[-1], "nodes n1: empty: 2 pods evicted")
        self.assertEqual(self.progress[-2].done, 2)

    def test_nothing_there(self) -> None:
        """An empty node is only cordoned."""
        self.assertEqual(self.done("drain", "node n1").evicted, [])
        self.assertTrue(self.cordoned())

    def test_left(self) -> None:
        """Daemon sets' pods and the kubelet's own stay; ended ones go."""
        self.on("ds", "DaemonSet")
        self.on("static", "Node", annotations={"kubernetes.io/config.mirror": "x"})
        self.on("job", "", phase="Succeeded", volumes=({"emptyDir": {}},))
        drained = self.done("drain", "node n1", seconds=3)
        self.assertEqual((drained.evicted, drained.left), (["shop/job"], ["shop/ds", "shop/static"]))

    def test_protected(self) -> None:
        """A disruption budget is waited for, and holds up nobody else."""
        self.on("a")
        self.on("b")
        self.evictions.protected["shop/a"] = 2
        running = self.begin(self.command("drain", "node n1"))
        self.assertEqual([pod["metadata"]["name"] for pod in self.storage.all("pods", None)], ["a"])
        self.assertIn("pods shop/a: protected for now: Cannot evict pod", "\n".join(self.said()))
        self.advance(7)
        self.successResultOf(running)
        self.assertEqual(self.evicted(), ["shop/a", "shop/b", "shop/a", "shop/a"])

    def test_lingering(self) -> None:
        """A pod is waited for until it is gone, and is not evicted twice."""
        self.on("a")
        self.evictions.lingering.add("shop/a")
        running = self.begin(self.command("drain", "node n1"))
        self.advance(9)
        self.assertNoResult(running)
        self.storage.delete("pods", "shop", "a")
        self.advance(3)
        self.successResultOf(running)
        self.assertEqual(self.evicted(), ["shop/a"])

    def test_gone_by_itself(self) -> None:
        """A pod that goes before it could be evicted, and one whose namespace is going."""
        self.on("a")
        self.on("b")
        body = b'{"kind": "Status", "code": 403, "message": "forbidden: because it is being terminated"}'
        self.server.faults += [
            Fault(path="/api/v1/namespaces/shop/pods/a/eviction", code=404),
            Fault(path="/api/v1/namespaces/shop/pods/b/eviction", code=403, body=body),
        ]
        running = self.begin(self.command("drain", "node n1"))
        for name in ("a", "b"):
            self.storage.delete("pods", "shop", name)
        self.advance(3)
        self.successResultOf(running)
        self.assertEqual(self.evicted(), [])

    def test_not_allowed(self) -> None:
        """Without the right to evict it ends, with the API's words."""
        self.on("a")
        self.server.faults.append(Fault(path="/api/v1/namespaces/shop/pods/a/eviction", code=403))
        self.assertTrue(self.failure(self.command("drain", "node n1"), StatusError).forbidden)

    def test_refused(self) -> None:
        """What would be lost is a reason to refuse, and then nothing has been changed."""
        self.on("lone", "")
        self.on("cache", volumes=({"emptyDir": {}},))
        self.on("ds", "DaemonSet")
        error = self.failure(self.command("drain", "node n1", ignore_daemon_sets=False), BadRequest)
        for words in (
            "pods that nothing would make anew (force): shop/lone",
            "pods with local data, which would be lost (delete_local_data): shop/cache",
            "pods of daemon sets (ignore_daemon_sets): shop/ds",
        ):
            self.assertIn(words, error.sentence)
        self.assertFalse(self.cordoned())
        self.assertEqual(self.evicted(), [])
        drained = self.done("drain", "node n1", force=True, delete_local_data=True, seconds=3)
        self.assertEqual(drained.evicted, ["shop/cache", "shop/lone"])

    def test_many_refused(self) -> None:
        """A message names a few of them."""
        for index in range(9):
            self.on(f"p{index}", "")
        error = self.failure(self.command("drain", "node n1"), BadRequest)
        self.assertIn("shop/p4 and 4 more", error.sentence)

    def test_out_of_reach(self) -> None:
        """A pod in a namespace that is out of reach is a reason as well."""
        self.on("a", namespace="bank")
        for scope in (
            Scope(denied_namespaces=frozenset({"bank"})),
            Scope(denied_verbs=frozenset({"delete"})),
            Scope(denied_kinds=frozenset({"pods"})),
        ):
            error = self.failure(self.command("drain", "node n1", scope=scope), BadRequest)
            self.assertIn("bank/a", error.sentence)
        self.assertFalse(self.cordoned())

    def test_some_namespaces(self) -> None:
        """A node is all namespaces' affair: with some of them allowed it is neither drained nor cordoned."""
        self.on("a")
        for command in ("drain", "cordon", "uncordon"):
            error = self.failure(
                self.command(command, "node n1", scope=Scope(namespaces=frozenset({"shop"}))), OutOfReach
            )
            self.assertIn("kubernetes.namespaces", str(error))
        self.assertFalse(self.cordoned())

    def test_time_is_up(self) -> None:
        """It says what it was waiting for; the node stays cordoned."""
        self.on("a")
        self.evictions.protected["shop/a"] = 100
        error = self.failure(self.command("drain", "node n1", timeout=10.0), OutOfTime, 11)
        self.assertIn("last: pods shop/a: protected for now", error.sentence)
        self.assertTrue(self.cordoned())

    def test_cancelled(self) -> None:
        """It ends where it is."""
        self.on("a")
        self.evictions.lingering.add("shop/a")
        running = self.begin(self.command("drain", "node n1"))
        running.cancel()
        self.failureResultOf(running)


class OwnNodeTests(NodeCase):
    """The agent drains the node that it runs on."""

    own_pod = "shop/agent"

    def test_last(self) -> None:
        """It evicts itself when all others are gone: else it would stop halfway."""
        self.on("agent")
        self.on("z")
        self.evictions.lingering.add("shop/z")
        running = self.begin(self.command("drain", "node n1"))
        self.advance(5)
        self.assertEqual(self.evicted(), ["shop/z"])
        self.storage.delete("pods", "shop", "z")
        self.advance(5)
        self.assertEqual(self.evicted(), ["shop/z", "shop/agent"])
        self.successResultOf(running)
