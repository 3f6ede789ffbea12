"""Who asks: the first argument of every operation."""

from __future__ import annotations

import msgspec

from pipeops_agent.secrets import Secret


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """
    Who asks for an operation, and with which rights.

    @ivar subject: a name for logs and audit, never a token.
    @ivar scopes: C{read}, C{operate}, each optionally narrowed (C{operate:scale@shop}).
    @ivar origin: the peer's address, or C{tunnel:<forward>}.
    @ivar kubernetes_token: the caller's own, with which its operations go out.
    """

    subject: str
    scopes: frozenset[str]
    origin: str
    kubernetes_token: Secret | None = None
