"""A control plane in memory, and the other things that the agent's side of it needs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.iweb import IAgent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from pipeops_agent.controlplane import ControlPlaneClient
from pipeops_agent.controlplane.errors import ApiError
from pipeops_agent.events import EventHub
from pipeops_agent.net import ClientTLS
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_pipeops import PipeopsSettings
from pipeops_agent.status import StatusBoard

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
API = "https://cp.test/base"


class FakeTokens:
    """A token that changes when the test says so."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = [Secret(token) for token in tokens]
        self.refreshed = 0

    def current(self) -> Secret | None:
        return self.tokens[0] if self.tokens else None

    def refresh(self) -> bool:
        self.refreshed += 1
        if len(self.tokens) > 1:
            self.tokens.pop(0)
            return True
        return False

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


class Seen:
    """One request, as the server saw it."""

    def __init__(self, request: Request) -> None:
        self.method = request.method.decode()
        self.uri = request.uri.decode()
        self.headers = {
            name.decode().lower(): values[0].decode()
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        assert request.content is not None
        self.body: bytes = request.content.read()


class Reply:
    """What the server answers."""

    def __init__(self, status: int = 200, body: bytes = b"{}", **headers: str) -> None:
        self.status = status
        self.body = body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def write(self, request: Request) -> bytes:
        request.setResponseCode(self.status)
        request.responseHeaders.removeHeader("date")
        for name, value in self.headers.items():
            request.setHeader(name, value)
        return self.body


class FakeControlPlane(Resource):
    """
    Answers each request with the next reply, the last one for ever.

    @ivar hang: leave requests unanswered.
    """

    isLeaf = True

    def __init__(self, *replies: Reply) -> None:
        super().__init__()
        self.replies = list(replies) or [Reply()]
        self.seen: list[Seen] = []
        self.hang = False
        self.disconnected = 0

    def render(self, request: Request) -> Any:
        self.seen.append(Seen(request))
        if self.hang:
            request.notifyFinish().addErrback(self._lost)
            return NOT_DONE_YET
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return reply.write(request)

    def _lost(self, _: object) -> None:
        self.disconnected += 1


class MemoryConnector:
    """Gives out the one agent that leads to the fake server."""

    def __init__(self, server: Resource) -> None:
        self.traversal = RequestTraversalAgent(server)

    def agent(self, tls: ClientTLS | None = None, *, max_answer: int | None = None) -> IAgent:
        agent: IAgent = self.traversal
        return agent


class World:
    """Everything around one client: clock, board, tokens, server."""

    def __init__(self, *replies: Reply, settings: PipeopsSettings | None = None) -> None:
        self.clock = Clock()
        self.board = StatusBoard(EventHub(self.wall), self.wall)
        self.tokens = FakeTokens("token-0123456789")
        self.server = FakeControlPlane(*replies)
        self.connector = MemoryConnector(self.server)
        self.settings = settings or PipeopsSettings(api_url=API)
        self.client = ControlPlaneClient(
            self.clock, self.settings, self.tokens, self.connector, self.board, self.wall
        )

    def wall(self) -> datetime:
        return NOON + timedelta(seconds=self.clock.seconds())


class ScriptedCalls:
    """Stands for the client: each call takes its outcome from the test."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.outcomes: list[Any] = []
        self.default: Any = None

    def take(self, call: Any) -> Deferred[Any]:
        self.calls.append(call)
        outcome = self.outcomes.pop(0) if self.outcomes else self.default
        result: Deferred[Any]
        if isinstance(outcome, Deferred):
            return outcome
        result = Deferred()
        if isinstance(outcome, Exception):
            result.errback(outcome)
        else:
            result.callback(outcome)
        return result


def network_error(sentence: str = "cp.test:443 refuses connections") -> ApiError:
    return ApiError(sentence, retryable=True)


def server_error(status: int = 503, **changes: Any) -> ApiError:
    return ApiError(f"answers {status}", status=status, retryable=status >= 500 or status == 429, **changes)
