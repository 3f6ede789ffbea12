"""
The state in a file of its own.

Writing: a lock on C{state.json.lock} against other processes; the new content into C{.state.json.new},
synced; renamed over C{state.json}; the directory synced. So at any moment C{state.json} is whole, the old
one or the new one.

The calls are made on the reactor's thread: one small file, a handful of times in the life of an agent.
A thread would bring what is worse than a short wait: a write that goes on after the agent has stopped.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twisted.logger import Logger

from pipeops_agent.clock import WallClock
from pipeops_agent.state.codec import (
    CONTENT_LIMIT,
    EMPTY_VERSION,
    Damaged,
    NewerFormat,
    content_version,
    decode_state,
    encode_state,
)
from pipeops_agent.state.disk import Disk, look, read_private
from pipeops_agent.state.hold import Hold
from pipeops_agent.state.model import Conflict, State, Stored, Unavailable

_log = Logger(namespace="state")


class _Busy(Exception):
    """Another process is writing at this moment."""


class FileStateStore:
    """
    Keeps the state in a file of mode 0600 (L{StateStore}).

    @param path: the file, or what finds it (L{pipeops_agent.state.find_state_file}): then that is asked at
        the first call, and again until it answers instead of raising L{Unavailable}.
    @param wall: dates what is set aside.
    """

    def __init__(self, path: Path | Callable[[], Path], *, wall: WallClock, disk: Disk | None = None) -> None:
        self._find = path if callable(path) else None
        self._found = path if isinstance(path, Path) else None
        self._wall = wall
        self._disk = disk or Disk()
        self._hold = Hold(self._disk)

    def describe(self) -> str:
        return "a file that is not found yet" if self._found is None else f"the file {self._found}"

    def hold(self) -> bool:
        """
        Show that an agent lives by this state, until L{let_go} or the end of the process.

        @return: False where another agent does so already.
        @raise Unavailable: there is no place for a state.
        """
        return self._hold.take(self._path())

    def let_go(self) -> None:
        """The agent has ended."""
        self._hold.release()

    async def load(self) -> Stored:
        path = self._path()
        try:
            return self._understand(path, self._read(path))
        except Damaged:
            # Perhaps read while somebody without our lock was writing, perhaps repaired by now: look again.
            return self._load_damaged(path)

    async def save(self, state: State, version: str) -> Stored:
        path = self._path()
        content = encode_state(state)
        try:
            with _explained(path, "written"):
                self._make_directory(path.parent)
            with self._locked(path):
                if content_version(self._read(path)) != version:
                    raise Conflict(f"{path} has changed since it was read")
                with _explained(path, "written"):
                    self._replace(path, content)
        except _Busy:
            raise Conflict(f"another process is writing {path}") from None
        return Stored(state, content_version(content))

    async def reset(self) -> None:
        path = self._path()
        with _explained(path, "looked at"):
            found = look(self._disk, path)
        if found is None:
            return
        if found.st_uid != self._disk.euid():
            # Root could all the same, but would leave a lock behind that the agent itself can't open.
            raise Unavailable(f"{path} belongs to user {found.st_uid}; run this as that user")
        hold = Hold(self._disk)
        if not hold.take(path):
            raise Unavailable("an agent is running with it; stop that one first")
        try:
            with self._locked(path), _explained(path, "set aside"):
                kept = self._move_aside(path, "reset")
        except _Busy:
            raise Unavailable(f"another process is writing {path}") from None
        finally:
            hold.release()
        _log.info("the state was reset as told; the old one is kept in {kept}", kept=str(kept))

    def _path(self) -> Path:
        if self._found is None:
            assert self._find is not None
            self._found = self._find()
        return self._found

    def _read(self, path: Path) -> bytes | None:
        with _explained(path, "read"):
            return read_private(self._disk, path, CONTENT_LIMIT)

    def _understand(self, path: Path, content: bytes | None) -> Stored:
        try:
            return Stored(None if content is None else decode_state(content), content_version(content))
        except NewerFormat as newer:
            raise Unavailable(
                f"{path} was written by a newer agent ({newer}); "
                "run that one, or become a new agent with --reset-state"
            ) from None

    def _load_damaged(self, path: Path) -> Stored:
        try:
            with self._locked(path):
                try:
                    return self._understand(path, self._read(path))
                except Damaged as damage:
                    reason = str(damage)
                with _explained(path, f"set aside, and it is damaged ({reason})"):
                    kept = self._move_aside(path, "damaged")
        except _Busy:
            raise Unavailable(f"{path} is being written by another process") from None
        _log.error(
            "the state file was damaged and is set aside, so this agent has forgotten who it is; "
            "to be the same agent again, stop it, repair {kept} and move it back to {path}",
            kept=str(kept),
            path=str(path),
            reason=reason,
        )
        return Stored(None, EMPTY_VERSION, f"{path} was damaged ({reason}) and is kept as {kept.name}")

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """
        Keep other processes from writing.

        @raise _Busy: one is writing.
        @raise Unavailable: the lock can't be had at all.
        """
        lock = path.with_name(f"{path.name}.lock")
        with _explained(lock, "opened"):
            fd = self._disk.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        try:
            with _explained(lock, "locked"):
                try:
                    self._disk.lock(fd)
                except BlockingIOError:
                    raise _Busy from None
            yield
        finally:
            self._disk.close(fd)

    def _make_directory(self, directory: Path) -> None:
        missing: list[Path] = []
        while look(self._disk, directory) is None:
            missing.append(directory)
            directory = directory.parent
        for new in reversed(missing):
            with suppress(FileExistsError):
                self._disk.mkdir(new)
            self._sync_directory(new.parent)

    def _replace(self, path: Path, content: bytes) -> None:
        new = path.with_name(f".{path.name}.new")
        with suppress(FileNotFoundError):
            self._disk.unlink(new)  # left by one that died; we hold the lock, so nobody is writing it
        try:
            self._write_new(new, content)
            self._disk.rename(new, path)
        except OSError:
            with suppress(OSError):
                self._disk.unlink(new)
            raise
        self._sync_directory(path.parent)

    def _write_new(self, path: Path, content: bytes) -> None:
        fd = self._disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
        try:
            rest = content
            while rest:
                rest = rest[self._disk.write(fd, rest) :]
            # Without this the rename could reach the disk before the content does.
            self._disk.fsync(fd)
        finally:
            self._disk.close(fd)

    def _move_aside(self, path: Path, why: str) -> Path:
        """Rename C{path} to a name that is free; the caller holds the lock."""
        stem = f"{path.name}.{why}-{self._wall():%Y%m%dT%H%M%SZ}"
        kept, count = path.with_name(stem), 1
        while look(self._disk, kept) is not None:
            kept, count = path.with_name(f"{stem}-{count}"), count + 1
        self._disk.rename(path, kept)
        self._sync_directory(path.parent)
        return kept

    def _sync_directory(self, directory: Path) -> None:
        fd = self._disk.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._disk.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some network file systems can't sync a directory, and need not
                raise
        finally:
            self._disk.close(fd)


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """Turn what the system says into L{Unavailable}: "<path> can't be <what>: <reason>"."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        if error.errno == errno.ELOOP:
            reason = "it is a symbolic link, which is not followed"
        raise Unavailable(
            f"{path} can't be {what}: {reason}; mend that, or name another file with agent.state_file"
        ) from error
