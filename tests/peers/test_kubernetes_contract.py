"""The contract suite (L{tests.contracts.kubernetes_api}) on a real API server."""

from __future__ import annotations

import signal

from pipeops_agent.cluster.api import Api
from tests.contracts.kubernetes_api import ApiServerContract, ReadingContract, WatchContract
from tests.contracts.kubernetes_writes import RefusalContract, WritingContract
from tests.peers.kubernetes.case import KubernetesCase


class RealApiServer(KubernetesCase, ApiServerContract):
    """How the contract reaches it."""

    async def stranger(self) -> Api:
        return self.client.account(self.kube, "a-token-of-nobody")

    async def reader(self) -> Api:
        rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
        self.kube.make_account(self.namespace, "reader", rule)
        return self.client.account(self.kube, self.kube.token(self.namespace, "reader"))

    async def compact(self) -> None:
        """Of etcd; and the API server forgets what it keeps beside that only when it is started again."""
        self.kube.compact()
        self.kube.signal("apiserver", signal.SIGKILL)
        self.kube.start_again("apiserver")
        await self.until(self.kube.ready)


class ReadingTests(ReadingContract, RealApiServer):
    """Objects and lists."""


class WatchTests(WatchContract, RealApiServer):
    """Watches."""


class WritingTests(WritingContract, RealApiServer):
    """Creating, replacing, patching, deleting."""


class RefusalTests(RefusalContract, RealApiServer):
    """Who may do what."""
