"""The real client and the fake API server, in memory, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.caller import Grant
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.config import ClusterConfig, StaticCredentials
from pipeops_agent.cluster.transport import Transport
from pipeops_agent.net import ClientTLS
from pipeops_agent.secrets import Secret
from pipeops_agent.tokens import SettingsToken
from tests.cluster.fakeapi import FakeApi

T = TypeVar("T")

EVERYTHING = frozenset({Grant("read"), Grant("operate")})
"""The scopes of a caller that may do whatever the agent may."""

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


class AgentsOf:
    """The same HTTP agent for everybody."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    def agent(self, tls: ClientTLS | None = None, *, max_answer: int | None = None) -> Any:
        return self._agent

    def release(self, agent: Any) -> None:
        raise AssertionError("no test here has certificates")


class FakeApiCase(SynchronousTestCase):
    """
    Each test has an L{Api} to a L{FakeApi}.

    @ivar tokens: the agent's own.
    @ivar observed: verb, resource and code of each call.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.server = FakeApi()
        self.storage = self.server.storage
        self.observed: list[tuple[str, str, int | None]] = []
        self.tokens = SettingsToken(Secret("token"))
        self._traversal = RequestTraversalAgent(self.server)
        config = ClusterConfig(
            origin="a test",
            host="kube.test",
            port=6443,
            tls=ClientTLS(),
            credentials=StaticCredentials(self.tokens),
        )
        transport = Transport(
            self.clock,
            AgentsOf(self._traversal),
            config,
            version="0",
            observe=lambda verb, resource, code, seconds: self.observed.append((verb, resource, code)),
            random=lambda: 0.5,
        )
        self.api = Api(transport)

    def tearDown(self) -> None:
        """Whatever a test did, nothing is left on the clock, and nobody watches."""
        self.flush()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.server.watches, [])

    def wall(self) -> datetime:
        """The clock as wall time."""
        return NOON + timedelta(seconds=self.clock.seconds())

    def flush(self) -> None:
        """Let everything arrive that was sent."""
        self._traversal.flush()

    def advance(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass in small steps, and arrive what is sent meanwhile."""
        self.flush()
        while seconds > 1e-9:
            self.clock.advance(min(step, seconds))
            self.flush()
            seconds -= step

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
        """Start C{coroutine}."""
        result = Deferred.fromCoroutine(coroutine)
        self.flush()
        return result

    def result(self, coroutine: Coroutine[Any, Any, T], seconds: float = 0.0) -> T:
        """What comes of C{coroutine} within so many seconds."""
        running = self.begin(coroutine)
        self.advance(seconds)
        found: T = self.successResultOf(running)
        return found

    def failure(self, coroutine: Coroutine[Any, Any, Any], kind: type[T], seconds: float = 0.0) -> T:
        """The error that C{coroutine} ends with."""
        running = self.begin(coroutine)
        self.advance(seconds)
        error: T = self.failureResultOf(running, kind).value
        return error

    def pod(self, name: str, namespace: str = "shop", **changes: Any) -> None:
        """Let there be a pod."""
        made: dict[str, Any] = {
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"containers": [{"name": "main"}]},
            "status": {"phase": "Running"},
        }
        made.update(changes)
        self.storage.create("pods", namespace, made)

    def until(self, what: Callable[[], bool], seconds: float) -> None:
        """Let time pass until C{what} holds; fail where it does not within so many seconds."""
        end = self.clock.seconds() + seconds
        while not what():
            self.assertLess(self.clock.seconds(), end, "it did not come to that")
            self.advance(0.25)
