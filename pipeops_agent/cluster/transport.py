"""
Calls to the API server over HTTP: attempts, deadlines, credentials, and what became of each.

Only this module and L{stream} touch treq; what a call means is L{api}'s affair.
"""

from __future__ import annotations

import random as _random
from collections.abc import Awaitable, Callable, Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final, NamedTuple, Protocol, TypeVar, cast

import msgspec
from hyperlink import EncodedURL
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IReactorTime
from twisted.web.client import RequestTransmissionFailed, ResponseFailed, ResponseNeverReceived
from twisted.web.iweb import IAgent, IBodyProducer

from pipeops_agent.backoff import Backoff
from pipeops_agent.cluster.call import Answer, Call
from pipeops_agent.cluster.config import ClusterConfig, Credential
from pipeops_agent.cluster.errors import BadAnswer, ClusterError, StatusError, Unreachable, status_error
from pipeops_agent.cluster.stream import BodyStream
from pipeops_agent.net import ClientTLS, ConnectProblem, explain
from pipeops_agent.net.bodies import BodyDamaged, BodyTooLong, BytesProducer, UndecodedAgent, read_body
from pipeops_agent.scheduling import DeadlineExceeded, bounded, sleep

MAX_ANSWER: Final = 64 * 1024 * 1024
"""The longest body of an answer, in bytes: thousands of objects; one of etcd has 1.5 MiB at most."""

MAX_FAILURE: Final = 64 * 1024
"""The most that is read of an answer that says no."""

ATTEMPTS: Final = 4
"""How often a call is made at most, where it may be repeated."""

T = TypeVar("T")

_WRAPPERS: Final = (RequestTransmissionFailed, ResponseFailed, ResponseNeverReceived)


class AgentSource(Protocol):
    """Gives HTTP agents: the connector (L{pipeops_agent.net.Connector})."""

    def agent(self, tls: ClientTLS | None = None, *, max_answer: int | None = None) -> IAgent:
        """An agent that speaks TLS like this."""
        ...

    def release(self, agent: IAgent) -> None:
        """One that was given is asked no more."""
        ...


class Observer(Protocol):
    """Is told of every answer, and of every call that had none: for metrics."""

    def __call__(self, verb: str, resource: str, code: int | None, seconds: float) -> None:
        """One attempt of a call has ended; C{code} is None where no answer came."""
        ...


class Raw(msgspec.Struct, frozen=True, kw_only=True):
    """
    An answer as it came, whatever its status.

    @ivar headers: names and values, in the server's order.
    @ivar body: to be read as it comes; whoever stops before its end aborts it.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: BodyStream


class _ReadyURL(EncodedURL):
    """A URL that is in its final form, quoted: treq's own conversion fails on IPv6 addresses."""

    def to_uri(self) -> EncodedURL:
        return self


class _Clients(NamedTuple):
    """
    Two clients of the same connections.

    @ivar agent: what has these connections.
    @ivar plain: for what is read as it comes.
    @ivar compressed: for whole answers. The API server compresses what is longer than 128 KiB; most of what a
        long list costs here is its many small pieces, of which there are ten times fewer then.
    """

    agent: IAgent
    plain: HTTPClient
    compressed: HTTPClient


class Transport:
    """
    Makes calls to one API server.

    A call that was refused with 429 is made again after the time that the server asks for; one that changes
    nothing also after 5xx, or where the connection was lost; any after a connection that could not be made.
    All of it within the call's own timeout, with jitter. After a 401 the credential is got anew, once.
    """

    def __init__(
        self,
        clock: IReactorTime,
        agents: AgentSource,
        config: ClusterConfig,
        *,
        version: str,
        observe: Observer,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._clock = clock
        self._agents = agents
        self._config = config
        self._version = version
        self._observe = observe
        self._random = random
        self._clients: dict[Credential, _Clients] = {}

    @property
    def config(self) -> ClusterConfig:
        """The cluster that the calls go to."""
        return self._config

    async def call(self, call: Call) -> Answer:
        """
        Make C{call} and return the whole answer.

        @raise StatusError: it is a failure.
        @raise BadAnswer: its body is too long, or damaged.
        @raise Unreachable: there was none in time.
        @raise Misconfigured: the credentials can't be had.
        """
        limit = MAX_ANSWER if call.limit is None else call.limit

        async def whole(response: Any) -> Answer:
            try:
                body = await read_body(response, limit)
            except (BodyTooLong, BodyDamaged) as error:
                raise BadAnswer(f"{call.what}: {error}") from error
            return Answer(
                status=response.code, body=body, content_type=_header(response, "Content-Type") or ""
            )

        return await self._in_time(call, self._attempts(call, whole, compressed=True))

    async def stream(self, call: Call) -> BodyStream:
        """
        Make C{call} and return the body of its answer, to be read as it comes.

        @raise ClusterError: as L{call}.
        """

        async def begun(response: Any) -> BodyStream:
            stream = BodyStream()
            response.deliverBody(stream)
            return stream

        return await self._in_time(call, self._attempts(call, begun, compressed=False))

    async def raw(self, call: Call, headers: Mapping[str, str], producer: IBodyProducer | None = None) -> Raw:
        """
        Make C{call} once, and hand on what comes of it: failures and redirects are answers here.

        @param headers: sent with it; they say what C{call.accept} and C{call.content_type} would.
        @param producer: the request's body, in place of C{call.body}.
        @raise BadAnswer: what came is not HTTP.
        @raise Unreachable: nothing came in time.
        """
        return await self._in_time(call, self._raw(call, headers, producer))

    async def _raw(self, call: Call, headers: Mapping[str, str], producer: IBodyProducer | None) -> Raw:
        for attempt in (1, 2):
            credential = await self._config.credentials.current()
            began, code = self._clock.seconds(), None
            try:
                response = await self._request(call, credential, headers=headers, producer=producer)
                code = response.code
            except CancelledError:
                raise
            except Exception as error:
                raise self._network_error(call, error) from error
            finally:
                self._observe(call.verb, call.resource, code, self._clock.seconds() - began)
            body = BodyStream()
            response.deliverBody(body)
            mine = code == 401 and call.token is None  # the agent's credential, not the caller's
            if not (mine and self._config.credentials.refused() and producer is None and attempt == 1):
                break
            body.abort()
        found = response.headers.getAllRawHeaders()
        return Raw(
            status=response.code,
            headers=tuple(
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, values in found
                for value in values
            ),
            body=body,
        )

    async def _in_time(self, call: Call, attempts: Awaitable[T]) -> T:
        try:
            return await bounded(self._clock, call.timeout, attempts, call.what)
        except DeadlineExceeded as error:
            place = self._config.authority
            sentence = f"{call.what}: no answer from {place} within {call.timeout:g} s"
            raise Unreachable(sentence) from error

    async def _attempts(self, call: Call, receive: Callable[[Any], Awaitable[T]], *, compressed: bool) -> T:
        backoff = Backoff(self._clock, interval=0.2, step=0.4, cap=5.0, random=self._random)
        renewed = False
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._once(call, receive, compressed=compressed)
            except ClusterError as error:
                if (
                    isinstance(error, StatusError)
                    and error.unauthorized
                    and not renewed
                    and call.token is None
                ):
                    renewed = True
                    if self._config.credentials.refused():
                        continue
                if attempt == ATTEMPTS or not _again(call, error):
                    raise
                wait = backoff.failed()
                if isinstance(error, StatusError) and error.retry_after is not None:
                    wait += error.retry_after
            await sleep(self._clock, wait)
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, call: Call, receive: Callable[[Any], Awaitable[T]], *, compressed: bool) -> T:
        """One attempt, observed."""
        credential = await self._config.credentials.current()
        began = self._clock.seconds()
        code: int | None = None
        try:
            response = await self._request(call, credential, compressed=compressed)
            code = response.code
            if code >= 300:
                raise await self._failure(call, response)
            return await receive(response)
        except (ClusterError, CancelledError):
            raise
        except Exception as error:
            raise self._network_error(call, error) from error
        finally:
            self._observe(call.verb, call.resource, code, self._clock.seconds() - began)

    async def _request(
        self,
        call: Call,
        credential: Credential,
        *,
        compressed: bool = False,
        headers: Mapping[str, str] | None = None,
        producer: IBodyProducer | None = None,
    ) -> Any:
        token = credential.token if call.token is None else call.token
        sent: dict[str | bytes, str | bytes] = {}
        sent.update({"Accept": call.accept} if headers is None else headers)
        sent["Host"] = self._config.authority  # twisted.web leaves out an IPv6 address's brackets
        sent["User-Agent"] = f"PipeOps-Agent/{self._version}"
        if token:
            sent["Authorization"] = f"Bearer {token.reveal()}"
        if call.body is not None and headers is None:
            sent["Content-Type"] = call.content_type
        # A caller's own token must not travel beside the agent's certificate: that would be who it is.
        who = credential if call.token is None else Credential()
        clients = self._clients_of(who)
        client = clients.compressed if compressed else clients.plain
        return await client.request(
            call.method,
            _ReadyURL.from_text(self._config.base + call.target),
            headers=sent,
            data=call.body if producer is None else cast(Any, producer),
            allow_redirects=False,
            unbuffered=True,
            reactor=cast(Any, self._clock),
        )

    def _clients_of(self, credential: Credential) -> _Clients:
        """The clients whose connections prove themselves with this certificate."""
        who = msgspec.structs.replace(credential, token=None)
        found = self._clients.get(who)
        if found is not None:
            return found
        if who.certificate:
            self._release_certified()
        tls = self._config.tls
        if tls is not None and who.certificate:
            tls = msgspec.structs.replace(tls, cert_data=who.certificate, key_data=who.key)
        agent = self._agents.agent(tls)
        clients = self._clients[who] = _Clients(
            agent, plain=_client(agent, compressed=False), compressed=_client(agent, compressed=True)
        )
        return clients

    def _release_certified(self) -> None:
        """Let go of those with another certificate: it was renewed."""
        for who, clients in tuple(self._clients.items()):
            if who.certificate:
                del self._clients[who]
                self._agents.release(clients.agent)

    async def _failure(self, call: Call, response: Any) -> StatusError:
        try:
            body = await read_body(response, MAX_FAILURE)
        except (BodyTooLong, BodyDamaged):
            body = b""  # the status alone tells enough
        error = status_error(
            call.what, response.code, body, retry_after=_seconds(_header(response, "Retry-After"))
        )
        location = _header(response, "Location")
        if 300 <= response.code < 400 and location is not None:
            said = f"redirects are not followed; Location: {location[:200]}"
            return StatusError(call.what, response.code, message=said)
        return error

    def _network_error(self, call: Call, error: Exception) -> ClusterError:
        cause = _cause(error)
        if isinstance(cause, CancelledError):  # twisted.web wraps it like any other
            raise CancelledError from None
        place = self._config.authority
        if type(cause).__module__.startswith("twisted.web."):
            # Its text would quote what the peer has sent.
            return BadAnswer(f"{call.what}: what {place} answers is not HTTP ({type(cause).__name__})")
        said = explain(cause, place, self._config.tls)
        remedy = f" ({said.remedy})" if said.remedy else ""
        return Unreachable(
            f"{call.what}: {said.sentence}{remedy}",
            retryable=said.retryable or isinstance(cause, ConnectionClosed),
            sent=not isinstance(cause, ConnectProblem),
        )


def _client(agent: IAgent, *, compressed: bool) -> HTTPClient:
    # No cookies: nothing that a server sets shall come back.
    jar = IndexableCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
    undecoded = UndecodedAgent(agent, compressed=compressed)
    return HTTPClient(undecoded, cookiejar=jar, data_to_body_producer=_producer)


def _producer(body: Any) -> IBodyProducer:
    return BytesProducer(body) if isinstance(body, bytes) else cast(IBodyProducer, body)


def _again(call: Call, error: ClusterError) -> bool:
    """Whether C{call} may be made again after C{error}."""
    if call.once or not error.retryable:
        return False
    if isinstance(error, StatusError):
        return error.code == 429 or call.repeatable
    if isinstance(error, Unreachable):
        return call.repeatable or not error.sent
    return False


def _seconds(value: str | None) -> float | None:
    """C{Retry-After} in seconds, as the API server sends it; None where it is anything else."""
    if value is None or not (value.isascii() and value.isdigit()):
        return None
    return min(float(value[:9]), 600.0)


def _header(response: Any, name: str) -> str | None:
    values = response.headers.getRawHeaders(name)
    return str(values[0]) if values else None


def _cause(error: BaseException) -> BaseException:
    """The error within those that twisted.web wraps around it."""
    while isinstance(error, _WRAPPERS) and error.reasons:
        error = error.reasons[0].value
    return error
