"""Operations against a real Kubernetes: what comes of them in pods, on the node, in its own words."""

from __future__ import annotations

import secrets

from twisted.internet.defer import Deferred

from tests.peers.operations_case import DEPLOYMENT, OperationsCase

CRD = """
# comes last, and is needed first
apiVersion: {group}/v1
kind: Teapot
metadata: {{name: brown, namespace: {namespace}}}
spec: {{lid: true}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: "te-a-pots-2.{group}"}}
spec:
  group: {group}
  scope: Namespaced
  names: {{plural: te-a-pots-2, singular: teapot, kind: Teapot, listKind: TeapotList, shortNames: [tp]}}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
"""


class OperationTests(OperationsCase):
    """What callers may ask for."""

    async def test_deployment(self) -> None:
        """Applied, rolled out, scaled, restarted, patched, read, deleted: by the names people use."""
        applied = await self.deploy()
        self.assertEqual([each.action for each in applied.objects], ["created"])
        done = await self.run_command("rollout", "deploy", "web")
        self.assertEqual((done.state, done.ready, done.wanted), ("done", 1, 1))

        again = await self.deploy()
        self.assertEqual([each.action for each in again.objects], ["applied"])

        scaled = await self.run_command("scale", "Deployment", "web", replicas=2)
        self.assertEqual(scaled.replicas, 2)
        done = await self.run_command("rollout", "deployments.apps", "web")
        self.assertEqual((done.state, done.ready), ("done", 2))

        restarted = await self.run_command("restart", "deployment", "web")
        done = await self.run_command("rollout", "deployment", "web")
        self.assertEqual(done.state, "done", done)
        found = await self.run_command("get_resources", "deploy", "web")
        template = found.items[0]["spec"]["template"]["metadata"]
        self.assertEqual(template["annotations"]["kubectl.kubernetes.io/restartedAt"], restarted.restarted_at)
        self.assertNotIn("managedFields", found.items[0]["metadata"])
        for kind, change in (
            ("merge", {"metadata": {"labels": {"by": "merge"}}}),
            ("strategic", {"metadata": {"labels": {"by": "strategic"}}}),
            ("json", [{"op": "replace", "path": "/metadata/labels/by", "value": "json"}]),
        ):
            changed = await self.run_command("patch", "deploy", "web", patch=change, kind=kind)
            self.assertEqual(changed.item["metadata"]["labels"]["by"], kind)

        gone = await self.run_command(
            "delete", "deploy", "web", propagation="Foreground", wait=True, timeout=60.0
        )
        self.assertTrue(gone.found and gone.gone)
        pods = await self.run_command("get_resources", "po", labels="app=web")
        self.assertEqual(pods.items, [])

    async def test_missing_image(self) -> None:
        """A rollout whose image can't be had fails, and says which image, from the pod's own words."""
        await self.deploy(image="localhost/missing:7")
        failed = await self.run_command("rollout", "deploy", "web", patience=3.0, timeout=60.0)
        self.assertEqual((failed.success, failed.state, failed.reason), (False, "failed", "ImagePull"))
        self.assertIn("localhost/missing:7", failed.error)
        self.assertIn("container main", failed.error)

    async def test_quota(self) -> None:
        """Pods that a quota forbids: the words are the quota's, whether or not time is up."""
        quota = "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: none}\nspec: {hard: {pods: '0'}}"
        await self.run_command("apply", manifest=quota)
        await self.deploy()
        failed = await self.run_command("rollout", "deploy", "web", timeout=12.0)
        self.assertEqual((failed.state, failed.reason), ("failed", "TimedOut"))
        self.assertEqual(failed.problems[0].reason, "Quota")
        self.assertIn("exceeded quota", failed.error)

    async def test_conflict(self) -> None:
        """A field that was changed by other means is not taken over, unless by force."""
        await self.deploy()
        await self.api.patch(
            dict,
            (await self.discovery.named("deploy")).resource,
            "web",
            [{"op": "replace", "path": "/spec/replicas", "value": 2}],
            "application/json-patch+json",
            namespace=self.namespace,
        )
        text = DEPLOYMENT.format(name="web", replicas=3, image="localhost/pause:1")
        refused = await self.run_command("apply", manifest=text)
        self.assertFalse(refused.success)
        self.assertIn("apply with force", refused.error)
        taken = await self.run_command("apply", manifest=text, force=True)
        self.assertTrue(taken.success, taken.error)

    async def test_unknown_field(self) -> None:
        """A field that its kind does not have is an error, with document and line."""
        text = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndate: {}\n"
        refused = await self.run_command("apply", manifest=text)
        self.assertIn("document 1 (line 2), ConfigMap a", refused.error)
        self.assertIn("date", refused.error)

    async def test_crd(self) -> None:
        """A kind with a strange name, its namespace and an object of it, in one text in the wrong order."""
        group = f"g{secrets.token_hex(3)}.example.com"
        other = f"{self.namespace}-b"
        text = CRD.format(group=group, namespace=other)
        await self.discovery.catalog()
        sent = await self.run_command("apply", namespace="", manifest=text, dry_run="first")
        self.assertTrue(sent.success, sent.error)
        kinds = [each.object.partition(" ")[0] for each in sent.objects]
        self.assertEqual(kinds, ["Namespace", "CustomResourceDefinition", "Teapot"])
        pots = await self.run_command("get_resources", "tp", namespace=other)
        self.assertEqual([item["spec"] for item in pots.items], [{"lid": True}])
        for kind, name in (("crd", f"te-a-pots-2.{group}"), ("ns", other)):
            gone = await self.run_command("delete", kind, name, namespace="", wait=True, timeout=90.0)
            self.assertTrue(gone.gone)

    async def test_drain(self) -> None:
        """A protected pod is waited for; what nothing would make anew is a reason to refuse."""
        await self.deploy(replicas=1)
        await self.run_command("rollout", "deploy", "web")
        lone = (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: lone}\nspec:\n  terminationGracePeriodSeconds: 1\n"
            "  containers: [{name: main, image: 'localhost/pause:1', imagePullPolicy: Never}]"
        )
        await self.run_command("create", manifest=lone)
        budget = (
            "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web}\n"
            "spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}"
        )
        await self.run_command("apply", manifest=budget)
        with self.assertRaises(Exception) as caught:
            await self.run_command("drain", "node", "node1", namespace="")
        self.assertIn(f"{self.namespace}/lone", str(caught.exception))
        node = (await self.run_command("get_resources", "node", "node1", namespace="")).items[0]
        self.assertNotIn("unschedulable", node["spec"])

        self.addCleanup(
            lambda: Deferred.fromCoroutine(self.run_command("uncordon", "", "node1", namespace=""))
        )
        draining = Deferred.fromCoroutine(
            self.run_command(
                "drain", "node", "node1", namespace="", force=True, delete_local_data=True, timeout=90.0
            )
        )
        await self.until_said("protected for now")
        await self.run_command("delete", "pdb", "web")
        drained = await draining
        ours = [key.partition("/")[2] for key in drained.evicted if key.startswith(f"{self.namespace}/")]
        self.assertEqual(sorted(name.partition("-")[0] for name in ours), ["lone", "web"])
        node = (await self.run_command("get_resources", "node", "node1", namespace="")).items[0]
        self.assertTrue(node["spec"]["unschedulable"])

        stuck = await self.run_command("rollout", "deploy", "web", timeout=6.0)
        self.assertEqual(stuck.problems[0].reason, "Unschedulable")
