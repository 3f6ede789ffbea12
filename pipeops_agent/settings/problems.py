"""What is wrong with the settings, where it stands, and how a value is shown without giving a secret away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from pipeops_agent.errors import ExitStatus, FatalError

_MAX_SHOWN: Final = 60
"""Characters of a wrong value that an error repeats."""


class Origin(msgspec.Struct, frozen=True):
    """
    Where a value comes from.

    @ivar name: the option, the variable, or the file as the user knows it.
    @ivar line: in a file, counted from 1.
    """

    kind: Literal["sandbox", "option", "variable", "file", "default"]
    name: str = ""
    line: int = 0

    def __str__(self) -> str:
        if self.kind in ("option", "variable"):
            return f"{self.kind} {self.name}"
        if self.kind == "file":
            return f"{self.name} line {self.line}"
        return self.kind


DEFAULT: Final = Origin("default")
SANDBOX: Final = Origin("sandbox")


class Problem(msgspec.Struct, frozen=True):
    """
    One thing that is wrong.

    @ivar path: the setting (C{tunnel.forwards[1].local_addr}), or the file where it is the file's.
    @ivar reason: what was expected and what was found, or what to do; free of secrets.
    @ivar place: where it stands; None where it is missing.
    """

    path: str
    reason: str
    place: Origin | None = None

    def __str__(self) -> str:
        place = "" if self.place is None else f" ({self.place})"
        return f"{self.path}: {self.reason}{place}"


class SettingsError(FatalError):
    """
    The settings can't be used: everything that is wrong with them, at once.

    The readers of values raise it with the problems of their one value; whoever calls several of
    them collects, so that the person who wrote the file corrects it once.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)), ExitStatus.CONFIG)


class Unfit(ValueError):
    """A text does not fit its setting; the message is the reason, free of secrets."""


def shown(text: str) -> str:
    """
    C{text} as an error repeats it: quoted, escaped, shortened.

    What might be a URL with a password or a token in it is not repeated at all.
    """
    if "@" in text or "?" in text:
        return "a text that may hold a password and is not repeated"
    if len(text) > _MAX_SHOWN:
        return f"{text[:_MAX_SHOWN]!r}…"
    return repr(text)


def unexpected(expected: str, text: str) -> Unfit:
    """The error of a text that is not what it should be."""
    return Unfit(f"expected {expected}, got {shown(text)}")
