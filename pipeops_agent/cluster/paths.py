"""
What a path of the API speaks of: read as the API server itself reads it, and stricter.

A path that two readers could take for different things is refused: what was checked must be what is asked.
The rules for a valid path follow the server's C{RequestInfo} (k8s.io/apiserver, C{endpoints/request}).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

import msgspec

MAX_PATH: Final = 2048
"""Characters of a path: seven names of 253 and their separators."""

_ALLOWED: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})+")
_SAFE: Final = "~!$&'()*+,=:@"

_OF_NAMESPACES: Final = frozenset({"status", "finalize"})
"""C{/namespaces/x/status} is a namespace's own; C{/namespaces/x/pods} is what is in it."""


class BadPath(ValueError):
    """A path is refused; the message says why."""


class ApiPath(msgspec.Struct, frozen=True, kw_only=True):
    """
    A path, understood.

    @ivar path: normalised and quoted: this is what is sent.
    @ivar group: and C{version}, C{plural}: of the resource; C{plural} is empty where there is none, as in
        C{/version} and C{/apis/apps/v1}.
    @ivar namespace: None: the path names none.
    @ivar name: empty: the whole collection.
    @ivar subresource: C{log}, C{scale}; what comes after it (C{proxy/metrics}) is in C{rest}.
    """

    path: str
    group: str = ""
    version: str = ""
    plural: str = ""
    namespace: str | None = None
    name: str = ""
    subresource: str = ""
    rest: tuple[str, ...] = ()


def parse_path(path: str) -> ApiPath:
    """
    Read C{path}: absolute, quoted, without a query.

    @raise BadPath: it is not in its one normal form (C{//}, C{.}, C{..}, a slash at the end, a quoted slash),
        holds what no name may hold, or stands for more than the server's paths do.
    """
    if not path.startswith("/"):
        raise BadPath("the path must begin with a slash")
    if len(path) > MAX_PATH:
        raise BadPath(f"the path is longer than {MAX_PATH} characters")
    if path == "/":
        return ApiPath(path="/")
    segments = [_segment(part) for part in path[1:].split("/")]
    normal = "/" + "/".join(quote(segment, safe=_SAFE) for segment in segments)
    if segments[0] == "api":
        return _resource(normal, "", segments[1:])
    if segments[0] == "apis" and len(segments) > 1:
        return _resource(normal, segments[1], segments[2:])
    return ApiPath(path=normal)


def _segment(quoted: str) -> str:
    if not quoted:
        raise BadPath("the path has an empty part: // or a slash at its end")
    if not _ALLOWED.fullmatch(quoted):
        raise BadPath(f"the path holds characters that no name has: {quoted[:80]!r}")
    try:
        text = unquote_to_bytes(quoted).decode()
    except UnicodeDecodeError:
        raise BadPath("the path is not UTF-8") from None
    if text in (".", ".."):
        raise BadPath("the path is not normalised: . or ..")
    if not text.isprintable() or any(char in "/\\%?#;" for char in text):
        raise BadPath(f"a part of the path can't be {text[:80]!r}")
    return text


def _resource(normal: str, group: str, segments: list[str]) -> ApiPath:
    """What comes after C{/api} or C{/apis/GROUP}."""
    if len(segments) < 2:
        return ApiPath(path=normal, group=group, version="".join(segments))
    version, *parts = segments
    if parts[0] in ("watch", "proxy"):
        raise BadPath(f"paths below /{parts[0]}/ are the old form: use ?watch=true, or the subresource proxy")
    namespace: str | None = None
    if parts[0] == "namespaces" and len(parts) > 1:
        namespace = parts[1]
        if len(parts) > 2 and parts[2] not in _OF_NAMESPACES:
            parts = parts[2:]
    plural, name, subresource, *rest = (*parts, "", "")[: max(3, len(parts))]
    return ApiPath(
        path=normal,
        group=group,
        version=version,
        plural=plural,
        namespace=namespace,
        name=name,
        subresource=subresource,
        rest=tuple(rest),
    )
