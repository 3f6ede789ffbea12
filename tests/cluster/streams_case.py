"""Streams to pods, to a server in memory that the test leads."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.caller import Caller, Grant
from pipeops_agent.cluster.config import ClusterConfig, Credential
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.cluster.sessions import (
    ExecSession,
)
from pipeops_agent.cluster.streaming import Streams, Terminal
from pipeops_agent.net import ClientTLS
from pipeops_agent.secrets import Secret
from tests.cluster.fakeapi.sockets import FakeEndpoints, FakeSocket
from tests.tunnel.rig import Link

T = TypeVar("T")

CALLER = Caller(subject="someone", scopes=frozenset({Grant("operate")}), origin="a test")
TERMINAL = Terminal(namespace="shop", pod="web", container="main", stdin=True)
UNAUTHORIZED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"


class Tokens:
    """Credentials whose token is another one once it was refused."""

    def __init__(self) -> None:
        self.token = Secret("old")
        self.certificate = b""

    async def current(self) -> Credential:
        return Credential(token=self.token, certificate=self.certificate)

    def refused(self) -> bool:
        fresh, self.token = self.token.reveal() == "old", Secret("new")
        return fresh


class StreamsCase(SynchronousTestCase):
    """Streams to a server that the test leads."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.endpoints = FakeEndpoints(self.reactor)
        self.tokens = Tokens()
        self.scope = Scope()
        self.home = ""
        self.observed: list[tuple[str, str, int | None]] = []
        self.host = "kube.test"

    def tearDown(self) -> None:
        """Whatever a test did, nothing is left on the clock, and no connection open."""
        for link in self.endpoints.links:
            link.lose(ConnectionLost())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    @property
    def streams(self) -> Streams:
        config = ClusterConfig(
            origin="a test",
            host=self.host,
            port=6443,
            prefix="/k8s/c1",
            tls=ClientTLS(),
            credentials=self.tokens,
        )
        return Streams(
            self.reactor,
            self.endpoints,
            config,
            Reach(scope=self.scope, home=self.home),
            version="1.2.3",
            observe=lambda verb, resource, code, seconds: self.observed.append((verb, resource, code)),
        )

    @property
    def link(self) -> Link:
        return self.endpoints.links[-1]

    @property
    def server(self) -> FakeSocket:
        server: FakeSocket = self.link.server
        return server

    def pump(self, size: int = 1 << 30) -> None:
        for link in self.endpoints.links:
            link.pump(size)

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Start C{coroutine}, and move what it sends."""
        running = Deferred.fromCoroutine(coroutine)
        self.pump()
        return running

    def result(self, coroutine: Coroutine[Any, Any, T]) -> T:
        found: T = self.successResultOf(self.begin(coroutine))
        return found

    def failure(self, coroutine: Coroutine[Any, Any, Any], kind: type[T]) -> T:
        error: T = self.failureResultOf(self.begin(coroutine), kind).value
        return error

    def exec(self, *command: str, terminal: Terminal = TERMINAL, caller: Caller = CALLER) -> ExecSession:
        session: ExecSession = self.result(self.streams.exec(caller, terminal, command or ("true",)))
        return session

    def advance(self, seconds: float) -> None:
        while seconds > 0:
            self.reactor.advance(min(1.0, seconds))
            self.pump()
            seconds -= 1.0
