"""All sources together: option over environment over file over default, with all errors at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

from pipeops_agent.settings import checks
from pipeops_agent.settings.containers import secrets_in
from pipeops_agent.settings.definitions import DEFINITIONS, ROOT, Definition
from pipeops_agent.settings.document import Document
from pipeops_agent.settings.expansion import Variables
from pipeops_agent.settings.kinds import Scope
from pipeops_agent.settings.model import Settings
from pipeops_agent.settings.nodes import Node
from pipeops_agent.settings.problems import DEFAULT, SANDBOX, Origin, Problem, SettingsError
from pipeops_agent.settings.proxies import DIRECT, Proxies, read_proxies
from pipeops_agent.settings.sources import find_document, given, in_document, unread_variables

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True)
class Loaded:
    """
    The settings, and how they came about.

    @ivar origins: where each setting comes from, by path; for lists and mappings that were written
        somewhere also each of their parts (C{tunnel.forwards[1].local_addr}).
    @ivar file: the settings file; None: there was none.
    @ivar ignored: the settings that were given and dropped because the caller said so, and where.
    @ivar cautions: what is allowed but should be said loudly at each start; sentences, free of secrets.
    @ivar proxies: which proxy leads to which target.
    """

    settings: Settings
    origins: Mapping[str, Origin]
    file: Path | None
    ignored: tuple[tuple[str, Origin], ...] = ()
    cautions: tuple[str, ...] = ()
    proxies: Proxies = DIRECT


def load_settings(
    options: Mapping[str, str | None],
    environ: Mapping[str, str],
    *,
    cwd: Path,
    home: Path,
    uid: int,
    overrides: Mapping[str, Any] = _NOTHING,
    ignore: frozenset[str] = frozenset(),
    token_required: bool = True,
) -> Loaded:
    """
    Read all settings.

    @param options: the command line's, by name without dashes; None: not given. Others are left alone.
    @param cwd: where C{config.yaml} is looked for, and what C{--config} is relative to.
    @param home: where C{.pipeops-agent.yaml} is looked for, and what C{~/} in paths means.
    @param uid: the user that the process runs as: besides root the only one whose file is trusted.
    @param overrides: values of the settings' own types, by path, that win over everything (the sandbox).
    @param ignore: paths whose values are dropped wherever they were given.
    @param token_required: whether it is an error that there is no token.
    @raise SettingsError: with everything that is wrong.
    """
    unheard = (overrides.keys() | ignore) - DEFINITIONS.keys()
    if unheard:
        raise ValueError(f"no such settings: {', '.join(sorted(unheard))}")
    secret_names = [each.variable for each in DEFINITIONS.values() if each.kind.secret]
    reading = _Reading(options, environ, Scope(Variables(environ, secret_names), home))
    document = reading.find_file(cwd, uid)
    file_failed = bool(reading.problems) and document is None
    for definition in DEFINITIONS.values():
        if definition.path in overrides:
            reading.override(definition.path, overrides[definition.path])
        elif definition.path in ignore:
            reading.ignore(definition)
        else:
            reading.read(definition)
    settings = reading.build()
    if not file_failed:  # its values would be missing, and rules between settings wrongly broken
        reading.problems.extend(
            checks.check(
                settings,
                reading.origins,
                reading.scope.read,
                reading.broken,
                token_required=token_required,
            )
        )
    ways_out = read_proxies(settings.pipeops.proxy, environ)
    reading.problems.extend(ways_out.problems)
    if reading.problems:
        raise SettingsError(reading.problems)
    return Loaded(
        settings=settings,
        origins=MappingProxyType(reading.origins),
        file=document.path if document else None,
        ignored=tuple(reading.ignored),
        cautions=(
            *checks.cautions(settings),
            *_exposed(document, reading.in_file),
            *unread_variables(environ),
            *ways_out.cautions,
        ),
        proxies=ways_out.proxies,
    )


@dataclass
class _Reading:
    """One reading of all sources."""

    options: Mapping[str, str | None]
    environ: Mapping[str, str]
    scope: Scope
    in_file: dict[str, Node] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    ignored: list[tuple[str, Origin]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def origins(self) -> dict[str, Origin]:
        """What came from where, so far."""
        return self.scope.origins

    def find_file(self, cwd: Path, uid: int) -> Document | None:
        """Read the file, where there is one; what is wrong with it is noted."""
        try:
            document = find_document(self.options, cwd, self.scope.home, uid)
        except SettingsError as error:
            self.problems.extend(error.problems)
            return None
        if document is not None:
            self.in_file, problems = in_document(document)
            self.problems.extend(problems)
        return document

    def override(self, path: str, value: Any) -> None:
        """Take C{value}, whatever was given."""
        self.values[path] = value
        self.origins[path] = SANDBOX

    def ignore(self, definition: Definition) -> None:
        """Take the default, and note what was given."""
        self.origins[definition.path] = DEFAULT
        self.ignored.extend((definition.path, origin) for origin, _ in self._given(definition))

    def read(self, definition: Definition) -> None:
        """Take the value of the first source that has one; those that it hides are not looked at."""
        self.origins[definition.path] = DEFAULT
        for _, node in self._given(definition):
            try:
                self.values[definition.path] = definition.kind.read(node(), definition.path, self.scope)
            except SettingsError as error:
                self.problems.extend(error.problems)
                self.broken.add(definition.path)
            return

    def build(self) -> Settings:
        """The settings as far as they could be read; those that could not have their defaults."""
        forwards = self.values.get("tunnel.forwards")
        if forwards is not None:
            self.values["tunnel.forwards"] = checks.with_default_aliases(forwards)
        return cast(Settings, ROOT.build(self.values))

    def _given(self, definition: Definition) -> Iterator[tuple[Origin, Callable[[], Node]]]:
        return given(definition, self.options, self.environ, self.in_file)


def _exposed(document: Document | None, in_file: Mapping[str, Node]) -> Iterator[str]:
    """A sentence for each secret that stands in a file which everybody on this machine can read."""
    if document is None or not document.readable_by_others:
        return
    for path, node in in_file.items():
        for where in secrets_in(DEFINITIONS[path].kind, node, path):
            yield f"{where}: every user of this machine can read {document.name}; chmod go-r it"
