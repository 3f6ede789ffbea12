"""
The settings file, from the disk: trusted no more than its owner, and bounded.
"""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeops_agent.settings.nodes import Mapping
from pipeops_agent.settings.parsing import parse
from pipeops_agent.settings.problems import Origin, Problem, SettingsError

MAX_BYTES: Final = 256 * 1024
"""Of a settings file. The largest that anyone needs is a hundredth of it."""


@dataclass(frozen=True)
class Document:
    """
    A settings file that has been read.

    @ivar root: its mapping; None: it is empty.
    @ivar readable_by_others: whether users other than its owner and group may read it.
    """

    path: Path
    name: str
    root: Mapping | None
    readable_by_others: bool


def read_document(path: Path, name: str, uid: int, place: Origin | None = None) -> Document:
    """
    Read the settings file at C{path}.

    @param name: the file as the user knows it, for places.
    @param uid: the user that the process runs as.
    @param place: what named the file, for the errors of a file that can't be opened.
    @raise SettingsError: it can't be read, isn't trusted, or holds no mapping.
    """
    try:
        # Not blocking: a named pipe would wait for its writer before we can see that it is one.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a path"
        raise SettingsError([Problem(name, f"can't be read: {reason}", place)]) from None
    try:
        status = os.fstat(descriptor)
        _distrust(status, name, uid, place)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError([Problem(name, f"can't be read: {error.strerror}", place)]) from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise SettingsError([Problem(name, f"larger than {MAX_BYTES // 1024} KiB", place)])
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError([Problem(name, "not UTF-8", Origin("file", name, line))]) from None
    root = parse(text, Origin("file", name, 1), expands=True)
    if root is not None and not isinstance(root, Mapping):
        raise SettingsError([Problem(name, "expected a mapping of sections", root.origin)])
    return Document(path, name, root, bool(status.st_mode & stat.S_IROTH))


def _distrust(status: os.stat_result, name: str, uid: int, place: Origin | None) -> None:
    """@raise SettingsError: the file is none, or somebody else could have written it."""
    if not stat.S_ISREG(status.st_mode):
        raise SettingsError([Problem(name, "not a regular file", place)])
    quoted = shlex.quote(name) if not name.startswith("~/") else name
    problems = []
    if status.st_uid not in (0, uid):
        reason = f"owned by user {status.st_uid}, who is neither root nor the user that runs the agent"
        problems.append(Problem(name, f"{reason}; if you trust its content: chown {uid} {quoted}", place))
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason = f"can be written by others than its owner (mode {stat.S_IMODE(status.st_mode):04o})"
        problems.append(Problem(name, f"{reason}; chmod go-w {quoted}", place))
    if problems:
        raise SettingsError(problems)
