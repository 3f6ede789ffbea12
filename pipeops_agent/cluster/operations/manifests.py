"""Manifests: a text with one or several objects, each checked as far as can be done without the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.cluster.operations.base import BadRequest, Object
from pipeops_agent.cluster.operations.yamltext import YamlProblem, read_yaml
from pipeops_agent.cluster.resources import checked_segment

MAX_DOCUMENTS: Final = 500
"""Objects in one text."""

_FIRST: Final = {("v1", "Namespace"): 0, ("apiextensions.k8s.io/v1", "CustomResourceDefinition"): 1}
"""What others may need to be there."""


class BadManifest(BadRequest):
    """A text holds no objects that could be sent; the message names document and line."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """
    One object to be.

    @ivar document: which of the text's documents it is in, C{line} where that begins; both from 1.
    @ivar name: empty: it has a C{generateName}.
    @ivar namespace: empty: it names none.
    """

    document: int
    line: int
    api_version: str
    kind: str
    name: str
    namespace: str
    content: Object

    @property
    def place(self) -> str:
        """For the start of a message."""
        return f"document {self.document} (line {self.line})"

    @property
    def words(self) -> str:
        """For messages: C{Deployment shop/web}."""
        return f"{self.kind} {'/'.join(filter(None, (self.namespace, self.name)))}"

    @property
    def rank(self) -> int:
        """Namespaces come first, then CRDs, then all others."""
        return _FIRST.get((self.api_version, self.kind), 2)

    @property
    def is_crd(self) -> bool:
        """Whether it brings a kind of its own."""
        return self.rank == 1


async def read_manifests(clock: IReactorTime, text: str) -> list[Manifest]:
    """
    The objects in C{text} (YAML or JSON), in the order in which they are to be sent.

    A C{v1 List} is taken for its items.

    @raise BadManifest: it is not YAML, empty, or a document is no object.
    """
    try:
        documents = await read_yaml(clock, text)
    except YamlProblem as problem:
        raise BadManifest(str(problem)) from None
    found = [
        _manifest(each, number, line)
        for value, number, line in documents
        for each in _objects(value, number, line)
    ]
    if not found:
        raise BadManifest("the text holds no object: it is empty, or all comments")
    if len(found) > MAX_DOCUMENTS:
        raise BadManifest(f"the text holds more than {MAX_DOCUMENTS} objects")
    return sorted(found, key=lambda manifest: manifest.rank)  # stable: else in the text's order


def _objects(value: Any, number: int, line: int) -> Iterator[Any]:
    if isinstance(value, dict) and (value.get("apiVersion"), value.get("kind")) == ("v1", "List"):
        items = value.get("items")
        if not isinstance(items, list):
            raise _problem(number, line, "items: expected a list")
        yield from items
    else:
        yield value


def _manifest(given: object, number: int, line: int) -> Manifest:
    if not isinstance(given, dict):
        what = "a list" if isinstance(given, list) else "a text or a number"
        hint = "; separate objects by lines of ---" if isinstance(given, list) else ""
        raise _problem(number, line, f"expected an object with apiVersion and kind, got {what}{hint}")
    value: Object = given
    fields: dict[str, str] = {}
    for field in ("apiVersion", "kind"):
        text: Any = value.get(field)
        if not isinstance(text, str) or not text:
            raise _problem(number, line, f"{field}: {'missing' if field not in value else 'expected a text'}")
        fields[field] = text
    meta: Any = value.get("metadata")
    if not isinstance(meta, dict):
        raise _problem(number, line, f"metadata: {'expected a mapping' if meta else 'missing'}")
    for field in ("name", "namespace", "generateName"):
        text = meta.get(field, "")
        if not isinstance(text, str):
            raise _problem(number, line, f"metadata.{field}: expected a text (quote it)")
        try:
            fields[field] = text and checked_segment(text, "it")
        except ValueError as error:
            raise _problem(number, line, f"metadata.{field}: {error}") from None
    if not fields["name"] and not fields["generateName"]:
        raise _problem(number, line, "metadata.name: missing")
    return Manifest(
        document=number,
        line=line,
        api_version=fields["apiVersion"],
        kind=fields["kind"],
        name=fields["name"],
        namespace=fields["namespace"],
        content=value,
    )


def _problem(number: int, line: int, reason: str) -> BadManifest:
    return BadManifest(f"document {number} (line {line}): {reason}")
