"""One call to the control plane: its URL, its headers, its deadline, and what became of it."""

from __future__ import annotations

from datetime import datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

from hyperlink import EncodedURL
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.client import (
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.iweb import IAgent

from pipeops_agent.clock import WallClock, describe_skew
from pipeops_agent.controlplane.answer import Answer, parse_date, parse_retry_after, status_error
from pipeops_agent.controlplane.errors import ApiError
from pipeops_agent.net import (
    AnswerTooLong,
    CertificateProblem,
    ClientTLS,
    ConnectProblem,
    TLSFileProblem,
    explain,
)
from pipeops_agent.net.bodies import (
    MAX_BODY,
    BodyDamaged,
    BodyTooLong,
    BytesProducer,
    UndecodedAgent,
    read_body,
)
from pipeops_agent.scheduling import DeadlineExceeded, bounded
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.addresses import is_loopback
from pipeops_agent.settings.model_pipeops import PipeopsSettings
from pipeops_agent.status import StatusBoard
from pipeops_agent.tokens import TokenSource

_log = Logger(namespace="controlplane")

MAX_ANSWER: Final = 2 * MAX_BODY
"""The bytes of a whole answer on the wire: a body, its framing, and headers."""

_WRAPPERS: Final = (RequestTransmissionFailed, ResponseFailed, ResponseNeverReceived)
_NEVER_ANSWERED: Final = (RequestTransmissionFailed, ResponseNeverReceived)


class _ReadyURL(EncodedURL):
    """A URL that is in its final form, quoted: treq's own conversion fails on IPv6 addresses."""

    def to_uri(self) -> EncodedURL:
        return self


class Transport:
    """
    Makes calls.

    @param agent: sends the requests; the settings' TLS is already in it.
    @param board: is told of the clocks' difference.
    @param version: the agent's, for C{User-Agent}.
    @param tls: what the agent speaks, for explanations.
    """

    def __init__(
        self,
        clock: IReactorTime,
        agent: IAgent,
        settings: PipeopsSettings,
        tokens: TokenSource,
        board: StatusBoard,
        wall: WallClock,
        *,
        version: str,
        tls: ClientTLS | None = None,
    ) -> None:
        self._clock = clock
        # No cookies: a header that the contract does not name, and memory that a peer fills.
        jar = IndexableCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
        self._client = HTTPClient(UndecodedAgent(agent), cookiejar=jar, data_to_body_producer=BytesProducer)
        self._settings = settings
        self._tokens = tokens
        self._board = board
        self._wall = wall
        self._version = version
        self._tls = tls
        self._skewed = False
        self._place = urlsplit(settings.api_url).netloc

    @property
    def _plain(self) -> bool:
        return urlsplit(self._settings.api_url).scheme == "http"

    @property
    def _loopback(self) -> bool:
        return is_loopback(urlsplit(self._settings.api_url).hostname or "")

    async def call(
        self, method: str, template: str, what: str, *, ids: dict[str, str], body: bytes | None = None
    ) -> Answer:
        """
        Make one call and return whatever the answer is.

        A refused token is read again and the call repeated once. All of it together takes at most
        C{pipeops.timeout}.

        @param template: the path, with C{{cluster_id}} and C{{agent_id}}.
        @param what: names the call in sentences.
        @raise ApiError: there is no answer.
        """
        if self._plain and not self._loopback and not self._settings.allow_insecure:
            raise ApiError(
                f"{self._settings.api_url}: http:// is refused, except to this machine"
                " (pipeops.allow_insecure)",
                unusable_settings=True,
            )
        url = self._settings.api_url.rstrip("/") + template.format(
            **{name: quote(value, safe="") for name, value in ids.items()}
        )
        exchange = Deferred.fromCoroutine(self._authorized(method, url, body))
        try:
            return await bounded(self._clock, self._settings.timeout, exchange, what)
        except DeadlineExceeded as error:
            raise ApiError(
                f"{what}: no answer from {self._place} within {self._settings.timeout:g} s", retryable=True
            ) from error
        except CancelledError:
            raise
        except ApiError:
            raise
        except Exception as error:
            if isinstance(_cause(error), CancelledError):  # twisted.web wraps it like any other
                raise CancelledError from None
            raise self._network_error(error, what) from error

    async def _authorized(self, method: str, url: str, body: bytes | None) -> Answer:
        answer = await self._once_more_if_dropped(method, url, body)
        if answer.status in (401, 403):
            self._tokens.refresh()
            answer = await self._once_more_if_dropped(method, url, body)
        return answer

    async def _once_more_if_dropped(self, method: str, url: str, body: bytes | None) -> Answer:
        """
        A server closes idle connections, sometimes just as they are used again. Each of our calls says
        the same when it is said twice, so that one more attempt is safe.
        """
        try:
            return await self._exchange(method, url, body)
        except _NEVER_ANSWERED as error:
            if not isinstance(_cause(error), ConnectionClosed):
                raise
        return await self._exchange(method, url, body)

    async def _exchange(self, method: str, url: str, body: bytes | None) -> Answer:
        headers: dict[str | bytes, str | bytes] = {
            "Authorization": f"Bearer {self._token().reveal()}",
            "User-Agent": f"PipeOps-Agent/{self._version}",
            "Host": self._place,  # twisted.web leaves out an IPv6 address's brackets
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        response: Any = await self._client.request(
            method,
            _ReadyURL.from_text(url),
            headers=headers,
            data=body,
            allow_redirects=False,
            unbuffered=True,
            reactor=cast(Any, self._clock),
        )
        date = parse_date(_header(response, "Date"))
        self._compare_clocks(date)
        return Answer(
            status=response.code,
            body=await self._body(response),
            retry_after=parse_retry_after(_header(response, "Retry-After"), date or self._wall()),
            date=date,
            location=_header(response, "Location"),
        )

    async def _body(self, response: Any) -> bytes:
        try:
            return await read_body(response)
        except (BodyTooLong, BodyDamaged):
            if response.code < 300:
                raise
            return b""  # the status alone tells enough

    def _token(self) -> Secret:
        token = self._tokens.current()
        if not token and self._tokens.refresh():
            token = self._tokens.current()
        if not token:
            raise ApiError(
                "there is no token to authenticate with (pipeops.token, pipeops.token_file)",
                unusable_settings=True,
            )
        text = token.reveal()
        if not (text.isascii() and text.isprintable()):
            raise ApiError("the token holds characters that no header can carry", unusable_settings=True)
        return token

    def refusal(self, answer: Answer, what: str) -> ApiError:
        """The error that C{answer}'s status stands for."""
        secrets = (self._tokens.current(),)
        return status_error(answer, what, secrets=secrets, clock_note=self._clock_note())

    def _network_error(self, error: Exception, what: str) -> ApiError:
        cause = _cause(error)
        if isinstance(cause, BodyTooLong | BodyDamaged | AnswerTooLong):
            return ApiError(f"{what}: unusable answer from {self._place}: {cause}")
        if type(cause).__module__.startswith("twisted.web."):
            # Its text would quote what the peer has sent.
            return ApiError(f"{what}: what {self._place} answers is not HTTP ({type(cause).__name__})")
        said = explain(cause, self._place, self._tls)
        why = cause.__cause__ if isinstance(cause, ConnectProblem) else None
        if isinstance(why, TLSFileProblem):
            # No server was asked: it is the settings that are to be put right.
            return ApiError(f"{what}: {said.sentence} (pipeops.tls)", unusable_settings=True)
        note = self._clock_note() if isinstance(why, CertificateProblem) else ""
        remedy = f" ({said.remedy})" if said.remedy else ""
        return ApiError(f"{note}{what}: {said.sentence}{remedy}", retryable=said.retryable)

    def _compare_clocks(self, date: datetime | None) -> None:
        if date is None:
            return
        skew = (date - self._wall()).total_seconds()
        self._board.set_clock_skew(skew)
        said = describe_skew(skew)
        if said and not self._skewed:
            _log.warn("{skew}: certificates and tokens may be refused", skew=said)
        elif self._skewed and not said:
            _log.info("this machine's clock agrees with the control plane's again")
        self._skewed = bool(said)

    def _clock_note(self) -> str:
        said = describe_skew(self._board.now.clock_skew)
        return f"{said}; " if said else ""


def _header(response: Any, name: str) -> str | None:
    values = response.headers.getRawHeaders(name)
    return str(values[0]) if values else None


def _cause(error: BaseException) -> BaseException:
    """The error within those that twisted.web wraps around it."""
    while isinstance(error, _WRAPPERS) and error.reasons:
        error = error.reasons[0].value
    return error
