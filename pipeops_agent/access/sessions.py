"""
A browser's sign-in: an id that the browser keeps by itself, and a key that the page sends along.

A session is no right of its own. It keeps the token that it was opened with, and is worth what that is worth
at the moment of each request: a token that was taken away takes its sessions with it. Sessions are in memory;
after a restart of the agent people sign in again.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Final

import msgspec
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.secrets import Secret

MAX_SESSIONS: Final = 1_000
"""Sessions at one time; one more takes the place of the one that was used least lately."""

PER_TOKEN: Final = 20
"""Sessions of one token at one time, by the same rule."""

_BYTES: Final = 32


class Lifetime(msgspec.Struct, frozen=True):
    """How long a session holds: in all, and without being used. In seconds."""

    whole: float
    idle: float


class Session(msgspec.Struct, eq=False):
    """
    One sign-in.

    @ivar token: what it was opened with.
    """

    token: Secret
    _key: bytes
    _opened: float
    _used: float

    def fits(self, key: Secret) -> bool:
        """Whether C{key} is this session's."""
        return hmac.compare_digest(self._key, _digest(key))

    def __repr__(self) -> str:
        return f"<session of {self.token}>"


class Opened(msgspec.Struct, frozen=True):
    """
    What the browser gets, once.

    @ivar seconds: how long it holds at most.
    """

    identifier: Secret
    key: Secret
    seconds: float


class Sessions:
    """
    Knows the sessions that hold.

    @param lifetime: how long they hold; asked each time, so that a shorter one ends those that are open.
    """

    def __init__(self, clock: IReactorTime, lifetime: Callable[[], Lifetime]) -> None:
        self._clock = clock
        self._lifetime = lifetime
        # By the digest of the id, the one that was used least lately first.
        self._open: dict[bytes, Session] = {}

    def __len__(self) -> int:
        """How many are kept, those included that have expired since anybody looked."""
        return len(self._open)

    def open(self, token: Secret) -> Opened:
        """A session of whoever has shown C{token}."""
        self._expire()
        mine = [digest for digest, session in self._open.items() if session.token == token]
        if len(mine) >= PER_TOKEN:
            del self._open[mine[0]]
        elif len(self._open) >= MAX_SESSIONS:
            del self._open[next(iter(self._open))]
        identifier, key = Secret(secrets.token_urlsafe(_BYTES)), Secret(secrets.token_urlsafe(_BYTES))
        now = self._clock.seconds()
        self._open[_digest(identifier)] = Session(token, _digest(key), now, now)
        return Opened(identifier, key, self._lifetime().whole)

    def find(self, identifier: Secret) -> Session | None:
        """The session, if it holds; None: it has ended, or there never was one."""
        digest = _digest(identifier)
        session = self._open.get(digest)
        if session is not None and not self._holds(session):
            del self._open[digest]
            return None
        return session

    def use(self, identifier: Secret) -> None:
        """Somebody who has its key as well has used it."""
        session = self._open.pop(_digest(identifier), None)
        if session is not None:
            session._used = self._clock.seconds()
            self._open[_digest(identifier)] = session

    def close(self, identifier: Secret) -> None:
        """End it."""
        self._open.pop(_digest(identifier), None)

    def _holds(self, session: Session) -> bool:
        now, lifetime = self._clock.seconds(), self._lifetime()
        return now < session._opened + lifetime.whole and now < session._used + lifetime.idle

    def _expire(self) -> None:
        for digest, session in tuple(self._open.items()):
            if not self._holds(session):
                del self._open[digest]


def _digest(secret: Secret) -> bytes:
    """What is kept of an id or a key: both are random, so that the plain hash gives nothing away."""
    return hashlib.sha256(secret.reveal().encode("utf-8", "surrogatepass")).digest()
