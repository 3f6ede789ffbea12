"""What the tests of the file store share."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.state import (
    Disk,
    FileStateStore,
    State,
    Stored,
    Unavailable,
)


def wall() -> datetime:
    """A moment that does not pass."""
    return datetime(2025, 10, 15, 8, 0, 0, tzinfo=UTC)


class BrokenDisk(Disk):
    """A disk on which nothing can be opened while C{error} is set."""

    def __init__(self) -> None:
        self.error: int | None = None

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error), str(path))
        return super().open(path, flags, mode)


class FileTestCase(SynchronousTestCase):
    """A file store in a directory of its own."""

    def setUp(self) -> None:
        self.home = Path(self.mktemp())
        self.home.mkdir()
        self.path = self.home / "pipeops" / "state.json"

    def store(self, disk: Disk | None = None) -> FileStateStore:
        return FileStateStore(self.path, wall=wall, disk=disk)

    def load(self, disk: Disk | None = None) -> Stored:
        stored: Stored = self.successResultOf(self.store(disk).load())
        return stored

    def save(self, state: State, version: str, disk: Disk | None = None) -> Stored:
        stored: Stored = self.successResultOf(self.store(disk).save(state, version))
        return stored

    def unavailable(self, disk: Disk | None = None) -> str:
        """The sentence with which loading is refused."""
        return str(self.failureResultOf(self.store(disk).load(), Unavailable).value)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.parent.iterdir())
