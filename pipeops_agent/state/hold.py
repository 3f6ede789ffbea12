"""That an agent lives by a state, for whoever wants to take it away or to live by it as well."""

from __future__ import annotations

import os
from pathlib import Path

from pipeops_agent.state.disk import Disk


class Hold:
    """
    An agent's hold on a state file: a lock on C{state.json.agent} beside it, for as long as it lives.

    The system takes the lock back when the process ends, however it ends; the empty file stays. It is not
    the lock for writing, which is held for a moment only.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._fd: int | None = None

    def take(self, path: Path) -> bool:
        """
        Hold C{path} from now on, until L{release}.

        @return: False where another agent holds it. Where no lock can be had (a read-only place, a file
            system without locks) nobody can be known to, and nobody is kept from anything.
        """
        if self._fd is not None:
            return True
        try:
            fd = self._disk.open(path.with_name(f"{path.name}.agent"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        except OSError:
            return True
        try:
            self._disk.lock(fd)
        except OSError as error:
            self._disk.close(fd)
            return not isinstance(error, BlockingIOError)
        self._fd = fd
        return True

    def release(self) -> None:
        """Let go, where it is held."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._disk.close(fd)
