"""What a handler answers with, and what every error looks like."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from pipeops_agent.web.answers import Error, Problem

JSON: Final = "application/json"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer: status, body, and the headers beyond those that every answer has."""

    code: int = 200
    body: bytes = b""
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


class Refusal(Exception):
    """
    A request that is not answered as asked.

    @ivar code: the status, and C{message} the sentence of its answer.
    @ivar reply: what it is answered with.
    """

    def __init__(self, code: int, name: str, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reply = error(code, name, message, *headers)


def json(value: Any, *, code: int = 200) -> Reply:
    """C{value} as JSON."""
    return Reply(code=code, body=msgspec.json.encode(value), content_type=JSON)


def error(code: int, name: str, message: str, *headers: tuple[str, str]) -> Reply:
    """
    An error as this interface tells it.

    @param name: for programs: C{not_found}.
    @param message: for people.
    """
    body = msgspec.json.encode(Error(Problem(name, message)))
    return Reply(code=code, body=body, content_type=JSON, headers=headers)
