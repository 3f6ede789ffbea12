"""The little that the fake checks of an object: what a client can get wrong without noticing."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

from tests.cluster.fakeapi.storage import Object, Refused

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_MICRO_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")


def check(resource: str, given: Object) -> None:
    """@raise Refused: 400, it can't be decoded; 422, its name is none (RFC 1123)."""
    if resource == "leases.coordination.k8s.io":
        spec = given.get("spec") or {}
        for member in ("acquireTime", "renewTime"):
            _decoded(spec.get(member) is None or _MICRO_TIME.fullmatch(spec[member]), member)
    if resource == "secrets":
        for key, value in (given.get("data") or {}).items():
            _decoded(_base64(value), key)
    name = (given.get("metadata") or {}).get("name")
    if name and not _NAME.fullmatch(name):
        message = (
            f'{resource} "{name}" is invalid: metadata.name: Invalid value: "{name}": a lowercase RFC 1123'
        )
        raise Refused(
            422, "Invalid", f"{message} subdomain must consist of lower case alphanumeric characters"
        )


def _decoded(ok: object, member: str) -> None:
    if not ok:
        raise Refused(400, "BadRequest", f"the object provided is unrecognized: {member}: illegal value")


def _base64(value: Any) -> bool:
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return False
    return True
