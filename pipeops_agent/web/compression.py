"""
Large answers are sent compressed to those who take that (RFC 9110, 12.5.3).

No answer that holds a secret may come here together with what its reader has sent: their common length would
give it away. A session's key is in an answer that is too short.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from typing import Final

import msgspec

from pipeops_agent.web.replies import Reply

WORTHWHILE: Final = 1400
"""Bytes below which nothing is compressed: it goes in one packet anyway."""

_LEVEL: Final = 1
"""The fastest: JSON shrinks to a tenth by it, and nothing else is done meanwhile."""

_VARY: Final = ("Vary", "Accept-Encoding")


def compressed(reply: Reply, accepted: Iterable[str]) -> Reply:
    """
    C{reply} as it is sent.

    @param accepted: the request's headers C{Accept-Encoding}.
    """
    if len(reply.body) < WORTHWHILE or any(name == "Content-Encoding" for name, _ in reply.headers):
        return reply
    if not _takes_gzip(accepted):
        return msgspec.structs.replace(reply, headers=(*reply.headers, _VARY))
    return msgspec.structs.replace(
        reply,
        body=gzip.compress(reply.body, _LEVEL, mtime=0),
        headers=(*reply.headers, ("Content-Encoding", "gzip"), _VARY),
    )


def _takes_gzip(accepted: Iterable[str]) -> bool:
    """What is named itself counts, and else what C{*} says; a weight of 0 is a refusal."""
    weights: dict[str, bool] = {}
    for item in ",".join(accepted).split(","):
        coding, _, parameters = item.partition(";")
        weights[coding.strip().lower()] = _wanted(parameters)
    named = [weights[name] for name in ("gzip", "x-gzip") if name in weights]
    return any(named) if named else weights.get("*", False)


def _wanted(parameters: str) -> bool:
    name, _, weight = parameters.partition("=")
    if name.strip().lower() != "q":
        return True
    try:
        return float(weight) > 0
    except ValueError:
        return False
