"""What an operation takes and gives: route, check of parameters, and description come of this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pipeops_agent.web.access import READ
from pipeops_agent.web.answers import Error
from pipeops_agent.web.api.query import NoQuery
from pipeops_agent.web.replies import JSON


class Answer(msgspec.Struct, frozen=True):
    """
    One way in which an operation can end.

    @ivar text: when that is.
    @ivar kind: the type of its body, in JSON; None: it is text of C{content_types}, or there is none.
    @ivar headers: those that say something of their own: name, type in JSON Schema, text.
    @ivar common: the name under which descriptions have it once, for all operations.
    """

    text: str
    kind: Any = None
    content_types: tuple[str, ...] = ()
    headers: tuple[tuple[str, str, str], ...] = ()
    common: str = ""

    @property
    def types(self) -> tuple[str, ...]:
        """The content types of the body; empty: there is none."""
        return self.content_types if self.kind is None else (JSON,)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """
    What can be asked.

    @ivar path: as in L{Route<pipeops_agent.web.routes.Route>}.
    @ivar name: C{get_runtime}: unique, for programs that are made from the description.
    @ivar summary: one line.
    @ivar text: what else there is to know; CommonMark.
    @ivar needs: the scope; None: none.
    @ivar optional: what a token is good for where none is needed.
    @ivar partly: a scope that is narrowed is enough: what is beyond it is left out.
    @ivar limited: how often it may be asked is limited.
    @ivar query: its parameters.
    @ivar body: the type of what is sent, in JSON.
    @ivar answers: by status, those of its own; what it has in common with others is added.
    @ivar example: a query, with its question mark, that makes for a good example.
    """

    path: str
    name: str
    summary: str
    answers: Mapping[int, Answer]
    method: str = "GET"
    text: str = ""
    needs: str | None = READ
    optional: str = ""
    partly: bool = False
    limited: bool = True
    query: type[msgspec.Struct] = NoQuery
    body: Any = None
    example: str = ""

    @property
    def all_answers(self) -> dict[int, Answer]:
        """Those of its own, and those that it has in common with others."""
        common: dict[int, Answer] = {}
        if self.needs is not None:
            common |= {400: _BAD_REQUEST, 403: _FORBIDDEN}
        if self.needs is not None or self.optional:
            common[401] = _UNKNOWN
        if self.query.__struct_fields__:
            common[414] = _TOO_LONG
        if self.limited:
            common |= {429: _TOO_MANY, 503: _BUSY}
        return dict(sorted({**common, **self.answers}.items()))


_RETRY_AFTER: Final = (("Retry-After", "integer", "Seconds after which to ask again."),)

_BAD_REQUEST: Final = Answer(
    "A parameter is unknown, malformed or given twice; the message names it.", Error, common="BadParameter"
)
_UNKNOWN: Final = Answer(
    "No token, or one that is not known here.",
    Error,
    headers=(("WWW-Authenticate", "string", "How to show a token (RFC 6750)."),),
    common="Unauthorized",
)
_FORBIDDEN: Final = Answer(
    "The token does not have the scope, or the owner's rules are against it.", Error, common="Forbidden"
)
_TOO_LONG: Final = Answer(
    "The request line is too long, as no parameter can make it.", Error, common="UriTooLong"
)
_TOO_MANY: Final = Answer(
    "This client has asked too often.", Error, headers=_RETRY_AFTER, common="TooManyRequests"
)
_BUSY: Final = Answer(
    "All clients together have asked too often, or the agent is starting or stopping.", Error, common="Busy"
)

COMMON: Final = (_BAD_REQUEST, _UNKNOWN, _FORBIDDEN, _TOO_LONG, _TOO_MANY, _BUSY)
"""The answers that operations have in common."""
