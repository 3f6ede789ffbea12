"""
Who somebody is by what they show, and whether that is enough.

In this order: what has come in the clear through a network is not even looked at; a session stands for the
token that it was opened with; static tokens are compared; what is shaped like one of the cluster's tokens is
asked about there; and what is then not known is answered later each time. Right tokens never wait for wrong
ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol

import msgspec
from twisted.logger import Logger

from pipeops_agent.access.denied import Denied
from pipeops_agent.access.guesses import Guesses
from pipeops_agent.access.limits import TooMany
from pipeops_agent.access.origins import Origin
from pipeops_agent.access.sessions import Opened, Session, Sessions
from pipeops_agent.access.tokens import Known, StaticTokens
from pipeops_agent.caller import Caller, Grant
from pipeops_agent.secrets import Secret

_log = Logger(namespace="access")


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """
    What came with a request.

    @ivar bearer: a token. It counts before a session.
    @ivar session: a session's id, from a cookie.
    @ivar key: that session's key, which no browser sends by itself.
    @ivar encrypted: it came over TLS.
    """

    bearer: Secret | None = None
    session: Secret | None = None
    key: Secret | None = None
    encrypted: bool = False


class ClusterTokens(Protocol):
    """Knows the owners of the cluster's own tokens."""

    async def find(self, token: Secret, origin: Origin) -> Known | None:
        """
        Whose it is; None: nobody's, or it is not shaped like one.

        @raise Denied: that can't be found out now.
        """


class Gate:
    """
    Tells callers.

    @param plaintext: whether tokens may come in the clear; asked each time.
    @param cluster_id: that of the agent's cluster; empty while it is not known.
    """

    def __init__(
        self,
        static: StaticTokens,
        cluster: ClusterTokens,
        sessions: Sessions,
        guesses: Guesses,
        *,
        plaintext: Callable[[], bool],
        cluster_id: Callable[[], str],
    ) -> None:
        self._static = static
        self._cluster = cluster
        self._sessions = sessions
        self._guesses = guesses
        self._plaintext = plaintext
        self._cluster_id = cluster_id

    async def caller(self, shown: Shown, origin: Origin) -> Caller | None:
        """
        Who has shown C{shown}; None: somebody who showed nothing, or a session without its key.

        @raise Denied: what was shown is worth nothing, or it can't be said now what.
        """
        if shown.bearer is None and shown.key is None:
            return None  # a cookie alone is worth nothing: browsers send it whoever asks them to
        self._check_way(shown, origin)
        if shown.bearer is not None:
            return await self._bearer(shown.bearer, origin)
        return await self._member(shown, origin)

    async def sign_in(self, shown: Shown, origin: Origin) -> tuple[Caller, Opened]:
        """
        Open a session for whoever shows a token.

        @raise Denied: there is none, or it is not known.
        """
        if shown.bearer is None:
            raise Denied("unauthorized", "to sign in, show a token", shown=False)
        self._check_way(shown, origin)
        caller = await self._bearer(shown.bearer, origin)
        opened = self._sessions.open(shown.bearer)
        _log.info("{subject} has signed in from {origin}", subject=caller.subject, origin=origin.name)
        return caller, opened

    async def sign_out(self, shown: Shown, origin: Origin) -> None:
        """
        Close the session that was shown with its key.

        @raise Denied: there is none.
        """
        if shown.session is None or shown.key is None:
            raise Denied("unauthorized", "to sign out, show a session and its key", shown=False)
        self._check_way(shown, origin)
        await self._session(shown.session, shown.key, origin)
        self._sessions.close(shown.session)

    def has_session(self, shown: Shown) -> bool:
        """Whether a session is shown that holds; without its key it is nobody's yet."""
        return shown.session is not None and self._sessions.find(shown.session) is not None

    @staticmethod
    def require(caller: Caller | None, right: str, *, partly: bool = False) -> Caller:
        """
        C{caller}, where it has the scope C{right} (C{read}, C{operate}).

        @param partly: a narrowed one is enough, as each thing is asked for by L{Caller.allows} afterwards.
        @raise Denied: it has not.
        """
        if caller is None:
            raise Denied("unauthorized", f"this needs a token with the scope {right}", shown=False)
        if caller.allows(right) or (partly and caller.holds(right)):
            return caller
        if caller.holds(right):
            raise Denied("forbidden", f"this needs the scope {right}, and the one shown is narrowed")
        raise Denied("forbidden", f"this needs the scope {right}")

    async def _bearer(self, token: Secret, origin: Origin) -> Caller:
        known = await self._known(token, origin)
        if known is None:
            await self._wrong(origin, "this token is not known here")
        return self._as_caller(known, origin)

    async def _member(self, shown: Shown, origin: Origin) -> Caller:
        """Whoever opened the session that was shown."""
        assert shown.key is not None
        session = await self._session(shown.session, shown.key, origin)
        known = await self._known(session.token, origin)
        assert shown.session is not None
        if known is None:
            self._sessions.close(shown.session)
            raise Denied(
                "session_ended", "the token of this session is not known here any more; sign in again"
            )
        self._sessions.use(shown.session)
        return self._as_caller(known, origin)

    async def _session(self, identifier: Secret | None, key: Secret, origin: Origin) -> Session:
        session = None if identifier is None else self._sessions.find(identifier)
        if session is None:
            # No guess: ids can't be guessed, and every page that is open has one after a restart.
            raise Denied("session_ended", "this session has ended; sign in again")
        if not session.fits(key):
            await self._wrong(origin, "this is not the session's key")
        return session

    async def _known(self, token: Secret, origin: Origin) -> Known | None:
        known = self._static.find(token)
        if known is None and not self._static.is_control_planes(token):
            known = await self._cluster.find(token, origin)
        return known

    def _as_caller(self, known: Known, origin: Origin) -> Caller:
        return Caller(
            subject=known.subject,
            scopes=frozenset(self._here(known.scopes)),
            origin=origin.name,
            kubernetes_token=known.kubernetes_token,
        )

    def _check_way(self, shown: Shown, origin: Origin) -> None:
        if shown.encrypted or origin.near or self._plaintext():
            return
        _log.warn(
            "a token came from {origin} without TLS and was not looked at; others may have read it",
            origin=origin.name,
        )
        raise Denied(
            "plaintext_token",
            "a token must not travel without TLS, and this one is not looked at: use server.tls or the tunnel"
            " (or set server.allow_plaintext_tokens), and exchange the token",
        )

    def _here(self, scopes: frozenset[Grant]) -> list[Grant]:
        """Those of C{scopes} that are for this cluster, as scopes that need not name it any more."""
        here = self._cluster_id()
        return [
            msgspec.structs.replace(grant, cluster="")
            for grant in scopes
            if not grant.cluster or grant.cluster == here
        ]

    async def _wrong(self, origin: Origin, sentence: str) -> NoReturn:
        """@raise Denied: after as long as a wrong token costs."""
        _log.warn("a wrong token came from {origin}", origin=origin.name)
        try:
            await self._guesses.wrong(origin.client)
        except TooMany as error:
            raise Denied("too_many", error.sentence, retry_after=error.retry_after) from None
        raise Denied("unauthorized", sentence)
