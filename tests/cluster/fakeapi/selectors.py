"""Which objects a request selects: labels (all the forms) and the few fields that the server knows."""

from __future__ import annotations

import re
from typing import Any, Final

from tests.cluster.fakeapi.storage import Object, Refused

_SET: Final = re.compile(r"\s*(?P<key>[\w./-]+)\s+(?P<how>in|notin)\s+\((?P<values>[^()]*)\)\s*")
_COMPARED: Final = re.compile(r"\s*(?P<key>[\w./-]+)\s*(?P<how>!=|==|=)\s*(?P<value>[\w.-]*)\s*")
_EXISTS: Final = re.compile(r"\s*(?P<not>!?)\s*(?P<key>[\w./-]+)\s*")
_COMMA: Final = re.compile(r",(?![^(]*\))")

_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "pods": ("spec.nodeName", "spec.serviceAccountName", "status.phase", "status.podIP"),
    "events": ("involvedObject.kind", "involvedObject.name", "involvedObject.uid", "reason", "type"),
    "secrets": ("type",),
    "nodes": ("spec.unschedulable",),
    "namespaces": ("status.phase",),
}
"""By resource, beside the name and the namespace of anything."""


class Selection:
    """
    The selectors of one request.

    @param resource: as L{Storage} names it.
    @raise Refused: 400, they can't be read, or name a field that the server does not know.
    """

    def __init__(self, resource: str, labels: str, fields: str) -> None:
        self._labels = [_label(part) for part in _COMMA.split(labels) if part]
        self._fields = [_field(resource, part) for part in fields.split(",") if part]

    def selects(self, found: Object) -> bool:
        """Whether an object is one of those."""
        labels = found["metadata"].get("labels") or {}
        return all((labels.get(key) in values) is wanted for key, values, wanted in self._labels) and all(
            (_value(found, path) == value) is wanted for path, value, wanted in self._fields
        )


class _Any(tuple[()]):
    """What any value is in, but not None."""

    __slots__ = ()

    def __contains__(self, value: object) -> bool:
        return value is not None


def _label(part: str) -> tuple[str, Any, bool]:
    """A key, the values that are meant, and whether it must have one of them."""
    if found := _SET.fullmatch(part):
        values = tuple(value.strip() for value in found["values"].split(","))
        return found["key"], values, found["how"] == "in"
    if found := _COMPARED.fullmatch(part):
        return found["key"], (found["value"],), found["how"] != "!="
    if found := _EXISTS.fullmatch(part):
        return found["key"], _Any(), not found["not"]
    raise Refused(400, "BadRequest", f"unable to parse requirement: {part}")


def _field(resource: str, part: str) -> tuple[str, str, bool]:
    found = _COMPARED.fullmatch(part)
    if found is None:
        raise Refused(400, "BadRequest", f"invalid field selector: {part}")
    if found["key"] not in ("metadata.name", "metadata.namespace", *_FIELDS.get(resource, ())):
        raise Refused(400, "BadRequest", f"field label not supported: {found['key']}")
    return found["key"], found["value"], found["how"] != "!="


def _value(found: Object, path: str) -> str:
    value: Any = found
    for part in path.split("."):
        value = (value or {}).get(part, "")
    return str(value)
