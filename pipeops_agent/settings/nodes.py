"""
A settings text, parsed but not yet understood: texts, lists and mappings, each with its place.

What a scalar means is decided by the setting that it is for, never by YAML's guesses: C{no},
C{010} and C{1:30} are just texts here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pipeops_agent.settings.problems import Origin, Problem, SettingsError

_NAMEABLE = re.compile(r"[A-Za-z0-9_./-]{1,64}")


@dataclass(frozen=True)
class Scalar:
    """
    One text.

    @ivar null: nothing is written there (or C{~}, C{null}): the setting counts as not set.
    @ivar expands: C{${NAME}} in it stands for a variable.
    """

    text: str = field(repr=False)  # it may be a secret
    origin: Origin
    null: bool = False
    expands: bool = False
    size: int = 1


@dataclass(frozen=True)
class Items:
    """A list. C{size} counts the nodes in it, itself included, as if all aliases were written out."""

    items: tuple[Node, ...]
    origin: Origin
    size: int = 1


@dataclass(frozen=True)
class Mapping:
    """A mapping, as written: keys may repeat, L{keyed} says so."""

    entries: tuple[tuple[Scalar, Node], ...]
    origin: Origin
    size: int = 1


Node = Scalar | Items | Mapping


def noun(node: Node) -> str:
    """What C{node} is, for "expected a list, got a mapping"."""
    if isinstance(node, Items):
        return "a list"
    if isinstance(node, Mapping):
        return "a mapping"
    return "nothing" if node.null else "a text"


def keyed(node: Mapping, path: str) -> tuple[dict[str, tuple[Scalar, Node]], list[Problem]]:
    """Return the entries by key, and a problem for each key that is there twice."""
    entries: dict[str, tuple[Scalar, Node]] = {}
    problems = []
    for key, value in node.entries:
        if key.text in entries:
            first = entries[key.text][0].origin
            reason = f"duplicate key, first on line {first.line}" if first.line else "duplicate key"
            problems.append(about_key(path, key, reason))
        else:
            entries[key.text] = (key, value)
    return entries, problems


def join(path: str, key: str) -> str:
    """The path of C{key} below C{path}; a key that could tear a line apart is escaped and shortened."""
    if not key.isprintable() or len(key) > 64:
        key = f"{key[:64]!r}"
    return f"{path}.{key}" if path else key


def about_key(path: str, key: Scalar, reason: str) -> Problem:
    """
    The problem of C{key} below C{path}.

    A key of other characters than names have is not repeated: in C{{token:abc}}, where a space is
    missing, YAML takes the whole for a key.
    """
    if _NAMEABLE.fullmatch(key.text):
        return Problem(join(path, key.text), reason, key.origin)
    return Problem(path or key.origin.name, f"{reason} (a key that is no name and not repeated)", key.origin)


def wrong(expected: str, node: Node, path: str) -> SettingsError:
    """The error of a node of the wrong shape; its content may be a misplaced secret and is not repeated."""
    return SettingsError([Problem(path, f"expected {expected}, got {noun(node)}", node.origin)])
