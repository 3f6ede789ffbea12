"""
A place in a list: what C{continue} holds.

It is a position in the list's order, and nothing is kept for it: an agent that was started anew goes on from
it, and it never expires. It holds no right either, so there is nothing to sign.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, urlsafe_b64encode
from typing import Final

import msgspec

from pipeops_agent.web.api.query import bad_parameter

MAX_LENGTH: Final = 1024
"""Characters of a cursor: a name and two namespaces have 379 at most."""


class _Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The place of the last object that was given, and in which list."""

    kind: str
    namespace: str
    place: str


def write_cursor(kind: str, namespace: str, place: str) -> str:
    """
    The cursor that leads on behind C{place}.

    @param namespace: the one that was asked for; empty: all.
    """
    cursor = msgspec.json.encode(_Cursor(kind, namespace, place))
    return urlsafe_b64encode(cursor).decode().rstrip("=")


def read_cursor(text: str, kind: str, namespace: str) -> str:
    """
    The place of the last object that was given.

    @raise Refusal: 400, this agent has not written C{text}, or for another list.
    """
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        found = msgspec.json.decode(b64decode(padded, altchars=b"-_", validate=True), type=_Cursor)
    except (UnicodeError, binascii.Error, msgspec.DecodeError, RecursionError):
        raise bad_parameter("continue", "expected what an answer had as `continue`") from None
    if (found.kind, found.namespace) != (kind, namespace):
        raise bad_parameter("continue", "it is of another list, or of another namespace")
    return found.place
