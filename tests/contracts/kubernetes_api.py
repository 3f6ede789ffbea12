"""
What the agent relies on in an API server, as a suite that the real one and the fake must both pass.

Here are the lists and watches; L{tests.contracts.kubernetes_writes} has the rest. A server's tests mix the
contracts into a C{TestCase} and say in the hooks how to reach it. Each test has a
namespace of its own. Objects go as they are on the wire; the client is the agent's.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.trial.unittest import TestCase

from pipeops_agent.cluster.api import Api, Page
from pipeops_agent.cluster.call import MERGE_PATCH
from pipeops_agent.cluster.errors import StatusError
from pipeops_agent.cluster.resources import PODS, SECRETS, Resource
from pipeops_agent.cluster.stream import BodyStream, LineReader

Wire = dict[str, Any]
T = TypeVar("T")

# The contract is itself no test case, so that importing it adds no tests; the type checker sees one.
if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object


class ApiServerContract(_Base):
    """The hooks, and what the contracts are written with."""

    api: Api
    """With every right."""

    namespace: str
    """Which is there, and holds nothing of these tests."""

    async def stranger(self) -> Api:
        """One with a token that the server does not know."""
        raise NotImplementedError

    async def reader(self) -> Api:
        """One that may only get, list and watch pods, in C{namespace}."""
        raise NotImplementedError

    async def compact(self) -> None:
        """Let the server forget its history: what goes on from an earlier version is too late."""
        raise NotImplementedError

    async def in_time(self, waiting: Awaitable[T], seconds: float = 60.0) -> T:
        """What comes of C{waiting} within so many seconds: it comes soon."""
        raise NotImplementedError

    async def secret(self, name: str, **labels: str) -> Wire:
        """Make a secret: an object that nobody but the test touches."""
        body = {"metadata": {"name": name, "labels": labels}, "data": {"a": "MQ=="}}
        return await self.api.create(Wire, SECRETS, body, namespace=self.namespace)

    async def pod(self, name: str, **spec: Any) -> Wire:
        """Make a pod, of two containers."""
        containers = [{"name": each, "image": f"{each}:1"} for each in ("main", "side")]
        body = {"metadata": {"name": name}, "spec": {"containers": containers, **spec}}
        return await self.api.create(Wire, PODS, body, namespace=self.namespace)

    async def get(self, name: str, resource: Resource = SECRETS) -> Wire:
        """An object of the test's namespace."""
        return await self.api.get(Wire, resource, name, namespace=self.namespace)

    async def page(self, resource: Resource = SECRETS, **more: Any) -> Page[Wire]:
        """A page of the test's namespace."""
        return await self.api.page(Wire, resource, namespace=self.namespace, **more)

    async def names(self, resource: Resource = SECRETS, **more: Any) -> list[str]:
        """The names in a page."""
        return [each["metadata"]["name"] for each in (await self.page(resource, **more)).items]

    async def change(self, name: str, body: Any, content_type: str, **more: Any) -> Wire:
        """Patch a secret, or another object."""
        resource = more.pop("resource", SECRETS)
        return await self.api.patch(
            Wire, resource, name, body, content_type, namespace=self.namespace, **more
        )

    async def refused(self, call: Coroutine[Any, Any, Any], code: int, reason: str) -> StatusError:
        """C{call} must be refused so; return the error, whose message is never empty."""
        with self.assertRaises(StatusError) as caught:
            await call
        error: StatusError = caught.exception
        self.assertEqual((error.code, error.reason), (code, reason), str(error))
        self.assertNotEqual(error.message, "")
        return error

    async def watch(self, version: str, resource: Resource = SECRETS, **more: Any) -> Events:
        """Watch the test's namespace."""
        stream = await self.api.watch(
            resource,
            namespace=self.namespace,
            resource_version=version,
            **{"seconds": 60, **more},
        )
        events = Events(stream)
        self.addCleanup(stream.abort)
        return events


class Events:
    """The events of a watch, one after the other."""

    def __init__(self, stream: BodyStream) -> None:
        self._lines = LineReader(stream, limit=1 << 20, what="a watch")
        self._come: list[Wire] = []

    async def next(self) -> Wire | None:
        """The next event; None: the watch has ended."""
        while not self._come:
            lines = await self._lines.read()
            if not lines:
                return None
            self._come += [json.loads(line) for line in lines if line]
        return self._come.pop(0)

    async def next_of(self, *kinds: str) -> list[tuple[str, str]]:
        """The next few events that are no bookmarks, as type and name; they must be of these types."""
        found: list[tuple[str, str]] = []
        while len(found) < len(kinds):
            event = await self.next()
            assert event is not None, f"the watch ended after {found}"
            if event["type"] != "BOOKMARK":
                found.append((event["type"], event["object"].get("metadata", {}).get("name", "")))
        assert [kind for kind, _ in found] == list(kinds), found
        return found


class ReadingContract(ApiServerContract):
    """Objects and lists."""

    async def test_version(self) -> None:
        """The server says which version it is."""
        self.assertRegex((await self.api.version()).git_version, r"v1\.\d+\.\d+")

    async def test_get(self) -> None:
        """An object is given as it was made, with what the server adds to it."""
        made = await self.secret("one", app="a")
        found = await self.get("one")
        self.assertEqual((found["kind"], found["apiVersion"], found["data"]), ("Secret", "v1", {"a": "MQ=="}))
        meta = found["metadata"]
        self.assertEqual((meta["namespace"], meta["labels"]), (self.namespace, {"app": "a"}))
        self.assertEqual(meta["resourceVersion"], made["metadata"]["resourceVersion"])
        self.assertRegex(meta["creationTimestamp"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")

    async def test_not_found(self) -> None:
        """What is not there is named in the refusal."""
        error = await self.refused(self.get("absent"), 404, "NotFound")
        self.assertEqual(error.message, 'secrets "absent" not found')

    async def test_unknown_resource(self) -> None:
        """A resource that the server does not have: 404, as text and not as a Status."""
        strange = Resource(group="nobody.example", version="v1", plural="things", kind="Thing")
        error = await self.refused(self.page(strange), 404, "")
        self.assertEqual(error.message, "404 page not found")

    async def test_empty_list(self) -> None:
        """An empty list has a version, from which a watch can start."""
        page = await self.page()
        self.assertEqual((page.items, page.metadata.continue_), ([], ""))
        self.assertTrue(page.metadata.resource_version.isdigit())

    async def test_pages(self) -> None:
        """Pages are in the order of names and of one moment: what is made meanwhile is in none of them."""
        for number in range(5):
            await self.secret(f"s{number}")
        first = await self.page(limit=2)
        await self.secret("s3a")
        second = await self.page(limit=2, continue_=first.metadata.continue_)
        third = await self.page(limit=2, continue_=second.metadata.continue_)
        found = [each["metadata"]["name"] for page in (first, second, third) for each in page.items]
        self.assertEqual(found, ["s0", "s1", "s2", "s3", "s4"])
        self.assertEqual([first.metadata.remaining_item_count, third.metadata.continue_], [3, ""])
        self.assertEqual(len({page.metadata.resource_version for page in (first, second, third)}), 1)

    async def test_page_asked_for_again(self) -> None:
        """A token that was used can be used again: the answer may have been lost on the way."""
        for number in range(3):
            await self.secret(f"s{number}")
        token = (await self.page(limit=2)).metadata.continue_
        for _ in range(2):
            self.assertEqual(await self.names(limit=2, continue_=token), ["s2"])

    async def test_expired_page(self) -> None:
        """The next page of a list whose moment is forgotten: 410."""
        for number in range(3):
            await self.secret(f"s{number}")
        token = (await self.page(limit=2)).metadata.continue_
        await self.secret("later")
        await self.compact()
        error = await self.refused(self.page(limit=2, continue_=token), 410, "Expired")
        self.assertTrue(error.expired)

    async def test_damaged_token(self) -> None:
        """A token that the server did not give is refused."""
        await self.refused(self.page(limit=2, continue_="gibberish"), 400, "BadRequest")

    async def test_labels(self) -> None:
        """Label selectors of all kinds."""
        await self.secret("a", app="a", tier="x")
        await self.secret("b", app="b")
        await self.secret("c")
        for selector, expected in (
            ("app=a", ["a"]),
            ("app==a", ["a"]),
            ("app!=a", ["b", "c"]),
            ("app", ["a", "b"]),
            ("!app", ["c"]),
            ("app in (a,b),tier", ["a"]),
            ("app notin (a)", ["b", "c"]),
        ):
            self.assertEqual(await self.names(labels=selector), expected, selector)

    async def test_fields(self) -> None:
        """Field selectors: the name of anything, and what a pod can be found by."""
        await self.secret("a")
        await self.secret("b")
        self.assertEqual(await self.names(fields="metadata.name=b"), ["b"])
        self.assertEqual(await self.names(fields="metadata.name!=b"), ["a"])
        await self.pod("here", nodeName="n1")
        await self.pod("there", nodeName="n2")
        self.assertEqual(await self.names(PODS, fields="spec.nodeName=n1"), ["here"])
        self.assertEqual(await self.names(PODS, fields="status.phase=Pending"), ["here", "there"])
        self.assertEqual(await self.names(PODS, fields="status.phase!=Pending"), [])

    async def test_bad_selectors(self) -> None:
        """Selectors that can't be read, or name a field that can't be selected by."""
        await self.refused(self.page(labels="app=("), 400, "BadRequest")
        await self.refused(self.page(fields="spec.colour=blue"), 400, "BadRequest")

    async def test_list_from_the_cache(self) -> None:
        """Version "0" is whatever the server has at hand: soon, all."""
        await self.secret("a")

        async def until_there() -> None:
            while await self.names(resource_version="0") != ["a"]:
                pass

        await self.in_time(until_there())


class WatchContract(ApiServerContract):
    """Watches."""

    async def test_changes(self) -> None:
        """A watch tells what happens after its version, in order; each with a version greater than before."""
        await self.secret("before")
        events = await self.watch((await self.page()).metadata.resource_version)
        await self.secret("a")
        await self.change("a", {"data": {"a": "Mg=="}}, MERGE_PATCH)
        await self.api.delete(SECRETS, "a", namespace=self.namespace)
        versions = []
        for kind in ("ADDED", "MODIFIED", "DELETED"):
            event = await self.in_time(events.next())
            assert event is not None
            self.assertEqual((event["type"], event["object"]["metadata"]["name"]), (kind, "a"))
            self.assertEqual(event["object"]["kind"], "Secret")
            versions.append(int(event["object"]["metadata"]["resourceVersion"]))
        self.assertEqual(versions, sorted(set(versions)))

    async def test_from_an_earlier_version(self) -> None:
        """What has happened since its version comes first."""
        version = (await self.page()).metadata.resource_version
        await self.secret("a")
        await self.api.delete(SECRETS, "a", namespace=self.namespace)
        events = await self.watch(version)
        await self.in_time(events.next_of("ADDED", "DELETED"))

    async def test_selectors(self) -> None:
        """Of what comes to be selected the watch tells ADDED, of what is no more selected DELETED."""
        events = await self.watch((await self.page()).metadata.resource_version, labels="app=a")
        await self.secret("other", app="b")
        await self.secret("one", app="a")
        await self.change("one", {"metadata": {"labels": {"app": "b"}}}, MERGE_PATCH)
        await self.change("other", {"metadata": {"labels": {"app": "a"}}}, MERGE_PATCH)
        found = await self.in_time(events.next_of("ADDED", "DELETED", "ADDED"))
        self.assertEqual([name for _, name in found], ["one", "one", "other"])

    async def test_field_selector(self) -> None:
        """One object by its name."""
        events = await self.watch((await self.page()).metadata.resource_version, fields="metadata.name=b")
        await self.secret("a")
        await self.secret("b")
        self.assertEqual(await self.in_time(events.next_of("ADDED")), [("ADDED", "b")])

    async def test_end(self) -> None:
        """The server ends a watch after C{timeoutSeconds}, not cut in the middle."""
        events = await self.watch((await self.page()).metadata.resource_version, seconds=1)

        async def to_the_end() -> None:
            while await events.next() is not None:
                pass

        await self.in_time(to_the_end())

    async def test_bookmark(self) -> None:
        """Before it ends a watch there is a bookmark: no object, but a version as new as the newest."""
        version = (await self.page()).metadata.resource_version
        events = await self.watch(version, seconds=4)
        made = await self.secret("a")

        async def bookmark() -> Wire:
            while event := await events.next():
                if event["type"] == "BOOKMARK":
                    return event
            raise AssertionError("the watch ended without one")

        found = (await self.in_time(bookmark()))["object"]
        self.assertEqual(found["kind"], "Secret")
        self.assertGreaterEqual(
            int(found["metadata"]["resourceVersion"]), int(made["metadata"]["resourceVersion"])
        )

    async def test_too_old(self) -> None:
        """From a version that is forgotten: the one event is an ERROR with a Status of 410."""
        version = (await self.page()).metadata.resource_version
        await self.secret("a")
        await self.compact()
        events = await self.watch(version)
        event = await self.in_time(events.next())
        assert event is not None
        self.assertEqual((event["type"], event["object"]["kind"]), ("ERROR", "Status"))
        self.assertEqual((event["object"]["code"], event["object"]["reason"]), (410, "Expired"))
        self.assertIsNone(await self.in_time(events.next()))

    async def test_initial_events(self) -> None:
        """A streaming list: what is there as ADDED, a bookmark that says so, then what happens."""
        await self.secret("a")
        await self.secret("b")
        events = await self.watch("", initial=True)
        found = await self.in_time(events.next_of("ADDED", "ADDED"))
        self.assertEqual({name for _, name in found}, {"a", "b"})
        event = await self.in_time(events.next())
        assert event is not None
        self.assertEqual(event["type"], "BOOKMARK")
        self.assertEqual(event["object"]["metadata"]["annotations"], {"k8s.io/initial-events-end": "true"})
        await self.secret("c")
        self.assertEqual(await self.in_time(events.next_of("ADDED")), [("ADDED", "c")])

    async def test_without_a_version(self) -> None:
        """Without a version, or with "0", what is there comes first."""
        await self.secret("a")
        for version in ("", "0"):
            events = await self.watch(version)
            self.assertEqual(await self.in_time(events.next_of("ADDED")), [("ADDED", "a")])

    async def test_all_namespaces(self) -> None:
        """A watch of all namespaces tells of this one's too."""
        version = (await self.api.page(Wire, SECRETS, limit=1)).metadata.resource_version
        stream = await self.api.watch(SECRETS, resource_version=version, seconds=60)
        self.addCleanup(stream.abort)
        events = Events(stream)
        await self.secret("a")
        self.assertEqual(await self.in_time(events.next_of("ADDED")), [("ADDED", "a")])
