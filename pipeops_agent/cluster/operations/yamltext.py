"""
YAML as Kubernetes reads it: several documents, each a JSON value, bounded in size, depth and aliases.

Built on the parser's events: no tag makes an object, no alias costs more than it is counted for, and a key
that stands twice is an error, not the last one wins. Scalars mean what they mean to C{kubectl} (YAML 1.1
without its times and base 60): PyYAML's own constructor would turn C{12:30:45} into a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final

import yaml
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.scheduling import sleep

MAX_TEXT: Final = 4 * 1024 * 1024
"""Characters of one text: a big operator with its CRDs has one or two million."""

MAX_VALUES: Final = 200_000
"""Texts, lists and mappings of one text, each alias counted as what it stands for."""

MAX_DEPTH: Final = 100
"""Lists and mappings in each other: the schema of a CRD goes to 40."""

TURN: Final = 1_000
"""Events that are read before others get their turn on the reactor: some 10 ms."""

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser, ten times as fast, where PyYAML was built with it."""

_NULL: Final = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE: Final = frozenset(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"))
_FALSE: Final = frozenset(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"))
_INT: Final = re.compile(r"[-+]?(0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_INFINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_SURROGATES: Final = re.compile(
    r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"
)
_CORE: Final = "tag:yaml.org,2002:"


class YamlProblem(Exception):
    """
    The text can't be used.

    @ivar document: which of its documents, counted from 1.
    @ivar line: where, counted from 1.
    """

    def __init__(self, reason: str, document: int, line: int) -> None:
        super().__init__(f"document {document}, line {line}: {reason}")
        self.document = document
        self.line = line


async def read_yaml(clock: IReactorTime, text: str) -> list[tuple[Any, int, int]]:
    """
    The documents in C{text} that are not empty: value, number and first line of each, both from 1.

    Others get their turn on the reactor while a long text is read.

    @raise YamlProblem: it is not YAML, or more than the bounds allow.
    """
    if len(text) > MAX_TEXT:
        raise YamlProblem(f"the text is longer than {MAX_TEXT} characters", 1, 1)
    if text.lstrip()[:1] in ("{", "["):
        text = _SURROGATES.sub(_together, text)
    reader = _Reader()
    events = reader.events(text)
    for count, event in enumerate(events, 1):
        reader.feed(event)
        if count % TURN == 0:
            await sleep(clock, 0)
    return reader.documents


def _together(found: re.Match[str]) -> str:
    """A character that JSON writes as two escapes, as YAML writes it."""
    high, low = int(found[2], 16), int(found[3], 16)
    return f"{found[1]}\\U{0x10000 + ((high - 0xD800) << 10) + low - 0xDC00:08X}"


class _Open:
    """A list or mapping whose end has not been seen yet."""

    def __init__(self, anchor: str | None, line: int, *, mapping: bool) -> None:
        self.anchor = anchor
        self.line = line
        self.size = 1
        self.items: list[Any] = []
        self.mapping: dict[str, Any] | None = {} if mapping else None
        self.merged: list[dict[str, Any]] = []
        self.key: str | None = None
        self.merging = False

    def value(self) -> Any:
        if self.mapping is None:
            return self.items
        for merged in self.merged:
            self.mapping = {**merged, **self.mapping}
        return self.mapping


class _Reader:
    """Makes values of events, without recursion."""

    def __init__(self) -> None:
        self.documents: list[tuple[Any, int, int]] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._number = 0
        self._size = 0
        self._line = 1

    def events(self, text: str) -> Iterator[yaml.Event]:
        """The parser's events; its errors are ours."""
        try:
            yield from yaml.parse(text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self._problem(
                f"not YAML: {str(error.problem)[:200]}", mark.line + 1 if mark else 1
            ) from None
        except (yaml.YAMLError, ValueError, OverflowError):
            # The reader tells of bad characters; the scanner lets through what chr() and int() refuse.
            raise self._problem("not YAML: characters or escapes that are not allowed", self._line) from None

    def feed(self, event: yaml.Event) -> None:
        """Take the next event."""
        line = self._line = event.start_mark.line + 1 if event.start_mark else self._line
        if isinstance(event, yaml.DocumentStartEvent):
            self._number += 1
            self._anchors.clear()
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise self._problem("an alias has no anchor before it", line)
            value, size = self._anchors[event.anchor]
            self._add(value, size, line, None)
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            opened = self._open.pop()
            self._size -= opened.size  # counted again, as a whole, when it is added to its parent
            self._add(opened.value(), opened.size, opened.line, opened.anchor)

    def _begin(self, event: yaml.CollectionStartEvent, line: int) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"{_CORE}{'map' if mapping else 'seq'}"):
            raise self._problem("tags (!name) are not used in manifests", line)
        if len(self._open) == MAX_DEPTH:
            raise self._problem(f"nested more than {MAX_DEPTH} deep", line)
        self._count(1, line)
        self._open.append(_Open(event.anchor, line, mapping=mapping))

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        parent = self._open[-1] if self._open else None
        expects_key = (
            parent is not None and parent.mapping is not None and parent.key is None and not parent.merging
        )
        if expects_key and not event.style and event.value == "<<":
            assert parent is not None
            parent.merging = True
            self._count(1, line)
            return
        value = self._meaning(event, line)
        if expects_key:
            value = _as_key(value)
        self._add(value, 1, line, event.anchor)

    def _meaning(self, event: yaml.ScalarEvent, line: int) -> Any:
        tag = event.tag
        if tag == f"{_CORE}str" or (event.style and tag is None) or tag == "!":
            return event.value
        if tag is not None and tag not in {f"{_CORE}{name}" for name in ("int", "float", "bool", "null")}:
            raise self._problem("tags (!name) are not used in manifests", line)
        try:
            return resolve(event.value)
        except ValueError as error:
            raise self._problem(str(error), line) from None

    def _add(self, value: Any, size: int, line: int, anchor: str | None) -> None:
        self._count(size, line)
        if anchor is not None:
            self._anchors[anchor] = (value, size)
        if not self._open:
            if value is not None:
                self.documents.append((value, self._number, line))
            return
        parent = self._open[-1]
        parent.size += size
        if parent.mapping is None:
            parent.items.append(value)
        elif parent.merging:
            self._merge(parent, value, line)
        elif parent.key is not None:
            parent.mapping[parent.key] = value
            parent.key = None
        elif not isinstance(value, str):
            raise self._problem("a key must be a text", line)
        elif value in parent.mapping:
            raise self._problem(f"the key {value[:80]!r} is there twice", line)
        else:
            parent.key = value

    def _merge(self, parent: _Open, value: Any, line: int) -> None:
        parent.merging = False
        merged = value if isinstance(value, list) else [value]
        if not all(isinstance(each, dict) for each in merged):
            raise self._problem("<< needs a mapping, or a list of them", line)
        parent.merged += merged

    def _count(self, size: int, line: int) -> None:
        self._size += size
        if self._size > MAX_VALUES:
            raise self._problem(f"more than {MAX_VALUES} values, aliases counted in full", line)

    def _problem(self, reason: str, line: int) -> YamlProblem:
        return YamlProblem(reason, max(1, self._number), line)


def resolve(text: str) -> Any:
    """
    What a plain scalar means.

    @raise ValueError: nothing that JSON could hold.
    """
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if len(text) > 400 or not (text[0].isdigit() or text[0] in "+-."):
        return text
    if _INT.fullmatch(text):
        return _integer(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        number = float(text.replace("_", ""))
        if math.isinf(number):
            raise ValueError("a number that is too large")
        # As kubectl sends it: 3.0 is none of Go's integers, 3 is.
        return int(number) if number.is_integer() and abs(number) < 1 << 53 else number
    if _INFINITE.fullmatch(text):
        raise ValueError("a number that JSON does not have")
    return text


def _integer(text: str) -> int | float:
    sign, digits = (-1 if text.startswith("-") else 1), text.lstrip("+-")
    base = {"0b": 2, "0o": 8, "0x": 16}.get(digits[:2], 8 if digits[0] == "0" and len(digits) > 1 else 10)
    number = sign * int(digits[2:] if digits[:2] in ("0b", "0o", "0x") else digits, base)
    return number if -(1 << 63) <= number < 1 << 64 else float(number)


def _as_key(value: Any) -> Any:
    """A key is a text in JSON: C{1: x} is C{"1": x}, C{true: x} is C{"true": x}."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value
