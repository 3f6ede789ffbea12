"""
Callers with Kubernetes tokens: who they are (TokenReview) and what they may do (SubjectAccessReview).

Verdicts are kept for a minute at most, under a hash with a key of this process: no token is kept in clear,
and a dump of the memory holds nothing that could be looked up elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from typing import Any, Final, Generic, TypeVar

import msgspec
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.errors import ClusterError
from pipeops_agent.cluster.resources import Resource
from pipeops_agent.secrets import Secret

T = TypeVar("T")

LIFETIME: Final = 60.0
"""Seconds that a verdict holds at most."""

REFUSED_LIFETIME: Final = 10.0
"""Seconds that "not known" holds: a token may be made a moment after it was first tried."""

MAX_VERDICTS: Final = 2_000
"""Verdicts that are kept; the oldest gives way."""

MAX_TOKEN: Final = 16 * 1024
"""Characters of a token."""

BURST: Final = 10
"""Reviews that one origin may cause at once; after that one each L{PAUSE}."""

PAUSE: Final = 1.0
"""Seconds."""

MAX_ORIGINS: Final = 2_000
"""Origins that are counted; the one that was quiet for longest gives way."""

AT_ONCE: Final = 8
"""Reviews under way at one time; others wait."""

_JWT: Final = re.compile(r"[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")

_TOKEN_REVIEWS: Final = Resource(
    group="authentication.k8s.io", version="v1", plural="tokenreviews", kind="TokenReview", namespaced=False
)
_ACCESS_REVIEWS: Final = Resource(
    group="authorization.k8s.io",
    version="v1",
    plural="subjectaccessreviews",
    kind="SubjectAccessReview",
    namespaced=False,
)


class TooMany(ClusterError):
    """
    Reviews are asked for too quickly.

    @ivar retry_after: the seconds to wait.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many Kubernetes tokens were shown in a short time", retryable=True)
        self.retry_after = retry_after


class Identity(msgspec.Struct, frozen=True):
    """Who a token belongs to: C{authentication.k8s.io UserInfo}."""

    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, list[str]] = {}


class Attributes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What somebody wants to do: C{authorization.k8s.io ResourceAttributes}."""

    verb: str
    group: str = ""
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class _TokenStatus(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: Identity = Identity()


class _TokenReview(msgspec.Struct, frozen=True):
    status: _TokenStatus = _TokenStatus()


class _AccessStatus(msgspec.Struct, frozen=True):
    allowed: bool = False


class _AccessReview(msgspec.Struct, frozen=True):
    status: _AccessStatus = _AccessStatus()


def jwt_shaped(token: Secret) -> bool:
    """Whether C{token} is shaped like a service account's: three parts in base64url. Others go nowhere."""
    text = token.reveal()
    return len(text) <= MAX_TOKEN and _JWT.fullmatch(text) is not None


class Reviews:
    """Asks the API server about callers."""

    def __init__(self, clock: IReactorTime, api: Api) -> None:
        self._clock = clock
        self._api = api
        self._key = secrets.token_bytes(32)
        self._known: _Kept[Identity | None] = _Kept(clock, MAX_VERDICTS)
        self._allowed: _Kept[bool] = _Kept(clock, MAX_VERDICTS)
        self._buckets: OrderedDict[str, float] = OrderedDict()
        self._at_once = DeferredSemaphore(AT_ONCE)

    async def identify(self, token: Secret, origin: str) -> Identity | None:
        """
        Who C{token} belongs to; None: nobody, or it is not shaped like a Kubernetes token.

        @param origin: the peer's address. The pace is bounded for each: who guesses slows down only himself.
        @raise TooMany: this origin has shown too many.
        @raise ClusterError: the API server can't be asked, or does not let the agent ask.
        """
        if not jwt_shaped(token):
            return None
        key = self._hash(token.reveal().encode())
        found, identity = self._known.get(key)
        if found:
            return identity
        self._count(origin)
        body = {
            "apiVersion": _TOKEN_REVIEWS.api_version,
            "kind": _TOKEN_REVIEWS.kind,
            "spec": {"token": token.reveal()},
        }
        status = (await self._ask(_TokenReview, _TOKEN_REVIEWS, body)).status
        identity = status.user if status.authenticated and status.user.username else None
        self._known.put(key, identity, LIFETIME if identity is not None else REFUSED_LIFETIME)
        return identity

    async def allowed(self, identity: Identity, attributes: Attributes) -> bool:
        """
        Whether C{identity} may do this.

        @raise ClusterError: the API server can't be asked, or does not let the agent ask.
        """
        key = self._hash(msgspec.json.encode((identity, attributes)))
        found, allowed = self._allowed.get(key)
        if found:
            return bool(allowed)
        spec: dict[str, Any] = {
            "user": identity.username,
            "uid": identity.uid,
            "groups": identity.groups,
            "extra": identity.extra,
            "resourceAttributes": attributes,
        }
        body = {"apiVersion": _ACCESS_REVIEWS.api_version, "kind": _ACCESS_REVIEWS.kind, "spec": spec}
        verdict = (await self._ask(_AccessReview, _ACCESS_REVIEWS, body)).status.allowed
        self._allowed.put(key, verdict, LIFETIME if verdict else REFUSED_LIFETIME)
        return verdict

    async def _ask(self, kind: type[T], resource: Resource, body: Any) -> T:
        await self._at_once.acquire()
        try:
            return await self._api.create(kind, resource, body)
        finally:
            self._at_once.release()

    def _hash(self, text: bytes) -> bytes:
        return hmac.digest(self._key, text, hashlib.sha256)

    def _count(self, origin: str) -> None:
        """
        Count a review of C{origin}'s, by the time at which its bucket would be empty again.

        @raise TooMany: it is full.
        """
        now = self._clock.seconds()
        empty_at = max(now, self._buckets.pop(origin, now))
        wait = empty_at + PAUSE - (now + BURST * PAUSE)
        self._buckets[origin] = empty_at if wait > 0 else empty_at + PAUSE
        if len(self._buckets) > MAX_ORIGINS:
            self._buckets.popitem(last=False)
        if wait > 0:
            raise TooMany(wait)


class _Kept(Generic[T]):
    """Verdicts by key, each for a time, bounded in number."""

    def __init__(self, clock: IReactorTime, limit: int) -> None:
        self._clock = clock
        self._limit = limit
        self._kept: OrderedDict[bytes, tuple[float, T]] = OrderedDict()

    def get(self, key: bytes) -> tuple[bool, T | None]:
        """Whether there is one that still holds, and which."""
        until, value = self._kept.get(key, (0.0, None))
        if until > self._clock.seconds():
            return True, value
        self._kept.pop(key, None)
        return False, None

    def put(self, key: bytes, value: T, seconds: float) -> None:
        """Keep C{value} for so many seconds."""
        self._kept.pop(key, None)
        self._kept[key] = (self._clock.seconds() + seconds, value)
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)
