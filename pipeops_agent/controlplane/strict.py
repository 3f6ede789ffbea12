"""Reading JSON strictly: one meaning only, and each error names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from pipeops_agent.controlplane.errors import AnswerError

_KINDS: dict[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def kind(value: Any) -> str:
    """What C{value} is in JSON's words. Never the value: it may be a secret."""
    return _KINDS.get(type(value), type(value).__name__)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise AnswerError(f"{name[:64]!r} appears twice in one object")
        found[name] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_object(body: bytes) -> Mapping[str, Any]:
    """
    C{body} as a JSON object.

    Two members of one name are refused: parsers disagree on which of them counts (RFC 8259 section 4).

    @raise AnswerError: it is none.
    """
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        # A decoding error of Python's carries the whole body: it is not chained.
        raise AnswerError("the body is not JSON", syntax=True) from None
    if not isinstance(value, dict):
        raise AnswerError(f"expected an object, got {kind(value)}", syntax=True)
    return value


def is_object(body: bytes) -> bool:
    """Whether C{body} is a JSON object, whatever it says."""
    try:
        parse_object(body)
    except AnswerError as error:
        return not error.syntax
    return True


def optional_text(holder: Mapping[str, Any], name: str, place: str) -> str | None:
    """
    The string C{name} of C{holder}; None where it is absent, null or blank.

    @param place: how an error names the field.
    """
    value = holder.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise AnswerError(f"{place}: expected a string, got {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise AnswerError(f"{place}: not a valid string") from None
    return value if value.strip() else None


def optional_object(holder: Mapping[str, Any], name: str, place: str) -> Mapping[str, Any]:
    """The object C{name} of C{holder}; an empty one where it is absent or null."""
    value = holder.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AnswerError(f"{place}: expected an object, got {kind(value)}")
    return value
