"""Lists that are kept of a real API server, whatever becomes of it meanwhile."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred

from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.call import MERGE_PATCH
from pipeops_agent.cluster.config import StaticCredentials
from pipeops_agent.cluster.errors import ClusterError
from pipeops_agent.cluster.inventory import Inventory
from pipeops_agent.cluster.objects import KINDS
from pipeops_agent.cluster.reflector import Reflector
from pipeops_agent.cluster.resources import NAMESPACES, PODS
from pipeops_agent.scheduling import sleep
from pipeops_agent.tokens import FileToken
from tests.peers.kubernetes import cluster
from tests.peers.kubernetes.case import KubernetesCase

RESTARTS = 20 if os.environ.get("PIPEOPS_ENDURANCE") else 3
WATCHED = ("pods", "nodes", "services", "namespaces", "deployments")
AFTER_RESTART = 150.0
"""Seconds in which every list is live again: the waits between attempts grow, and none is over a minute."""


def now() -> datetime:
    return datetime.now(UTC)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def put(file: Path, token: str) -> None:
    """Let the file hold a token."""
    file.touch(mode=0o600)
    file.write_text(token, "ascii")


class InventoryCase(KubernetesCase):
    """An inventory, and the reflectors that a test starts."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        await super().setUp()
        self.inventory = Inventory()
        self.reflectors: list[Reflector] = []
        self.addCleanup(lambda: Deferred.fromCoroutine(self.stop()))

    async def stop(self) -> None:
        reflectors, self.reflectors = self.reflectors, []
        for reflector in reflectors:
            await reflector.stopService()

    def keep(self, *kinds: str, api: Api | None = None, namespace: str | None = None) -> None:
        """Keep the lists of these kinds."""
        for kind in KINDS:
            if kind.name in kinds:
                reflector = Reflector(
                    self.reactor,
                    api or self.api,
                    kind,
                    self.inventory[kind.name].part(namespace),
                    wall=now,
                    namespace=namespace,
                    random=lambda: 0.0,  # the shortest of the waits that chance could give
                )
                self.reflectors.append(reflector)
                reflector.startService()

    def state(self, kind: str) -> str:
        status = self.inventory[kind].status
        return "none" if status is None else status.state

    def kept(self, *kinds: str) -> dict[str, str]:
        """The version of each object, by its kind and key."""
        return {
            f"{kind}/{item.key}": item.resource_version for kind in kinds for item in self.inventory[kind]
        }

    def there(self, *kinds: str) -> dict[str, str]:
        """The same, as kubectl says."""
        found = json.loads(self.kube.kubectl("get", ",".join(kinds), "-A", "-o", "json"))["items"]
        said: dict[str, str] = {}
        for each in found:
            meta = each["metadata"]
            where = f"{meta['namespace']}/" if "namespace" in meta else ""
            said[f"{each['kind'].lower()}s/{where}{meta['name']}"] = meta["resourceVersion"]
        return said

    async def make_pod(self, name: str) -> None:
        """A pod for which there is no node."""
        body = {
            "metadata": {"name": name},
            "spec": {
                "containers": [{"name": "main", "image": "main:1"}],
                "nodeSelector": {"no-such": "node"},
                "terminationGracePeriodSeconds": 0,
            },
        }
        await self.api.create(dict, PODS, body, namespace=self.namespace)


class RestartTests(InventoryCase):
    """An API server that is killed."""

    timeout = RESTARTS * 180

    async def load(self) -> None:
        """Make, change and delete pods as fast as it goes, whatever fails."""
        number = 0
        while True:
            number += 1
            try:
                await self.make_pod(f"pod-{number}")
                patch = {"metadata": {"labels": {"n": str(number)}}}
                await self.api.patch(
                    dict, PODS, f"pod-{number}", patch, MERGE_PATCH, namespace=self.namespace
                )
                if number % 3:
                    await self.api.delete(PODS, f"pod-{number}", namespace=self.namespace, grace_seconds=0)
            except CancelledError:
                raise
            except ClusterError:
                await sleep(self.reactor, 0.05)

    async def test_killed_and_restarted(self) -> None:
        """Killed under load again and again: after each, what is kept is what is there; nothing is left."""
        before = descriptors(), len(self.reactor.getDelayedCalls())
        self.keep(*WATCHED)
        for _ in range(RESTARTS):
            loading = Deferred.fromCoroutine(self.load())
            loading.addErrback(lambda failure: failure.trap(CancelledError) and None)
            await sleep(self.reactor, 0.5)
            self.kube.signal("apiserver", signal.SIGKILL)
            self.kube.start_again("apiserver")
            await self.until(self.kube.ready)
            for reflector in self.reflectors:
                reflector.wake()  # as the service does that finds it again
            await sleep(self.reactor, 0.5)
            loading.cancel()
            await self.until(
                lambda: (
                    all(self.state(kind) == "live" for kind in WATCHED)
                    and self.kept(*WATCHED) == self.there(*WATCHED)
                ),
                AFTER_RESTART,
            )
        self.assertGreater(len(self.inventory["pods"]), 0)
        await self.stop()
        await self.client.close()
        await self.until(lambda: descriptors() <= before[0])
        await self.until(lambda: len(self.reactor.getDelayedCalls()) <= before[1] + 1)  # its own wait


class RightsTests(InventoryCase):
    """Rights that are not there, and tokens that do not hold any more."""

    def account(self, name: str, *resources: str) -> str:
        """A token of an account that may watch these everywhere."""
        rule = {"apiGroups": ["", "apps"], "resources": list(resources), "verbs": ["list", "watch"]}
        self.kube.make_account(self.namespace, name, rule, everywhere=True)
        return self.kube.token(self.namespace, name)

    async def test_one_of_five(self) -> None:
        """One resource of five is denied: said of that one, and the others are kept."""
        may = [kind for kind in WATCHED if kind != "services"]
        api = self.client.account(self.kube, self.account("most", *may))
        self.keep(*WATCHED, api=api)
        await self.until(lambda: [self.state(kind) for kind in may] == ["live"] * 4)
        await self.until(lambda: self.state("services") == "denied")
        status = self.inventory["services"].status
        assert status is not None
        self.assertIn('cannot list resource "services"', status.message)
        self.assertEqual(self.kept(*may), self.there(*may))
        self.assertEqual(
            [call for call in self.client.observed if call[2] == 403], [("list", "services", 403)]
        )

    async def test_token_that_ends(self) -> None:
        """A token that holds no more: broken, and said why; live again with the next one in its file."""
        file = Path(self.mktemp())
        put(file, self.account("old", "pods"))
        api = self.client.with_credentials(self.kube, StaticCredentials(FileToken(file)))
        self.keep("pods", api=api)
        await self.until(lambda: self.state("pods") == "live")
        self.kube.kubectl("-n", self.namespace, "delete", "serviceaccount", "old")
        # It ends the watch, and forgets which tokens were good.
        self.kube.signal("apiserver", signal.SIGKILL)
        self.kube.start_again("apiserver")
        await self.until(self.kube.ready)
        await self.until(lambda: ("watch", "pods", 401) in self.client.observed, AFTER_RESTART)
        await self.until(lambda: self.state("pods") == "broken")
        put(file, self.account("new", "pods"))
        await self.make_pod("later")
        await self.until(lambda: self.state("pods") == "live", AFTER_RESTART)
        await self.until(lambda: self.inventory["pods"].get("later", self.namespace) is not None)


class NamespaceTests(InventoryCase):
    """A namespace that is deleted; only a controller empties it."""

    start = staticmethod(cluster)

    async def test_deleted_while_watched(self) -> None:
        """Its objects go one by one, its list stays; made anew, it is followed without anybody's help."""
        self.keep("pods", namespace=self.namespace)
        for name in ("a", "b"):
            await self.make_pod(name)
        await self.until(lambda: len(self.inventory["pods"]) == 2)
        await self.api.delete(NAMESPACES, self.namespace)
        await self.until(lambda: len(self.inventory["pods"]) == 0)
        self.assertEqual(self.state("pods"), "live")
        wait = ("wait", "--for=delete", f"namespace/{self.namespace}", "--timeout=50s")
        self.kube.kubectl(*wait)
        self.kube.make_namespace(self.namespace)
        await self.make_pod("c")
        await self.until(lambda: self.inventory["pods"].get("c", self.namespace) is not None)
        self.assertEqual(self.state("pods"), "live")
