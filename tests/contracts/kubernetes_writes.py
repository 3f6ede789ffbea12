"""The other half of L{tests.contracts.kubernetes_api}: what changes objects, and what is refused."""

from __future__ import annotations

from typing import Any

from pipeops_agent.cluster.api import Propagation
from pipeops_agent.cluster.call import (
    APPLY_PATCH,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_MERGE_PATCH,
    Call,
)
from pipeops_agent.cluster.errors import StatusError
from pipeops_agent.cluster.resources import LEASES, NAMESPACES, PODS, SECRETS
from tests.contracts.kubernetes_api import ApiServerContract, Wire


class WritingContract(ApiServerContract):
    """Creating, replacing, patching, deleting."""

    async def test_create(self) -> None:
        """What was made is given back: with an identity, a version and a time."""
        meta = (await self.secret("a"))["metadata"]
        for member in ("uid", "resourceVersion", "creationTimestamp"):
            self.assertTrue(meta[member], member)

    async def test_create_again(self) -> None:
        """A name is given once."""
        await self.secret("a")
        error = await self.refused(self.secret("a"), 409, "AlreadyExists")
        self.assertEqual(error.message, 'secrets "a" already exists')

    async def test_create_with_a_version(self) -> None:
        """What is new has no version yet."""
        body = {"metadata": {"name": "a", "resourceVersion": "7"}}
        with self.assertRaises(StatusError) as caught:
            await self.api.create(Wire, SECRETS, body, namespace=self.namespace)
        self.assertIn("resourceVersion should not be set", str(caught.exception))

    async def test_names(self) -> None:
        """Names are checked; without one, C{generateName} makes one."""
        await self.refused(self.secret("Not_A_Name"), 422, "Invalid")
        await self.refused(self.secret(""), 422, "Invalid")
        body = {"metadata": {"generateName": "some-"}}
        names = set()
        for _ in range(2):
            made = await self.api.create(Wire, SECRETS, body, namespace=self.namespace)
            names.add(made["metadata"]["name"])
        self.assertEqual(len(names), 2)
        for name in names:
            self.assertRegex(name, r"^some-[a-z0-9]{5}$")

    async def test_replace(self) -> None:
        """Replaced, an object has what it was given, and a new version."""
        made = await self.secret("a", app="a")
        made["data"] = {"b": "Mg=="}
        del made["metadata"]["labels"]
        put = await self.api.replace(Wire, SECRETS, "a", made, namespace=self.namespace)
        self.assertNotEqual(put["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"])
        found = await self.get("a")
        self.assertEqual((found["data"], found["metadata"].get("labels")), ({"b": "Mg=="}, None))

    async def test_conflict(self) -> None:
        """Whoever has read an older version is refused."""
        mine = await self.secret("a")
        await self.change("a", {"data": {"theirs": "MQ=="}}, MERGE_PATCH)
        error = await self.refused(
            self.api.replace(Wire, SECRETS, "a", mine, namespace=self.namespace), 409, "Conflict"
        )
        self.assertIn("the object has been modified", error.message)

    async def test_replace_without_a_version(self) -> None:
        """Whoever names no version overwrites."""
        await self.secret("a")
        body = {"metadata": {"name": "a"}, "data": {"b": "Mg=="}}
        await self.api.replace(Wire, SECRETS, "a", body, namespace=self.namespace)
        self.assertEqual((await self.get("a"))["data"], {"b": "Mg=="})

    async def test_replace_with_the_same(self) -> None:
        """What changes nothing makes no version."""
        made = await self.secret("a")
        put = await self.api.replace(Wire, SECRETS, "a", made, namespace=self.namespace)
        self.assertEqual(put["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"])

    async def test_replace_what_is_not_there(self) -> None:
        """Replacing makes nothing."""
        body = {"metadata": {"name": "a"}}
        await self.refused(
            self.api.replace(Wire, SECRETS, "a", body, namespace=self.namespace), 404, "NotFound"
        )

    async def test_replace_under_another_name(self) -> None:
        """Path and object must agree."""
        made = await self.secret("a")
        made["metadata"]["name"] = "b"
        await self.refused(
            self.api.replace(Wire, SECRETS, "a", made, namespace=self.namespace), 400, "BadRequest"
        )

    async def test_merge_patch(self) -> None:
        """A merge patch sets, and takes away what is null; the rest stays."""
        await self.secret("a", app="a", tier="x")
        found = await self.change("a", {"metadata": {"labels": {"app": None, "new": "1"}}}, MERGE_PATCH)
        self.assertEqual(found["metadata"]["labels"], {"tier": "x", "new": "1"})
        self.assertEqual(found["data"], {"a": "MQ=="})

    async def test_strategic_patch(self) -> None:
        """A strategic merge patch knows the members of lists by their names."""
        await self.pod("a")
        patch = {"spec": {"containers": [{"name": "side", "image": "side:2"}]}}
        found = await self.change("a", patch, STRATEGIC_MERGE_PATCH, resource=PODS)
        images = {each["name"]: each["image"] for each in found["spec"]["containers"]}
        self.assertEqual(images, {"main": "main:1", "side": "side:2"})

    async def test_json_patch(self) -> None:
        """A JSON patch does its steps, all or none."""
        await self.secret("a", app="a")
        steps = [
            {"op": "test", "path": "/metadata/labels/app", "value": "a"},
            {"op": "add", "path": "/data/b", "value": "Mg=="},
            {"op": "remove", "path": "/metadata/labels/app"},
            {"op": "replace", "path": "/data/a", "value": "Mw=="},
        ]
        found = await self.change("a", steps, JSON_PATCH)
        self.assertEqual(found["data"], {"a": "Mw==", "b": "Mg=="})
        await self.refused(self.change("a", steps, JSON_PATCH), 422, "Invalid")
        self.assertEqual((await self.get("a"))["data"], {"a": "Mw==", "b": "Mg=="})

    async def test_apply(self) -> None:
        """Applying makes what is not there, and changes what is."""
        body: Wire = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"a": "MQ=="}}
        await self.change("a", body, APPLY_PATCH)
        body["data"]["a"] = "Mg=="
        await self.change("a", body, APPLY_PATCH)
        self.assertEqual((await self.get("a"))["data"], {"a": "Mg=="})

    async def test_apply_without_a_manager(self) -> None:
        """Whoever applies says who it is."""
        call = Call(
            method="PATCH",
            verb="patch",
            resource="secrets",
            path=SECRETS.path(namespace=self.namespace, name="a"),
            body=b'{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}',
            content_type=APPLY_PATCH,
        )
        error = await self.refused(self.api.call(call), 422, "Invalid")
        self.assertIn("fieldManager", error.message)

    async def test_unknown_patch(self) -> None:
        """A patch of a kind that there is not."""
        await self.secret("a")
        await self.refused(self.change("a", {}, "application/json"), 415, "UnsupportedMediaType")

    async def test_patch_what_is_not_there(self) -> None:
        """Only applying makes something."""
        for kind in (MERGE_PATCH, STRATEGIC_MERGE_PATCH):
            await self.refused(self.change("a", {}, kind), 404, "NotFound")

    async def test_dry_run(self) -> None:
        """Tried only, everything is answered as if it were done, and nothing is."""
        body = {"metadata": {"name": "b"}, "data": {"a": "MQ=="}}
        made = await self.api.create(Wire, SECRETS, body, namespace=self.namespace, dry_run=True)
        self.assertTrue(made["metadata"]["uid"])
        await self.refused(self.get("b"), 404, "NotFound")
        before = await self.secret("a")
        changed = {**before, "data": {"a": "Mg=="}}
        put = await self.api.replace(Wire, SECRETS, "a", changed, namespace=self.namespace, dry_run=True)
        self.assertEqual(put["data"], {"a": "Mg=="})
        patched = await self.change("a", {"data": {"b": "Mg=="}}, MERGE_PATCH, dry_run=True)
        self.assertEqual(patched["data"], {"a": "MQ==", "b": "Mg=="})
        await self.api.delete(SECRETS, "a", namespace=self.namespace, dry_run=True)
        self.assertEqual(await self.get("a"), before)

    async def test_delete(self) -> None:
        """Deleted, it is gone; a second time there is nothing to delete."""
        await self.secret("a")
        await self.api.delete(SECRETS, "a", namespace=self.namespace)
        await self.refused(self.api.delete(SECRETS, "a", namespace=self.namespace), 404, "NotFound")

    async def test_preconditions(self) -> None:
        """Another object of the same name, or another version of it, is not deleted."""
        made = (await self.secret("a"))["metadata"]
        wrong = "00000000-0000-4000-8000-000000000000"
        conditions: list[dict[str, Any]] = [{"uid": wrong}, {"resource_version": "1"}]
        for condition in conditions:
            await self.refused(
                self.api.delete(SECRETS, "a", namespace=self.namespace, **condition),
                409,
                "Conflict",
            )
        await self.api.delete(
            SECRETS,
            "a",
            namespace=self.namespace,
            uid=made["uid"],
            resource_version=made["resourceVersion"],
        )
        self.assertEqual(await self.names(), [])

    async def test_finalizers(self) -> None:
        """What somebody still has to do with an object keeps it: marked first, gone when all is done."""
        await self.secret("a")
        await self.change("a", {"metadata": {"finalizers": ["example.com/mine"]}}, MERGE_PATCH)
        events = await self.watch((await self.page()).metadata.resource_version)
        await self.api.delete(SECRETS, "a", namespace=self.namespace)
        self.assertTrue((await self.get("a"))["metadata"]["deletionTimestamp"])
        await self.change("a", {"metadata": {"finalizers": None}}, MERGE_PATCH)
        await self.refused(self.get("a"), 404, "NotFound")
        await self.in_time(events.next_of("MODIFIED", "DELETED"))

    async def test_propagation(self) -> None:
        """With C{Foreground} or C{Orphan} it stays, marked, until the garbage collector has done its part."""
        ways: tuple[tuple[Propagation, str], ...] = (
            ("Foreground", "foregroundDeletion"),
            ("Orphan", "orphan"),
        )
        for propagation, finalizer in ways:
            await self.secret("a")
            await self.api.delete(SECRETS, "a", namespace=self.namespace, propagation=propagation)
            meta = (await self.get("a"))["metadata"]
            self.assertEqual(meta["finalizers"], [finalizer])
            self.assertTrue(meta["deletionTimestamp"])
            await self.change("a", {"metadata": {"finalizers": None}}, MERGE_PATCH)

    async def test_cluster_scope(self) -> None:
        """What has no namespace works the same."""
        found = await self.api.get(Wire, NAMESPACES, self.namespace)
        self.assertEqual(found["metadata"]["name"], self.namespace)
        self.assertNotIn("namespace", found["metadata"])

    async def test_lease(self) -> None:
        """A Lease keeps its times to the microsecond, and takes no other form of them."""
        for moment, ok in (("2026-03-04T12:00:00.000001Z", True), ("2026-03-04T12:00:00Z", False)):
            body = {"metadata": {"generateName": "l-"}, "spec": {"renewTime": moment}}
            making = self.api.create(Wire, LEASES, body, namespace=self.namespace)
            if ok:
                self.assertEqual((await making)["spec"]["renewTime"], moment)
            else:
                await self.refused(making, 400, "BadRequest")

    async def test_secret_data(self) -> None:
        """The data of a Secret are base64."""
        body = {"metadata": {"name": "a"}, "data": {"a": "!"}}
        await self.refused(self.api.create(Wire, SECRETS, body, namespace=self.namespace), 400, "BadRequest")


class RefusalContract(ApiServerContract):
    """Who may do what, and what can't be understood."""

    async def test_unknown_token(self) -> None:
        """A token that the server does not know: 401."""
        api = await self.stranger()
        await self.refused(api.get(Wire, SECRETS, "a", namespace=self.namespace), 401, "Unauthorized")

    async def test_no_right(self) -> None:
        """What the account has no right to: 403, with user, verb, resource and namespace."""
        api = await self.reader()
        await api.page(Wire, PODS, namespace=self.namespace)
        error = await self.refused(api.page(Wire, SECRETS, namespace=self.namespace), 403, "Forbidden")
        self.assertIn('cannot list resource "secrets" in API group ""', error.message)
        error = await self.refused(api.delete(PODS, "a", namespace=self.namespace), 403, "Forbidden")
        self.assertIn(
            f'cannot delete resource "pods" in API group "" in the namespace "{self.namespace}"',
            error.message,
        )
        error = await self.refused(api.page(Wire, PODS), 403, "Forbidden")
        self.assertIn("at the cluster scope", error.message)

    async def test_no_right_to_watch(self) -> None:
        """A watch without the right is refused at once, not begun."""
        api = await self.reader()
        await self.refused(
            api.watch(SECRETS, namespace=self.namespace, resource_version="", seconds=60),
            403,
            "Forbidden",
        )

    async def test_not_json(self) -> None:
        """A body that is no JSON, or no object: 400."""
        for body in (b"{", b"<html>", b'["a"]'):
            call = Call(
                method="POST",
                verb="create",
                resource="secrets",
                path=SECRETS.path(namespace=self.namespace),
                body=body,
            )
            await self.refused(self.api.call(call), 400, "BadRequest")
