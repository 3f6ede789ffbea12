"""Settings that hold several values: lists, mappings, and lists of records."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Generic, TypeVar, final, get_type_hints

import msgspec

from pipeops_agent.settings import nodes
from pipeops_agent.settings.kinds import About, Kind, ScalarKind, Scope, Text
from pipeops_agent.settings.nodes import Items, Node, about_key, join, keyed, wrong
from pipeops_agent.settings.problems import Problem, SettingsError

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

_MAX_ITEMS: Final = 1000
"""Entries of one list or mapping."""


@cache
def fields(
    struct: type[msgspec.Struct],
) -> tuple[tuple[msgspec.structs.FieldInfo, About | None, Any], ...]:
    """Each field of C{struct}, what its annotation says about it, and its type."""
    hints = get_type_hints(struct, include_extras=True)
    found = []
    for info in msgspec.structs.fields(struct):
        hint = hints[info.name]
        about = next((note for note in getattr(hint, "__metadata__", ()) if isinstance(note, About)), None)
        found.append((info, about, hint))
    return tuple(found)


def default(info: msgspec.structs.FieldInfo) -> Any:
    """The default of a field, or C{msgspec.NODEFAULT}."""
    if info.default_factory is not msgspec.NODEFAULT:
        return info.default_factory()
    return info.default


def nearest(key: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of C{known} that was probably meant by C{key}: C{pollInterval} is C{poll_interval}."""
    names = {name.lower().replace("_", ""): name for name in known}
    wanted = key.lower().replace("_", "").replace("-", "")
    close = difflib.get_close_matches(wanted, names, n=1, cutoff=cutoff)
    return names[close[0]] if close else None


def read_all(parts: Iterable[Callable[[], T]], problems: Iterable[Problem] = ()) -> list[T]:
    """
    Call every reader and return what they read.

    @raise SettingsError: the given problems, and those of all readers together.
    """
    values, found = [], list(problems)
    for part in parts:
        try:
            values.append(part())
        except SettingsError as error:
            found.extend(error.problems)
    if found:
        raise SettingsError(found)
    return values


def _bounded(node: Node, count: int, path: str) -> None:
    if count > _MAX_ITEMS:
        raise SettingsError([Problem(path, f"more than {_MAX_ITEMS} entries", node.origin)])


@final
@dataclass(frozen=True)
class ListOf(Kind[tuple[T, ...]], Generic[T]):
    """A list whose items are all of one kind."""

    item: Kind[T]

    @property
    def label(self) -> str:
        return f"list of {self.item.label}"

    def read(self, node: Node, path: str, scope: Scope) -> tuple[T, ...]:
        if not isinstance(node, Items):
            raise wrong("a list", node, path)
        _bounded(node, len(node.items), path)
        scope.origins[path] = node.origin

        def reader(index: int, item: Node) -> Callable[[], T]:
            return lambda: self.item.read(item, f"{path}[{index}]", scope)

        return tuple(read_all(reader(index, item) for index, item in enumerate(node.items)))

    def rows(self, path: str, value: tuple[T, ...]) -> Iterator[tuple[str, str]]:
        if not value:
            yield path, "(none)"
        for index, item in enumerate(value):
            yield from self.item.rows(f"{path}[{index}]", item)


@final
@dataclass(frozen=True)
class MappingOf(Kind[dict[str, T]], Generic[T]):
    """Values of one kind, under keys that the user chooses."""

    item: ScalarKind[T]

    @property
    def label(self) -> str:
        return f"mapping of names to {self.item.label}"

    def read(self, node: Node, path: str, scope: Scope) -> dict[str, T]:
        if not isinstance(node, nodes.Mapping):
            raise wrong("a mapping", node, path)
        _bounded(node, len(node.entries), path)
        entries, problems = keyed(node, path)
        scope.origins[path] = node.origin

        def reader(key: nodes.Scalar, item: Node) -> Callable[[], tuple[str, T]]:
            def read() -> tuple[str, T]:
                Text(required=True, most=253).read(
                    nodes.Scalar(key.text, key.origin), join(path, key.text), scope
                )
                return key.text, self.item.read(item, join(path, key.text), scope)

            return read

        return dict(read_all((reader(*entry) for entry in entries.values()), problems))

    def rows(self, path: str, value: Mapping[str, T]) -> Iterator[tuple[str, str]]:
        if not value:
            yield path, "(none)"
        for key, item in value.items():
            yield from self.item.rows(join(path, key), item)


@final
@dataclass(frozen=True)
class Record(Kind[S], Generic[S]):
    """A struct whose fields are described as settings are; those without a default are required."""

    struct: type[S]
    noun: str

    @property
    def label(self) -> str:
        return self.noun

    def parts(self) -> list[tuple[str, About, Any]]:
        """Each field's name, what is known of it, and its default (C{msgspec.NODEFAULT}: required)."""
        return [(info.name, about, default(info)) for info, about, _ in fields(self.struct) if about]

    def read(self, node: Node, path: str, scope: Scope) -> S:
        if not isinstance(node, nodes.Mapping):
            raise wrong(f"a mapping of {self.noun} settings", node, path)
        entries, problems = keyed(node, path)
        parts = self.parts()
        names = [name for name, _, _ in parts]
        for key, (where, _) in entries.items():
            if key not in names:
                problems.append(about_key(path, where, unknown(nearest(key, names))))
        scope.origins[path] = node.origin

        def reader(name: str, about: About) -> Callable[[], tuple[str, Any]]:
            return lambda: (name, about.kind.read(entries[name][1], join(path, name), scope))

        readers = []
        for name, about, otherwise in parts:
            if name in entries and not _is_null(entries[name][1]):
                readers.append(reader(name, about))
            elif otherwise is msgspec.NODEFAULT:
                problems.append(Problem(join(path, name), "required", node.origin))
        return self.struct(**dict(read_all(readers, problems)))

    def rows(self, path: str, value: S) -> Iterator[tuple[str, str]]:
        for name, about, _ in self.parts():
            yield from about.kind.rows(join(path, name), getattr(value, name))


def secrets_in(kind: Kind[Any], node: Node, path: str) -> Iterator[str]:
    """The path of each secret that C{node}, which is for C{kind}, holds as it is written."""
    if isinstance(node, nodes.Scalar):
        if kind.secret and "${" not in node.text and kind.gives_away(node.text):
            yield path
    elif isinstance(node, Items) and isinstance(kind, ListOf):
        for index, item in enumerate(node.items):
            yield from secrets_in(kind.item, item, f"{path}[{index}]")
    elif isinstance(node, nodes.Mapping) and isinstance(kind, Record):
        kinds = {name: about.kind for name, about, _ in kind.parts()}
        for key, item in node.entries:
            if key.text in kinds:
                yield from secrets_in(kinds[key.text], item, join(path, key.text))


def unknown(meant: str | None) -> str:
    """The reason of an unknown key; C{meant} is the one that it was probably meant to be."""
    return f"unknown key; did you mean {meant}?" if meant else "unknown key"


def _is_null(node: Node) -> bool:
    return isinstance(node, nodes.Scalar) and node.null
