"""Where settings are written: options, environment variables, the file; each into nodes by path."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from pipeops_agent.settings import nodes
from pipeops_agent.settings.containers import ListOf, MappingOf, nearest, unknown
from pipeops_agent.settings.definitions import DEFINITIONS, ROOT, Definition, Section, variable_by_rule
from pipeops_agent.settings.document import Document, read_document
from pipeops_agent.settings.nodes import Items, Node, Scalar, about_key, keyed, wrong
from pipeops_agent.settings.parsing import parse
from pipeops_agent.settings.problems import Origin, Problem, SettingsError

CONFIG_OPTION: Final = "config"
"""The option that names the settings file, without dashes."""
DEFAULT_FILES: Final = ("config.yaml", "~/.pipeops-agent.yaml")
"""Where the file is looked for without that option; the first that exists is taken."""


def find_document(options: Mapping[str, str | None], cwd: Path, home: Path, uid: int) -> Document | None:
    """
    Read the settings file; None: there is none, and none was asked for.

    @raise SettingsError: there is one, or one was asked for, and it can't be used.
    """
    named = options.get(CONFIG_OPTION)
    if named is not None:
        path = home / named[2:] if named.startswith("~/") else cwd / named
        name = named if named.isprintable() else repr(named)
        return read_document(path, name, uid, Origin("option", f"--{CONFIG_OPTION}"))
    for name in DEFAULT_FILES:
        path = home / name[2:] if name.startswith("~/") else cwd / name
        if os.path.lexists(path):
            return read_document(path, name, uid)
    return None


def in_document(document: Document) -> tuple[dict[str, Node], list[Problem]]:
    """The nodes in C{document} by setting, and a problem for each key that is none or is there twice."""
    found: dict[str, Node] = {}
    problems: list[Problem] = []

    def visit(section: Section, mapping: nodes.Mapping) -> None:
        entries, duplicates = keyed(mapping, section.path)
        problems.extend(duplicates)
        for name, (key, node) in entries.items():
            member = section.members.get(name)
            if member is None:
                problems.append(about_key(section.path, key, unknown(_meant(name, section))))
            elif isinstance(node, Scalar) and node.null:
                continue  # nothing is written there: not set
            elif isinstance(member, Definition):
                found[member.path] = node
            elif isinstance(node, nodes.Mapping):
                visit(member, node)
            else:
                problems.extend(wrong("a mapping of settings", node, member.path).problems)

    if document.root is not None:
        visit(ROOT, document.root)
    return found, problems


def _meant(key: str, section: Section) -> str | None:
    """The neighbour that C{key} is closest to, else a setting of that name elsewhere."""
    neighbour = nearest(key, section.members)
    if neighbour is not None:
        return neighbour
    return next((path for path in DEFINITIONS if path.rpartition(".")[2] == key), None)


def given(
    definition: Definition,
    options: Mapping[str, str | None],
    environ: Mapping[str, str],
    in_file: Mapping[str, Node],
) -> Iterator[tuple[Origin, Callable[[], Node]]]:
    """
    Where a value for C{definition} is given, the source that wins first, and what makes its node.

    An empty variable counts as not set.
    """
    option = definition.option
    text = options.get(option.removeprefix("--")) if option is not None else None
    if option is not None and text is not None:
        origin = Origin("option", option)
        yield origin, partial(_node, definition, text, origin)
    text = environ.get(definition.variable, "")
    if text.strip():
        origin = Origin("variable", definition.variable)
        yield origin, partial(_node, definition, text, origin)
    node = in_file.get(definition.path)
    if node is not None:
        yield node.origin, lambda: node


def _node(definition: Definition, text: str, origin: Origin) -> Node:
    """
    The node of a value that is written in one line.

    A list or mapping is YAML in brackets, C{[a, b]} or C{{a: b}}, or simply C{a,b} or C{a=b,c=d}.

    @raise SettingsError: it is neither.
    """
    if not isinstance(definition.kind, ListOf | MappingOf):
        return Scalar(text, origin)
    if text.lstrip()[0] in "[{":
        node = parse(text, origin, expands=False)
        assert node is not None  # with a bracket it is not empty
        return node
    parts = [part.strip() for part in text.split(",")]
    if isinstance(definition.kind, ListOf):
        return Items(tuple(Scalar(part, origin) for part in parts), origin)
    pairs = [part.partition("=") for part in parts]
    if not all(equals for _, equals, _ in pairs):
        reason = "expected name=value,name=value or {name: value}"
        raise SettingsError([Problem(definition.path, reason, origin)])
    return nodes.Mapping(
        tuple((Scalar(key.strip(), origin), Scalar(value.strip(), origin)) for key, _, value in pairs), origin
    )


def unread_variables(environ: Mapping[str, str]) -> list[str]:
    """
    A sentence for each variable that looks like a setting's and is none.

    Only where the one that was meant is clear: Kubernetes sets variables of its own for a Service
    called C{pipeops-agent}.
    """
    known = {definition.variable for definition in DEFINITIONS.values()}
    by_rule = {variable_by_rule(each.path): each.variable for each in DEFINITIONS.values()}
    sentences = []
    for name in sorted(environ):
        if not name.startswith("PIPEOPS_") or name in known:
            continue
        meant = by_rule.get(name) or nearest(name, known, cutoff=0.9)
        if meant:
            sentences.append(f"variable {name} is not read; did you mean {meant}?")
    return sentences
