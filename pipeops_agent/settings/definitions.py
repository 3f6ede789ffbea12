"""The table of all settings, made from the model: one line each, under its dotted path."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pipeops_agent.settings.containers import default, fields
from pipeops_agent.settings.kinds import About, Kind
from pipeops_agent.settings.model import Settings


@dataclass(frozen=True)
class Definition:
    """
    One setting.

    @ivar path: where it stands in the file, C{server.port}.
    @ivar default: its value where no source has one.
    """

    path: str
    about: About
    default: Any

    @property
    def kind(self) -> Kind[Any]:
        """How it is read and shown."""
        return self.about.kind

    @property
    def variable(self) -> str:
        """Its environment variable: the specification's name for it, else the one by rule."""
        return self.about.variable or variable_by_rule(self.path)

    @property
    def option(self) -> str | None:
        """Its command line option, C{--port}."""
        return f"--{self.about.option}" if self.about.option else None


def variable_by_rule(path: str) -> str:
    """C{PIPEOPS_} and the path in capitals, dots as C{_}; the prefix C{pipeops.} is not repeated."""
    return "PIPEOPS_" + path.removeprefix("pipeops.").upper().replace(".", "_")


@dataclass(frozen=True)
class Section:
    """A mapping of settings; C{members} are settings and sections, by key."""

    path: str
    struct: type[msgspec.Struct]
    members: Mapping[str, Definition | Section]

    @property
    def text(self) -> str:
        """One sentence about it."""
        return inspect.getdoc(self.struct) or ""

    def definitions(self) -> Iterator[Definition]:
        """All settings in it, those of inner sections included, in their order."""
        for member in self.members.values():
            if isinstance(member, Section):
                yield from member.definitions()
            else:
                yield member

    def sections(self) -> Iterator[Section]:
        """This section and all in it, in their order."""
        yield self
        for member in self.members.values():
            if isinstance(member, Section):
                yield from member.sections()

    def build(self, values: Mapping[str, Any]) -> msgspec.Struct:
        """The struct of this section, with C{values} by path; the others have their defaults."""
        built: dict[str, Any] = {}
        for key, member in self.members.items():
            if isinstance(member, Section):
                built[key] = member.build(values)
            elif member.path in values:
                built[key] = values[member.path]
        return self.struct(**built)


def _section(struct: type[msgspec.Struct], path: str) -> Section:
    members: dict[str, Definition | Section] = {}
    for info, about, hint in fields(struct):
        inner = f"{path}.{info.name}" if path else info.name
        members[info.name] = Definition(inner, about, default(info)) if about else _section(hint, inner)
    return Section(path, struct, members)


ROOT: Final = _section(Settings, "")
DEFINITIONS: Final[Mapping[str, Definition]] = {each.path: each for each in ROOT.definitions()}


def value_at(settings: Settings, path: str) -> Any:
    """The value of the setting at C{path}."""
    value: Any = settings
    for name in path.split("."):
        value = getattr(value, name)
    return value
