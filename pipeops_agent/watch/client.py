"""Asking an agent: one answer, or a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from pipeops_agent.net import ClientTLS, Connector, explain
from pipeops_agent.net.bodies import UndecodedAgent, read_body
from pipeops_agent.scheduling import DeadlineExceeded, bounded
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.addresses import is_loopback
from pipeops_agent.web.answers import Error

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for name, TCP and TLS."""

PATIENCE: Final = 30.0
"""Seconds that an answer, or the head of a stream, may take."""

SILENCE: Final = 45.0
"""Seconds without a byte after which a stream is dead: the agent says something every 15."""

MAX_ANSWER: Final = 16 * 1024 * 1024
"""Bytes of one answer."""


class WatchError(Exception):
    """What was asked for can't be had; the text is for the person who asked."""


class Lost(WatchError):
    """There was no answer, or it broke off: it may be worth asking again."""


class Refused(WatchError):
    """
    The agent does not do as asked.

    @ivar code: the status; C{retry_after}: the seconds that it wants to be left alone.
    """

    def __init__(self, code: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after

    @property
    def temporary(self) -> bool:
        """Whether it may be worth asking again."""
        return self.code in (429, 503)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """
    The agent, and who asks it.

    @ivar url: C{http} or C{https}, host and port.
    @ivar token: None: none is shown.
    @ivar plaintext: the token may go over plain HTTP to another machine.
    """

    url: str
    token: Secret | None
    tls: ClientTLS = ClientTLS()
    plaintext: bool = False

    def headers(self) -> dict[str, str]:
        """
        What says who asks.

        @raise WatchError: saying it would give the token away.
        """
        if self.token is None:
            return {}
        parts = urlsplit(self.url)
        if parts.scheme != "https" and not self.plaintext and not is_loopback(parts.hostname or ""):
            raise WatchError(
                f"{self.url} is plain HTTP to another machine: the token could be read on the way"
                " (use https, or --plaintext)"
            )
        return {"Authorization": f"Bearer {self.token.reveal()}"}


class AgentClient:
    """
    Asks one agent.

    @param reactor: time and connections.
    """

    def __init__(self, reactor: Any, target: Target) -> None:
        self.target = target
        self.reactor = reactor
        self.connector = Connector(reactor, connect_timeout=CONNECT_TIMEOUT)
        self._agent = UndecodedAgent(self.connector.agent(target.tls))

    async def get(self, path: str) -> Any:
        """
        The answer to C{path}, decoded.

        @raise WatchError: there is none.
        """
        response = await self._request(path, {"Accept-Encoding": "gzip"})
        body = await self._in_time(read_body(response, MAX_ANSWER))
        if response.code >= 400:
            raise _refusal(response, body)
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            raise WatchError(f"{self.target.url} does not answer as an agent does: {error}") from None

    async def stream(self, path: str, headers: dict[str, str], take: Callable[[bytes], None]) -> None:
        """
        Let C{take} have the body of an answer as it comes, to its end.

        @raise WatchError: there is none, or it breaks off.
        """
        response = await self._request(path, {"Accept": "text/event-stream", **headers})
        if response.code >= 400:
            raise _refusal(response, await self._in_time(read_body(response, MAX_ANSWER)))
        body = _Body(self.reactor, take)
        response.deliverBody(body)
        await body.ended

    async def _request(self, path: str, headers: dict[str, str]) -> Any:
        fields = {**headers, **self.target.headers(), "User-Agent": "pipeops-agent-watch"}
        url = f"{self.target.url}{path}".encode("ascii")
        asking = self._agent.request(b"GET", url, Headers({key: [value] for key, value in fields.items()}))
        return await self._in_time(asking)

    async def _in_time(self, waiting: Deferred[Any]) -> Any:
        try:
            return await bounded(self.reactor, PATIENCE, waiting, "the answer")
        except (WatchError, DeadlineExceeded) as error:
            raise Lost(f"{self.target.url}: {error}") from None
        except Exception as error:
            raise Lost(explain(_cause(error), self.target.url).sentence) from error


class _Body(Protocol, TimeoutMixin):
    """A body that is handed on as it comes, and given up when nothing comes."""

    def __init__(self, clock: Any, take: Callable[[bytes], None]) -> None:
        self._clock = clock
        self._take = take
        self.ended: Deferred[None] = Deferred(lambda _: self._abort())

    def callLater(self, period: float, func: Callable[[], None]) -> IDelayedCall:  # noqa: N802 (its name)
        """See L{TimeoutMixin}: on this clock, not on the global one."""
        call: IDelayedCall = self._clock.callLater(period, func)
        return call

    def connectionMade(self) -> None:
        self.setTimeout(SILENCE)

    def dataReceived(self, data: bytes) -> None:
        if self.ended.called:
            return
        self.resetTimeout()
        try:
            self._take(data)
        except Exception:
            self._end(Failure())

    def timeoutConnection(self) -> None:
        self._end(Failure(Lost(f"nothing has come for {SILENCE:g} s")))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.setTimeout(None)
        if self.ended.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.ended.callback(None)
        else:
            self.ended.errback(Lost("the connection broke off"))

    def _end(self, failure: Failure) -> None:
        self.setTimeout(None)
        self._abort()
        if not self.ended.called:
            self.ended.errback(failure)

    def _abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            getattr(transport, "abortConnection", transport.loseConnection)()


def _refusal(response: Any, body: bytes) -> Refused:
    try:
        message = msgspec.json.decode(body, type=Error).error.message
    except msgspec.DecodeError:
        message = "what answers is no agent, or something between here and it"
    (wait,) = response.headers.getRawHeaders("Retry-After", [""])[:1]
    seconds = float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 6 else None
    return Refused(response.code, f"{response.code}: {message}", seconds)


def _cause(error: BaseException) -> BaseException:
    """The error within those that twisted.web wraps around it."""
    while isinstance(error, ResponseFailed) and error.reasons:
        error = error.reasons[0].value
    return error
