"""
YAML into nodes, without its guesses at what a text might mean.

Built on the parser's events, not on PyYAML's composer and constructor: bounded in depth and size
before anything is built, and no tag makes an object.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
import yaml

from pipeops_agent.settings.nodes import Items, Mapping, Node, Scalar
from pipeops_agent.settings.problems import Origin, Problem, SettingsError

_MAX_NODES: Final = 20_000
"""Texts, lists and mappings in one file, with each alias counted as what it stands for."""
_MAX_DEPTH: Final = 32
_NULLS: Final = frozenset(("", "~", "null", "Null", "NULL"))


def parse(text: str, origin: Origin, *, expands: bool) -> Node | None:
    """
    Parse one YAML document; None: it is empty.

    @param origin: of its first line.
    @param expands: whether C{${NAME}} in its texts stands for a variable.
    @raise SettingsError: it is not valid YAML, or uses what settings have no need for (tags,
        several documents, more than a bounded number of values).
    """
    builder = _Builder(origin, expands)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.feed(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = f"not valid YAML: {_discreet(error.problem)}"
        raise refusal(reason, _at(origin, mark.line if mark else 0)) from None
    except (yaml.YAMLError, ValueError, OverflowError):
        # The reader tells of bad characters; the scanner lets through what chr() and int() refuse.
        raise refusal("not valid YAML: it holds characters or escapes that are not allowed", origin) from None
    root = builder.root
    return None if isinstance(root, Scalar) and root.null else root


def refusal(reason: str, place: Origin) -> SettingsError:
    """The error of a whole text, not of one setting in it."""
    return SettingsError([Problem(place.name, reason, place)])


def _at(origin: Origin, line: int) -> Origin:
    """The place C{line} lines below C{origin}; a variable has no lines."""
    return msgspec.structs.replace(origin, line=origin.line + line) if origin.line else origin


def _discreet(problem: str | None) -> str:
    """PyYAML's problem without the names that it quotes: a token that begins with C{*} reads as an alias."""

    def hide(quoted: re.Match[str]) -> str:
        # Single characters and the parser's own words, '<block end>', say what is wrong.
        return quoted[0] if re.fullmatch(r"'(?:.|<[a-z ]+>)'", quoted[0]) else "'...'"

    return re.sub(r"'[^']*'", hide, problem or "")


class _Open:
    """A list or mapping whose end has not been seen yet."""

    def __init__(self, event: yaml.CollectionStartEvent, origin: Origin) -> None:
        self._is_mapping = isinstance(event, yaml.MappingStartEvent)
        self.anchor = event.anchor
        self.origin = origin
        self.nodes: list[Node] = []
        self.size = 1

    def close(self) -> Node:
        if not self._is_mapping:
            return Items(tuple(self.nodes), self.origin, self.size)
        entries = []
        for key, value in zip(self.nodes[::2], self.nodes[1::2], strict=True):
            if not isinstance(key, Scalar):
                raise refusal("a key must be a text, not a list or mapping", key.origin)
            entries.append((key, value))
        return Mapping(tuple(entries), self.origin, self.size)


class _Builder:
    """
    Makes nodes from YAML's events.

    Without recursion, and with every alias counted at its full size, so that neither a deep nor a
    folded text costs more than the bounds say.
    """

    def __init__(self, origin: Origin, expands: bool) -> None:
        self._origin = origin
        self._expands = expands
        self._open: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._documents = 0
        self._size = 0
        self.root: Node | None = None

    def feed(self, event: yaml.Event) -> None:
        """Take the next event."""
        origin = _at(self._origin, event.start_mark.line if event.start_mark else 0)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise refusal("holds more than one document", origin)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise refusal("an alias has no anchor before it", origin)
            self._add(self._anchors[event.anchor], None, origin)
        elif isinstance(event, yaml.ScalarEvent):
            _no_tag(event, origin)
            null = event.style is None and event.value in _NULLS
            self._add(Scalar(event.value, origin, null=null, expands=self._expands), event.anchor, origin)
        elif isinstance(event, yaml.CollectionStartEvent):
            _no_tag(event, origin)
            if len(self._open) == _MAX_DEPTH:
                raise refusal(f"nested more than {_MAX_DEPTH} deep", origin)
            self._open.append(_Open(event, origin))
            self._size += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            opened = self._open.pop()
            self._size -= opened.size  # counted again, as a whole, when it is added to its parent
            self._add(opened.close(), opened.anchor, opened.origin)

    def _add(self, node: Node, anchor: str | None, origin: Origin) -> None:
        self._size += node.size
        if self._size > _MAX_NODES:
            raise refusal(f"holds more than {_MAX_NODES} values", origin)
        if anchor is not None:
            self._anchors[anchor] = node
        if self._open:
            self._open[-1].nodes.append(node)
            self._open[-1].size += node.size
        else:
            self.root = node


def _no_tag(event: yaml.ScalarEvent | yaml.CollectionStartEvent, origin: Origin) -> None:
    if event.tag is not None:
        raise refusal("tags (!name) are not used in settings; quote the text", origin)
