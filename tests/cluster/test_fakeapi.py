"""The contract suite (L{tests.contracts.kubernetes_api}) on the fake API server, over loopback sockets."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from twisted.web.server import Site

from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.config import ClusterConfig, StaticCredentials
from pipeops_agent.cluster.resources import NAMESPACES
from pipeops_agent.scheduling import bounded
from pipeops_agent.secrets import Secret
from pipeops_agent.tokens import SettingsToken
from tests.cluster.client import Client
from tests.cluster.fakeapi import Asked, FakeApi
from tests.contracts.kubernetes_api import ApiServerContract, ReadingContract, WatchContract
from tests.contracts.kubernetes_writes import RefusalContract, WritingContract
from tests.peers.processes import PATIENCE, real_reactor

T = TypeVar("T")


class FakeApiServer(ApiServerContract, TestCase):
    """How the contract reaches it."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        reactor = real_reactor()
        self.server = FakeApi(clock=reactor)
        self.server.users = {"admin": "admin", "reader": "reader"}
        self.server.allowed = self.allowed
        self.port: Any = reactor.listenTCP(0, cast(Any, Site(self.server)), interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.client = Client(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.client.close()))
        self.api = self.with_token("admin")
        self.namespace = "shop"
        await self.api.create(dict, NAMESPACES, {"metadata": {"name": "shop"}})

    def with_token(self, token: str) -> Api:
        return self.client.api(
            ClusterConfig(
                origin="a test",
                host="127.0.0.1",
                port=self.port.getHost().port,
                tls=None,
                credentials=StaticCredentials(SettingsToken(Secret(token))),
            )
        )

    def allowed(self, asked: Asked) -> bool:
        reads_pods = asked.resource.name == "pods" and asked.verb in ("get", "list", "watch")
        return asked.user == "admin" or (reads_pods and asked.namespace == "shop")

    async def stranger(self) -> Api:
        return self.with_token("nobody")

    async def reader(self) -> Api:
        return self.with_token("reader")

    async def compact(self) -> None:
        self.server.storage.compact()

    async def in_time(self, waiting: Awaitable[T], seconds: float = PATIENCE) -> T:
        found: T = await bounded(real_reactor(), seconds, waiting, "a test's wait")
        return found


class ReadingTests(ReadingContract, FakeApiServer):
    """Objects and lists."""


class WatchTests(WatchContract, FakeApiServer):
    """Watches."""


class WritingTests(WritingContract, FakeApiServer):
    """Creating, replacing, patching, deleting."""


class RefusalTests(RefusalContract, FakeApiServer):
    """Who may do what."""
