"""Who asks, and what a scope allows: the first argument of every operation."""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from pipeops_agent.secrets import Secret

READ: Final[Literal["read"]] = "read"
"""The right to see."""

OPERATE: Final[Literal["operate"]] = "operate"
"""The right to change; it does not include L{READ}."""

READING: Final = frozenset({"get", "list", "watch", "logs", "get_resources"})
"""The verbs that L{READ} is about; every other is one of L{OPERATE}."""

MAX_SCOPE: Final = 1024
"""Characters of one scope."""

_ANY: Final = "*"
_VERB: Final = re.compile(r"[a-z][a-z_]{0,62}")
_KIND: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_CLUSTER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


class Grant(msgspec.Struct, frozen=True):
    """
    One scope, understood. As text it is C{right[:verbs[:kinds[:namespaces]]][@cluster]}, each part but the
    first and the last a list with commas, or C{*}:

        read                                    to see everything
        operate:scale,restart@shop              to scale and restart, in the cluster with the id "shop"
        operate:restart:deployments:web,web-2   to restart deployments in two namespaces

    An empty set stands for all; so does an empty C{cluster}.
    """

    right: Literal["read", "operate"]
    verbs: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    cluster: str = ""

    @classmethod
    def parse(cls, text: str) -> Grant:
        """@raise ValueError: C{text} is no scope; the message says why, and does not repeat it."""
        if len(text) > MAX_SCOPE:
            raise ValueError(f"longer than {MAX_SCOPE} characters")
        narrowed, at, cluster = text.strip().partition("@")
        if at and not _CLUSTER.fullmatch(cluster):
            raise ValueError("expected a cluster's id after '@'")
        right, *parts = narrowed.split(":")
        if right != READ and right != OPERATE:  # noqa: PLR1714  # so that mypy knows which it is
            raise ValueError(f"expected {READ} or {OPERATE}, which may be narrowed: {OPERATE}:scale")
        if len(parts) > 3:
            raise ValueError("expected at most verbs, kinds and namespaces, with ':' before each")
        verbs, kinds, namespaces = (*parts, *[_ANY] * (3 - len(parts)))
        grant = cls(
            right,
            _set(verbs, _VERB, "verbs"),
            _set(kinds.lower(), _KIND, "kinds"),
            _set(namespaces, _NAMESPACE, "namespaces"),
            cluster,
        )
        for verb in sorted(grant.verbs):
            if verb in (READ, OPERATE):
                raise ValueError(f"{verb} is a right, not a verb")
            if right_of(verb) != right:
                raise ValueError(f"{verb} is a verb of {right_of(verb)}")
        return grant

    @property
    def text(self) -> str:
        """What L{parse} reads as this."""
        parts = [_text(self.verbs), _text(self.kinds), _text(self.namespaces)]
        while parts and parts[-1] == _ANY:
            parts.pop()
        return ":".join([self.right, *parts]) + (f"@{self.cluster}" if self.cluster else "")

    def covers(self, verb: str, kind: str, namespace: str, cluster: str) -> bool:
        """Whether it allows this; see L{Caller.allows}."""
        return (
            self.right == right_of(verb)
            and (not self.verbs or verb in self.verbs)
            and (not self.kinds or not self.kinds.isdisjoint((kind, kind.partition(".")[0])))
            and (not self.namespaces or namespace in self.namespaces)
            and self.cluster in ("", cluster)
        )


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """
    Who asks for an operation, and with which rights.

    @ivar subject: a name for logs and audit, never a token.
    @ivar scopes: what it may, as far as the agent itself decides.
    @ivar origin: the peer's address, or C{tunnel:<forward>}.
    @ivar kubernetes_token: the caller's own, with which its operations go out.
    """

    subject: str
    scopes: frozenset[Grant]
    origin: str
    kubernetes_token: Secret | None = None

    def allows(self, verb: str, *, kind: str = "", namespace: str = "", cluster: str = "") -> bool:
        """
        Whether one of the scopes covers this.

        @param verb: an operation (C{scale}) or one of L{READING}; L{READ} and L{OPERATE} themselves stand for
            every verb of theirs.
        @param kind: plural, as C{kubectl} names it: C{deployments.apps}; empty: every kind.
        @param namespace: empty: all of them, or an object that has none. A namespace itself is in it.
        @param cluster: its id; empty: the agent's own, as the gate has left no scope for others.
        """
        return any(grant.covers(verb, kind.lower(), namespace, cluster) for grant in self.scopes)

    def holds(self, right: str) -> bool:
        """Whether there is a scope of C{right}, however narrow: each thing is then asked for by L{allows}."""
        return any(grant.right == right for grant in self.scopes)


def right_of(verb: str) -> str:
    """L{READ} or L{OPERATE}: which right C{verb} belongs to."""
    return READ if verb == READ or verb in READING else OPERATE


def _set(text: str, form: re.Pattern[str], what: str) -> frozenset[str]:
    if text == _ANY:
        return frozenset()
    names = text.split(",")
    if not all(form.fullmatch(name) for name in names):
        raise ValueError(f"{what}: expected names with ',' between them, or {_ANY}")
    return frozenset(names)


def _text(names: frozenset[str]) -> str:
    return ",".join(sorted(names)) or _ANY
