"""A house with a Kubernetes API server in it: the fake one, on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeops_agent.cluster import reaching, reflector
from pipeops_agent.settings import Settings
from pipeops_agent.status import ClusterStatus
from tests.agent.house import REACTOR, House
from tests.cluster.fakeapi import FakeApi
from tests.cluster.fakeapi.listening import ListeningApi

NODE = {
    "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/region": "eu-central-1"}},
    "spec": {"providerID": "aws:///eu-central-1a/i-0abc"},
    "status": {
        "addresses": [
            {"type": "InternalIP", "address": "10.0.0.7"},
            {"type": "ExternalIP", "address": "203.0.113.7"},
        ],
        "capacity": {"cpu": "4", "memory": "8Gi"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}


def pod(name: str) -> dict[str, Any]:
    """A pod that runs."""
    return {"metadata": {"name": name}, "spec": {}, "status": {"phase": "Running"}}


class ClusterHouse(House):
    """A house with an API server; it has one node and two pods."""

    def setUp(self) -> None:
        super().setUp()
        for module, name, value in (
            (reaching, "LOOK", 0.05),
            (reaching, "DOUBTS", 0.05),
            (reaching, "SLOWEST", 0.1),
            (reflector, "RETRY_CAP", 0.1),
            (reflector, "SHORTEST_WATCH", 0.05),
        ):
            self.patch(module, name, value)
        self.api = FakeApi()
        storage = self.api.storage
        storage.create("namespaces", "", {"metadata": {"name": "kube-system"}})
        storage.create("nodes", "", NODE)
        for name in ("a", "b"):
            storage.create("pods", "shop", pod(name))

    def start_api(self, tls: Any = None) -> ListeningApi:
        """Let the API server listen until the test ends."""
        self.listening = ListeningApi(REACTOR, self.api, tls)
        self.listening.start()
        self.addCleanup(self.listening.stop)
        return self.listening

    def write_kubeconfig(self, server: str, **cluster: str) -> Path:
        """A kubeconfig for this server."""
        path = self.directory / "kubeconfig"
        text = yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
                "users": [{"name": "u", "user": {"token": "the-kubeconfigs-token"}}],
            }
        )
        path.write_text(text)
        return path

    def with_kubeconfig(self, **kubernetes: Any) -> Settings:
        """Settings with a kubeconfig for the API server."""
        path = self.write_kubeconfig(f"http://127.0.0.1:{self.listening.port}")
        return self.settings(kubernetes={"kubeconfig": str(path), **kubernetes})

    async def until_watched(self, *states: str) -> ClusterStatus:
        """Wait until each list is in one of these states, by default live."""
        wanted = states or ("live",)
        status = await self.until(
            lambda status: (
                len(status.cluster.lists) == 10 and all(each.state in wanted for each in status.cluster.lists)
            ),
            "the lists",
        )
        return status.cluster

    async def series(self, name: str) -> list[str]:
        """The lines of a metric."""
        _, text = await self.get("/metrics")
        return [line for line in text.splitlines() if line.startswith(name)]
