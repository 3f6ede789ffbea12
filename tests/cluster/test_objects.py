"""Tests of L{pipeops_agent.cluster.objects}: what is kept of objects as the API server sends them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.cluster.objects import KINDS, Condition, Endpoint, ServicePort
from pipeops_agent.cluster.objects.model import MAX_ADDRESSES, MAX_MESSAGE

AT = "2026-03-04T12:00:00Z"
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


def read(kind: str, **sent: Any) -> Any:
    """What is kept of an object of C{kind}."""
    found = next(each for each in KINDS if each.name == kind)
    meta = {"name": "a", "uid": "u", "resourceVersion": "7", **sent.pop("metadata", {})}
    return found.read(msgspec.json.decode(json.dumps({"metadata": meta, **sent}), type=found.wire))


class ObjectTests(SynchronousTestCase):
    """Each kind."""

    def kept(self, found: Any, **expected: Any) -> None:
        self.assertEqual({name: getattr(found, name) for name in expected}, expected)

    def test_nothing(self) -> None:
        """Of each kind an object that says nothing but its name can be read; so can one that says null."""
        for kind in KINDS:
            for more in ({}, {"labels": None, "ownerReferences": None, "creationTimestamp": None}):
                self.kept(read(kind.name, metadata=more), name="a", namespace="", key="a", labels=())

    def test_common(self) -> None:
        """Who it is; labels in order."""
        meta = {"namespace": "shop", "creationTimestamp": AT, "labels": {"z": "1", "app": "web"}}
        found = read("pods", metadata=meta)
        self.kept(found, key="shop/a", uid="u", resource_version="7", created=NOON)
        self.assertEqual(found.labels, ("app=web", "z=1"))

    def test_node(self) -> None:
        """Readiness, addresses, roles, region, capacity, and where its kubelet listens."""
        found = read(
            "nodes",
            metadata={
                "labels": {
                    "node-role.kubernetes.io/worker": "",
                    "node-role.kubernetes.io/control-plane": "",
                    "failure-domain.beta.kubernetes.io/region": "old",
                    "topology.kubernetes.io/region": "eu",
                }
            },
            spec={"providerID": "aws:///eu-1a/i-0", "unschedulable": True},
            status={
                "addresses": [
                    {"type": "Hostname", "address": "h"},
                    {"type": "InternalIP", "address": "10.0.0.1"},
                    {"type": "InternalIP", "address": "fd00::1"},
                    {"type": "ExternalIP", "address": "203.0.113.7"},
                ],
                "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "conditions": [
                    {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "m" * 5_000},
                    {"type": "DiskPressure", "status": "False"},
                ],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10251}},
                "nodeInfo": {"kubeletVersion": "v1.34.4", "osImage": "Debian", "architecture": "arm64"},
            },
        )
        self.kept(found, ready=True, schedulable=False, roles=("control-plane", "worker"), region="eu")
        self.kept(found, internal_ip="10.0.0.1", external_ip="203.0.113.7", provider_id="aws:///eu-1a/i-0")
        self.kept(found, cpu="4", memory="8Gi", max_pods="110", kubelet_port=10251, architecture="arm64")
        self.assertEqual(
            found.conditions,
            (
                Condition("Ready", "True", "KubeletReady", "m" * MAX_MESSAGE),
                Condition("DiskPressure", "False"),
            ),
        )
        self.assertFalse(read("nodes", status={"conditions": [{"type": "Ready", "status": "Unknown"}]}).ready)

    def test_pod(self) -> None:
        """Where it runs, whose it is, how many of its containers are ready and have begun again."""
        found = read(
            "pods",
            metadata={
                "ownerReferences": [
                    {"kind": "Node", "name": "n"},
                    {"kind": "ReplicaSet", "name": "web-1", "controller": True},
                ]
            },
            spec={"nodeName": "n", "containers": [{"name": "x"}, {"name": "y"}]},
            status={
                "phase": "Running",
                "podIP": "10.1.0.7",
                "containerStatuses": [
                    {"name": "x", "ready": True, "restartCount": 2, "state": {"running": {}}},
                    {"name": "y", "ready": False, "restartCount": 3, "state": {"running": {}}},
                ],
            },
        )
        self.kept(found, owner="ReplicaSet/web-1", node="n", ip="10.1.0.7", containers=("x", "y"))
        self.kept(found, phase="Running", status="Running", ready=1, restarts=5)

    def test_pod_status(self) -> None:
        """The status is what people know from kubectl."""

        def container(state: dict[str, Any], *, ready: bool = False) -> dict[str, Any]:
            return {"name": "x", "ready": ready, "restartCount": 0, "state": state}

        running = container({"running": {}}, ready=True)
        done = container({"terminated": {"exitCode": 0, "reason": "Completed"}})
        crash = container({"waiting": {"reason": "CrashLoopBackOff"}})
        for status, shown in (
            ({"phase": "Pending"}, "Pending"),
            ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
            ({"containerStatuses": [running, crash]}, "CrashLoopBackOff"),
            ({"containerStatuses": [container({"terminated": {"exitCode": 3}})]}, "ExitCode:3"),
            ({"containerStatuses": [container({"terminated": {"exitCode": 137, "signal": 9}})]}, "Signal:9"),
            ({"containerStatuses": [done, running]}, "Running"),
            ({"phase": "Succeeded", "containerStatuses": [done]}, "Completed"),
            (
                {"initContainerStatuses": [done, container({"waiting": {"reason": "PodInitializing"}})]},
                "Init:1/2",
            ),
            (
                {"initContainerStatuses": [container({"waiting": {"reason": "ErrImagePull"}})]},
                "Init:ErrImagePull",
            ),
            ({"initContainerStatuses": [container({"terminated": {"exitCode": 1}})]}, "Init:ExitCode:1"),
            ({"phase": "Running", "initContainerStatuses": [{**running, "started": True}]}, "Running"),
        ):
            spec = {"initContainers": [{"name": "x"}, {"name": "y"}]}
            self.assertEqual(read("pods", spec=spec, status=status).status, shown)
        going = {"metadata": {"deletionTimestamp": AT}}
        self.assertEqual(read("pods", **going, status={"phase": "Running"}).status, "Terminating")
        self.assertEqual(read("pods", **going, status={"reason": "NodeLost"}).status, "Unknown")

    def test_service(self) -> None:
        """Its addresses, ports, and what it selects; a target port may be a name."""
        found = read(
            "services",
            spec={
                "type": "LoadBalancer",
                "clusterIP": "10.96.0.9",
                "externalIPs": ["198.51.100.1"],
                "selector": {"app": "web"},
                "ports": [
                    {"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080, "protocol": "TCP"},
                    {"port": 53, "targetPort": 5353, "protocol": "UDP"},
                ],
            },
            status={"loadBalancer": {"ingress": [{"ip": "203.0.113.8"}, {"hostname": "lb.test"}]}},
        )
        self.kept(found, type="LoadBalancer", cluster_ip="10.96.0.9", selector=("app=web",))
        self.assertEqual(found.external, ("198.51.100.1", "203.0.113.8", "lb.test"))
        self.assertEqual(
            found.ports,
            (ServicePort("http", "TCP", 80, "web", 30080), ServicePort("", "UDP", 53, "5353")),
        )
        self.assertEqual(read("services", spec={"externalName": "db.test"}).external, ("db.test",))

    def test_endpoint_slice(self) -> None:
        """Its service's name; an endpoint that does not say otherwise is ready. Addresses are bounded."""
        endpoints = [
            {
                "addresses": ["10.1.0.7", "10.1.0.8"],
                "conditions": {"ready": False},
                "targetRef": {"kind": "Pod", "name": "web-1"},
                "nodeName": "n",
            },
            {"addresses": ["10.1.0.9"], "targetRef": {"kind": "Node", "name": "n"}},
        ]
        found = read(
            "endpointslices",
            metadata={"labels": {"kubernetes.io/service-name": "web"}},
            endpoints=endpoints,
            ports=[{"name": "", "port": 8080, "protocol": "TCP"}],
        )
        self.assertEqual(found.service, "web")
        self.assertEqual([(each.port, each.protocol) for each in found.ports], [(8080, "TCP")])
        self.assertEqual(
            found.endpoints,
            (
                Endpoint("10.1.0.7", ready=False, pod="web-1", node="n"),
                Endpoint("10.1.0.8", ready=False, pod="web-1", node="n"),
                Endpoint("10.1.0.9", ready=True),
            ),
        )
        many = read("endpointslices", endpoints=[{"addresses": ["10.1.0.7"]}] * (MAX_ADDRESSES + 1))
        self.assertEqual(len(many.endpoints), MAX_ADDRESSES)
        self.kept(read("endpointslices", endpoints=None, ports=None), endpoints=(), ports=())

    def test_workloads(self) -> None:
        """How many there shall be and are; a daemon set counts nodes; whether the controller has seen it."""
        spec = {"replicas": 3, "template": {"spec": {"containers": [{"name": "x", "image": "web:1"}]}}}
        status = {"readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2, "observedGeneration": 4}
        for kind, name in (("deployments", "Deployment"), ("statefulsets", "StatefulSet")):
            found = read(kind, metadata={"generation": 5}, spec=spec, status=status)
            self.kept(found, kind=name, wanted=3, ready=2, updated=1, available=2)
            self.kept(found, observed=False, images=("web:1",))
        self.assertEqual(read("deployments").wanted, 1)
        self.assertEqual(read("deployments", spec={"replicas": 0}).wanted, 0)
        found = read(
            "daemonsets",
            metadata={"generation": 4},
            status={
                "desiredNumberScheduled": 5,
                "numberReady": 4,
                "updatedNumberScheduled": 3,
                "numberAvailable": 2,
                "observedGeneration": 4,
            },
        )
        self.kept(found, kind="DaemonSet", wanted=5, ready=4, updated=3, available=2, observed=True)

    def test_job(self) -> None:
        """How many of its pods run, have succeeded, have failed; it need not say how many are wanted."""
        status = {
            "active": 1,
            "succeeded": 2,
            "failed": 3,
            "conditions": [{"type": "Failed", "status": "True"}],
        }
        found = read("jobs", spec={"completions": 4}, status=status)
        self.kept(found, active=1, succeeded=2, failed=3, completions=4)
        self.assertEqual(found.conditions, (Condition("Failed", "True"),))
        self.assertIsNone(read("jobs").completions)

    def test_namespace(self) -> None:
        """Whether it is going."""
        self.kept(read("namespaces", status={"phase": "Terminating"}), phase="Terminating")

    def test_event(self) -> None:
        """Older ones count by themselves, newer ones in a series; the message is bounded."""
        found = read(
            "events",
            type="Warning",
            reason="BackOff",
            message="m" * 5_000,
            involvedObject={"kind": "Pod", "name": "web-1"},
            source={"component": "kubelet"},
            count=4,
            lastTimestamp=AT,
        )
        self.kept(found, type="Warning", reason="BackOff", about="Pod/web-1", source="kubelet", count=4)
        self.kept(found, last_seen=NOON, message="m" * MAX_MESSAGE)
        found = read(
            "events",
            reportingComponent="scheduler",
            eventTime="2026-03-04T11:00:00.000001Z",
            lastTimestamp=None,
            count=None,
            message=None,
            series={"count": 9, "lastObservedTime": "2026-03-04T12:00:00.000000Z"},
        )
        self.kept(found, source="scheduler", count=9, last_seen=NOON, message="")
        self.kept(read("events", eventTime="2026-03-04T12:00:00.000000Z"), count=1, last_seen=NOON)
