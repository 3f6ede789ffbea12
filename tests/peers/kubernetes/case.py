"""A test with a real API server, on the real reactor."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from pipeops_agent.cluster.resources import NAMESPACES, SERVICE_ACCOUNTS
from pipeops_agent.scheduling import bounded, sleep
from tests.peers.kubernetes.client import Client
from tests.peers.kubernetes.running import KubeCluster, api_server
from tests.peers.processes import real_reactor

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that a test waits for what must come: far more than it takes, also on a busy machine."""


class KubernetesCase(TestCase):
    """
    Each test has a namespace of its own, and the administrator's L{api}.

    @cvar start: which cluster it is; L{api_server} has no controllers.
    """

    timeout = 300
    start: Callable[[], KubeCluster] = staticmethod(api_server)

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        self.kube = self.start()
        self.reactor = real_reactor()
        self.client = Client(self.reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.client.close()))
        self.api = self.client.administrator(self.kube)
        self.namespace = await self.make_namespace()

    async def make_namespace(self) -> str:
        """A new namespace, in which pods can be made at once."""
        name = f"test-{secrets.token_hex(4)}"
        await self.api.create(dict, NAMESPACES, {"metadata": {"name": name}})
        # A controller would make it; where there is one, it may have been faster.
        account = {"metadata": {"name": "default", "namespace": name}}
        path = SERVICE_ACCOUNTS
        try:
            await self.api.create(dict, path, account, namespace=name)
        except Exception as error:
            if getattr(error, "code", 0) != 409:
                raise
        return name

    async def until(self, what: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait until C{what} holds."""
        end = self.reactor.seconds() + seconds
        while not what():
            self.assertLess(self.reactor.seconds(), end, "it did not come to that")
            await sleep(self.reactor, 0.02)

    async def in_time(self, waiting: Awaitable[T], seconds: float = PATIENCE) -> T:
        """What comes of C{waiting} within so many seconds."""
        found: T = await bounded(self.reactor, seconds, waiting, "a test's wait")
        return found
