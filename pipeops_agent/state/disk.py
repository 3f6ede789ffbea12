"""The system calls of the file store, and reading a private file by them."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from pipeops_agent.state.model import Unavailable

PRIVATE_FILE: Final = 0o600
PRIVATE_DIRECTORY: Final = 0o700
_READ_SIZE: Final = 64 * 1024


class Disk:
    """
    The system calls, one method each and nothing else: a test takes this one's place to let any of them
    fail, or the process die before, in the middle of, or after it.
    """

    def open(self, path: Path, flags: int, mode: int = PRIVATE_FILE) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def read(self, fd: int, size: int) -> bytes:
        return os.read(fd, size)

    def write(self, fd: int, content: bytes) -> int:
        return os.write(fd, content)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def lock(self, fd: int) -> None:
        """
        Lock the open file for us alone, until it is closed.

        @raise BlockingIOError: somebody else has it.
        """
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def mkdir(self, path: Path) -> None:
        path.mkdir(PRIVATE_DIRECTORY)

    def lstat(self, path: Path) -> os.stat_result:
        return path.lstat()

    def may_write(self, directory: Path) -> bool:
        """Whether we may make files in C{directory}, which is not on a read-only file system."""
        return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)

    def euid(self) -> int:
        return os.geteuid()


def look(disk: Disk, path: Path) -> os.stat_result | None:
    """
    What has this name, a symbolic link itself and not its target; None where it is surely free.

    @raise OSError: that can't be known.
    """
    try:
        return disk.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_private(disk: Disk, path: Path, limit: int) -> bytes | None:
    """
    Read a file that must be ours alone: at most C{limit + 1} bytes, so that the caller sees that there
    are more.

    @return: None where there is no such file.
    @raise Unavailable: it is no regular file, another's, or others may read or write it; with the remedy.
    @raise OSError: as the system says.
    """
    # O_NONBLOCK: opening a named pipe would wait for a writer for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = disk.open(path, flags)
    except FileNotFoundError:
        return None
    try:
        _check_private(disk, path, disk.fstat(fd))
        content = b""
        while len(content) <= limit:
            chunk = disk.read(fd, min(_READ_SIZE, limit + 1 - len(content)))
            if not chunk:
                break
            content += chunk
        return content
    finally:
        disk.close(fd)


def _check_private(disk: Disk, path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Unavailable(
            f"{path} is not a regular file; move it away, or name another with agent.state_file"
        )
    if found.st_uid != disk.euid():
        raise Unavailable(
            f"{path} belongs to user {found.st_uid}, and this agent runs as {disk.euid()}; "
            f"run it as that user, or: chown {disk.euid()} {path}"
        )
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise Unavailable(
            f"{path} is open to other users (mode {mode:04o}); "
            f"make sure that its content is yours, then: chmod 600 {path}"
        )
