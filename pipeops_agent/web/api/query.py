"""A request's query into a struct, or a refusal that names the parameter and the reason."""

from __future__ import annotations

from functools import cache
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec

from pipeops_agent.settings.problems import shown
from pipeops_agent.web.replies import Refusal

MAX_PARAMETERS: Final = 20
"""Parameters in one query; there is no operation that takes so many."""

Query = TypeVar("Query", bound=msgspec.Struct)


class NoQuery(msgspec.Struct, frozen=True):
    """The query of an operation that takes no parameters."""


def read_query(raw: bytes, kind: type[Query]) -> Query:
    """
    The parameters in C{raw}, each of them known, well-formed and there once.

    A parameter that is not known is an error: who has misspelt C{namespace} would get all of them.

    @param raw: what stands behind the question mark, as it came.
    @param kind: a struct whose fields are the parameters. Each has a default, and C{expected} among the
        C{extra} of its L{msgspec.Meta}: what is expected, as an error says it.
    @raise Refusal: 400.
    """
    known = parameters(kind)
    values: dict[str, Any] = {}
    for name, text in _pairs(raw):
        if name not in known:
            names = ", ".join(known) or "none"
            raise _bad(f"unknown parameter {shown(name)}; known here: {names}")
        field = known[name]
        if field.name in values:
            raise _bad(f"{name}: given twice")
        try:
            values[field.name] = msgspec.convert(text, field.type, strict=False)
        except msgspec.ValidationError:
            raise _bad(f"{name}: expected {expected(field)}, got {shown(text)}") from None
    return kind(**values)


@cache
def parameters(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """The parameters of a query, by the names that they have in it."""
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


def expected(field: msgspec.structs.FieldInfo) -> str:
    """What a parameter's value must be, as a noun."""
    about = msgspec.inspect.type_info(field.type)
    assert isinstance(about, msgspec.inspect.Metadata) and about.extra is not None, field.name
    return str(about.extra["expected"])


def bad_parameter(name: str, reason: str) -> Refusal:
    """The refusal of a parameter that is well-formed, and wrong all the same."""
    return _bad(f"{name}: {reason}")


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except UnicodeError:
        raise _bad("the query is not percent-encoded UTF-8") from None
    except ValueError:
        raise _bad(f"the query has more than {MAX_PARAMETERS} parameters") from None


def _bad(message: str) -> Refusal:
    return Refusal(400, "bad_parameter", message)
