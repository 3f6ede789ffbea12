"""Who asks over HTTP: what a request shows is given to the gate, and what that says becomes a status code."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

import msgspec
from twisted.internet.interfaces import IAddress

from pipeops_agent.access.denied import Denied, Reason
from pipeops_agent.access.gate import Gate, Shown
from pipeops_agent.access.kubernetes import Sight
from pipeops_agent.access.limits import Busy, Kind, Limits, Place, TooMany
from pipeops_agent.access.origins import Origin, origin_of
from pipeops_agent.caller import OPERATE, READ, Caller
from pipeops_agent.cluster.resources import Resource
from pipeops_agent.own_sockets import OwnSockets
from pipeops_agent.secrets import Secret
from pipeops_agent.web.replies import Refusal

if TYPE_CHECKING:
    from pipeops_agent.web.request import AgentRequest

__all__ = ["KEY_HEADER", "OPERATE", "READ", "Access", "Credential", "RefusingSight", "refusal", "too_many"]

KEY_HEADER: Final = "X-Session-Key"
"""Where the page shows its session's key."""

MAX_SHOWN: Final = 8 * 1024
"""Characters of a credential; a longer one is none."""

_CHALLENGE: Final = 'Bearer realm="pipeops-agent"'

_CODES: Final[dict[Reason, int]] = {
    "unauthorized": 401,
    "session_ended": 401,
    "plaintext_token": 403,
    "forbidden": 403,
    "too_many": 429,
    "unavailable": 503,
}


class Credential(msgspec.Struct, frozen=True):
    """What somebody shows, and where they are."""

    shown: Shown
    origin: Origin

    def with_key(self, key: str) -> Credential:
        """The same, with a session's key that comes in a message of its own."""
        return Credential(msgspec.structs.replace(self.shown, key=_secret(key)), self.origin)


class Access:
    """
    Knows the callers of requests.

    @param sockets: those that the agent's own tunnel has dialled.
    @param agent_id: this agent's; None: not known yet. It is in the cookie's name: cookies do not tell ports
        apart, and many agents may be behind one name.
    @param protects_metrics: whether C{/metrics} asks for a token; asked each time.
    @ivar gate: who is who, and C{limits} what they take.
    """

    def __init__(
        self,
        gate: Gate,
        limits: Limits,
        sockets: OwnSockets,
        agent_id: Callable[[], str | None],
        *,
        protects_metrics: Callable[[], bool],
    ) -> None:
        self.gate = gate
        self.limits = limits
        self._sockets = sockets
        self._agent_id = agent_id
        self.protects_metrics = protects_metrics

    def origin_of(self, address: IAddress) -> Origin:
        """Where a connection from C{address} comes from; to be asked as soon as it has sent something."""
        return origin_of(address, self._sockets)

    def origin(self, request: AgentRequest) -> Origin:
        """Where C{request} comes from. C{X-Forwarded-For}, which anybody can write, says nothing."""
        return request.channel.origin

    def admit(self, request: AgentRequest) -> None:
        """
        Count C{request}.

        @raise Refusal: 429 or 503: there were too many.
        """
        try:
            self.limits.request(self.origin(request))
        except TooMany as error:
            raise too_many(error) from None

    def credential(self, request: AgentRequest) -> Credential:
        """
        What C{request} shows, to be asked about as often as it takes.

        @raise Refusal: 401, it is not to be understood.
        """
        return Credential(self.shown(request), self.origin(request))

    async def caller(self, request: AgentRequest) -> Caller | None:
        """
        Who sent C{request}; None: somebody who shows no token. A session's cookie without its key is none.

        @raise Refusal: 401, 403, 429 or 503, with a sentence.
        """
        return await self.known(self.credential(request))

    async def require(self, request: AgentRequest, right: str, *, partly: bool = False) -> Caller:
        """
        Who sent C{request}, with the scope C{right}.

        @param partly: a narrowed one is enough, as each thing is asked for by L{Caller.allows} afterwards.
        @raise Refusal: 401 (no token, or a wrong one), 403 (the scope is missing, and which), 429 or 503.
        """
        return await self.check(self.credential(request), right, partly=partly)

    async def known(self, credential: Credential) -> Caller | None:
        """Who has shown C{credential}; as L{caller}."""
        try:
            return await self.gate.caller(credential.shown, credential.origin)
        except Denied as error:
            raise refusal(error) from None

    async def check(self, credential: Credential, right: str, *, partly: bool = False) -> Caller:
        """Who has shown C{credential}, with the scope C{right}; as L{require}."""
        return self.allow(await self.known(credential), right, partly=partly)

    def allow(self, caller: Caller | None, right: str, *, partly: bool = False) -> Caller:
        """
        C{caller}, with the scope C{right}; as L{require}.

        @raise Refusal: 401, 403.
        """
        try:
            return self.gate.require(caller, right, partly=partly)
        except Denied as error:
            raise refusal(error) from None

    def hold(self, origin: Origin, kind: Kind) -> Place:
        """
        A place for what somebody at C{origin} begins, to be released when that ends.

        @raise Refusal: 429 or 503: there is none.
        """
        try:
            return self.limits.hold(kind, origin)
        except TooMany as error:
            raise too_many(error) from None

    def cookie(self, request: AgentRequest) -> str | None:
        """The name of this agent's cookie; None: it is not known yet."""
        agent_id = self._agent_id()
        if agent_id is None:
            return None
        prefix = "__Host-" if request.isSecure() else ""
        return f"{prefix}pipeops-session-{agent_id}"

    def shown(self, request: AgentRequest) -> Shown:
        """
        What C{request} shows.

        @raise Refusal: 401, it is not to be understood.
        """
        return Shown(
            bearer=_bearer(request),
            session=self._session(request),
            key=_secret(request.getHeader(KEY_HEADER)),
            encrypted=bool(request.isSecure()),
        )

    def _session(self, request: AgentRequest) -> Secret | None:
        name = self.cookie(request)
        value = None if name is None else request.getCookie(name.encode())
        return _secret(None if value is None else value.decode("latin-1"))


def _bearer(request: AgentRequest) -> Secret | None:
    """@raise Refusal: 401, there is something else in the place of a token."""
    shown = request.requestHeaders.getRawHeaders(b"authorization", [])
    if not shown:
        return None
    scheme, _, token = shown[0].strip().partition(b" ")
    found = _secret(token.strip().decode("latin-1"))
    if len(shown) != 1 or scheme.lower() != b"bearer" or found is None:
        raise refusal(Denied("unauthorized", "expected one header Authorization: Bearer, with a token"))
    return found


def _secret(text: str | None) -> Secret | None:
    return Secret(text) if text and len(text) <= MAX_SHOWN else None


class RefusingSight:
    """What a caller sees of the cluster; where that can't be found out now, the request is refused."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight

    async def namespaces(
        self, caller: Caller, verb: str, resource: Resource, known: Collection[str]
    ) -> frozenset[str] | None:
        """
        See L{Sight.namespaces}.

        @raise Refusal: 429 or 503.
        """
        try:
            return await self._sight.namespaces(caller, verb, resource, known)
        except Denied as error:
            raise refusal(error) from None


def refusal(error: Denied) -> Refusal:
    """What C{error} is answered with."""
    code = _CODES[error.reason]
    headers = []
    if code == 401:
        # RFC 6750, 3.1: without a credential the challenge says nothing of an error.
        invalid = ', error="invalid_token"' if error.shown else ""
        headers.append(("WWW-Authenticate", f"{_CHALLENGE}{invalid}"))
    if error.reason == "forbidden":
        headers.append(("WWW-Authenticate", f'{_CHALLENGE}, error="insufficient_scope"'))
    if error.retry_after is not None:
        headers.append(_retry_after(error.retry_after))
    return Refusal(code, error.reason, error.sentence, *headers)


def too_many(error: TooMany) -> Refusal:
    """429, or 503 where it is not this client alone."""
    code, name = (503, "busy") if isinstance(error, Busy) else (429, "too_many")
    return Refusal(code, name, error.sentence, _retry_after(error.retry_after))


def _retry_after(seconds: float) -> tuple[str, str]:
    return "Retry-After", str(max(1, math.ceil(seconds)))
