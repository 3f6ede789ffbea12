"""
The kinds of settings: how each is read from a text, shown, and named in the documentation.

A kind reads a node into a value or raises L{SettingsError} with everything that is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, final

from pipeops_agent.caller import Grant
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.durations import format_duration, parse_duration
from pipeops_agent.settings.expansion import Variables
from pipeops_agent.settings.nodes import Node, Scalar, wrong
from pipeops_agent.settings.problems import Origin, Problem, SettingsError, Unfit, shown, unexpected

T = TypeVar("T")


@dataclass(frozen=True)
class Scope:
    """
    What the reading of a value may look at, and where it notes what it has found, by path.

    @ivar origins: what came from where.
    @ivar read: the value of each text that could be read, also in a list of which other parts could not.
    """

    variables: Variables
    home: Path
    origins: dict[str, Origin] = field(default_factory=dict)
    read: dict[str, Any] = field(default_factory=dict)


class Kind(Generic[T]):
    """What a setting can be."""

    secret: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """The kind, for the documentation: C{integer, 1 to 65535}."""
        raise NotImplementedError

    def gives_away(self, text: str) -> bool:
        """Whether, of a secret kind, C{text} holds a secret indeed."""
        return bool(text)

    def read(self, node: Node, path: str, scope: Scope) -> T:
        """@raise SettingsError: C{node} does not hold such a value."""
        raise NotImplementedError

    def rows(self, path: str, value: T) -> Iterator[tuple[str, str]]:
        """Each part of C{value} with its own path, as texts."""
        raise NotImplementedError


class ScalarKind(Kind[T]):
    """A kind whose values are written as one text."""

    holds_host: ClassVar[bool] = False

    def parse(self, text: str) -> T:
        """@raise Unfit: C{text} is no such value."""
        raise NotImplementedError

    def show(self, value: T) -> str:
        """The text that L{parse} reads as C{value}; for a secret its length and short hash."""
        return str(value)

    def read(self, node: Node, path: str, scope: Scope) -> T:
        if not isinstance(node, Scalar):
            raise wrong(self.label.split(",")[0], node, path)
        try:
            text = node.text
            if node.expands:
                text = scope.variables.expand(text, secret=self.secret, host=self.holds_host)
            value = self.parse(text)
        except Unfit as error:
            raise SettingsError([Problem(path, str(error), node.origin)]) from None
        scope.origins[path] = node.origin
        scope.read[path] = value
        return value

    def rows(self, path: str, value: T) -> Iterator[tuple[str, str]]:
        yield path, self.show(value)


@final
@dataclass(frozen=True)
class Text(ScalarKind[str]):
    """Printable text. C{required}: not empty."""

    required: bool = False
    most: int = 1024

    @property
    def label(self) -> str:
        return "text, not empty" if self.required else "text"

    def parse(self, text: str) -> str:
        if not text.isprintable():
            raise Unfit("line breaks and control characters are not allowed")
        if len(text) > self.most:
            raise Unfit(f"longer than {self.most} characters")
        if self.required and not text.strip():
            raise Unfit("must not be empty")
        return text


@final
@dataclass(frozen=True)
class Name(ScalarKind[str]):
    """A name that can stand in a URL or a file's name as it is; may be empty."""

    required: bool = False
    _FORM: ClassVar = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")

    @property
    def label(self) -> str:
        return "name, of letters, digits, '.', '_' and '-'"

    def parse(self, text: str) -> str:
        if (text or self.required) and not self._FORM.fullmatch(text):
            raise unexpected("a name of letters, digits, '.', '_' and '-'", text)
        return text


@final
@dataclass(frozen=True)
class FilePath(ScalarKind[str]):
    """A file's path; may be empty. A leading C{~/} is the home directory."""

    @property
    def label(self) -> str:
        return "path"

    def parse(self, text: str) -> str:
        return Text(most=4096).parse(text)

    def read(self, node: Node, path: str, scope: Scope) -> str:
        text = super().read(node, path, scope)
        return str(scope.home / text[2:]) if text.startswith("~/") else text


@final
@dataclass(frozen=True)
class SecretText(ScalarKind[Secret | None]):
    """A token. White space around it is dropped: files and C{kubectl} add line breaks; empty is none."""

    least: int = 1
    secret: ClassVar[bool] = True
    _FORM: ClassVar = re.compile(r"[!-~]*")

    @property
    def label(self) -> str:
        return "secret"

    def parse(self, text: str) -> Secret | None:
        text = text.strip()
        if not self._FORM.fullmatch(text):
            raise Unfit("holds a space, a control character or one outside ASCII, which no header can carry")
        if 0 < len(text) < self.least:
            raise Unfit(f"shorter than {self.least} characters: such a token can be guessed")
        return Secret(text) if text else None

    def show(self, value: Secret | None) -> str:
        return "(none)" if value is None else str(value)


@final
@dataclass(frozen=True)
class GrantText(ScalarKind[Grant]):
    """A scope."""

    @property
    def label(self) -> str:
        return "scope"

    def parse(self, text: str) -> Grant:
        try:
            return Grant.parse(text)
        except ValueError as error:
            raise Unfit(str(error)) from None

    def show(self, value: Grant) -> str:
        return value.text


@final
@dataclass(frozen=True)
class Boolean(ScalarKind[bool]):
    """Yes or no, in the words of YAML and of environments."""

    _WORDS: ClassVar[Mapping[str, bool]] = {
        **dict.fromkeys(("true", "yes", "on", "1"), True),
        **dict.fromkeys(("false", "no", "off", "0"), False),
    }

    @property
    def label(self) -> str:
        return "true or false"

    def parse(self, text: str) -> bool:
        try:
            return self._WORDS[text.lower()]
        except KeyError:
            raise unexpected("true or false", text) from None

    def show(self, value: bool) -> str:
        return "true" if value else "false"


@final
@dataclass(frozen=True)
class Integer(ScalarKind[int]):
    """A whole number in decimal; a leading zero is refused, since YAML once read it as octal."""

    least: int
    most: int
    unit: str = ""
    _FORM: ClassVar = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")

    @property
    def label(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return f"integer, {self.least} to {self.most}{unit}"

    def parse(self, text: str) -> int:
        if not self._FORM.fullmatch(text) or not self.least <= int(text) <= self.most:
            expected = f"an integer from {self.least} to {self.most}"
            if text.startswith("tcp://"):
                # PIPEOPS_PORT is also what Kubernetes sets for a Service of the name "pipeops".
                raise Unfit(
                    f"expected {expected}, got {shown(text)}: set by Kubernetes for a Service of that"
                    " name; rename the Service or set enableServiceLinks: false in the pod"
                )
            raise unexpected(expected, text)
        return int(text)


@final
@dataclass(frozen=True)
class Duration(ScalarKind[float]):
    """Seconds, written as Go writes durations."""

    least: float = 0.001

    @property
    def label(self) -> str:
        return f"duration, at least {format_duration(self.least)}" if self.least else "duration, may be 0"

    def parse(self, text: str) -> float:
        try:
            seconds = parse_duration(text)
        except ValueError as error:
            raise Unfit(f"{error}, got {shown(text)}") from None
        if seconds < self.least:
            raise Unfit(f"must be at least {format_duration(self.least)}, got {shown(text)}")
        return seconds

    def show(self, value: float) -> str:
        return format_duration(value)


@final
@dataclass(frozen=True)
class OptionalDuration(ScalarKind[float | None]):
    """A duration that another setting stands in for while it is unset."""

    instead: str
    least: float = 0.001

    @property
    def label(self) -> str:
        return Duration(self.least).label

    def parse(self, text: str) -> float | None:
        return Duration(self.least).parse(text)

    def show(self, value: float | None) -> str:
        return f"as {self.instead}" if value is None else format_duration(value)


@final
@dataclass(frozen=True)
class Choice(ScalarKind[str]):
    """One of a few words, in any case. C{synonyms} are read as the words that they mean."""

    words: tuple[str, ...]
    synonyms: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return " or ".join(self.words)

    def parse(self, text: str) -> str:
        word = self.synonyms.get(text.lower(), text.lower())
        if word not in self.words:
            raise unexpected(self.label, text)
        return word


@dataclass(frozen=True)
class About:
    """
    What is known of a setting beside its name, type and default.

    @ivar text: one or more sentences for the documentation.
    @ivar live: a changed value takes effect at SIGHUP; else it needs a restart.
    @ivar option: the name of its command line option, without dashes; None: it has none.
    @ivar variable: its environment variable where that is not the one by rule.
    """

    text: str
    kind: Kind[Any]
    live: bool = False
    option: str | None = None
    variable: str | None = None
