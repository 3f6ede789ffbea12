"""Where the lines go: stdout, stderr, or a file that another program may move away."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from typing import Final, TextIO

_STREAMS: Final = ("stdout", "stderr")
_FILE_MODE: Final = 0o600
_OPEN_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
"""Non-blocking, so that a named pipe nobody reads is an error and not the end of all service."""


class Sink:
    """
    Writes whole lines to a descriptor. Never raises for a write: a log that can't be written is no
    reason to stop working.

    The streams are C{sys.__stdout__} and C{sys.__stderr__}: C{sys.stdout} is redirected into the log by
    twistd, and writing there would go round for ever.

    @param output: C{stdout}, C{stderr} or a path, made absolute at once: twistd changes its directory.
    @raise OSError: the file can't be opened.
    """

    def __init__(self, output: str) -> None:
        self._path = None if output in _STREAMS else os.path.abspath(output)
        self._fd = self._open_file() if self._path is not None else _descriptor(output)
        self._torn = False
        # A signal's handler runs in the middle of whatever the main thread does, be it a write, and logs too
        # (the reactor's: "Received SIGTERM"): a plain lock would be waited for for ever, by its own holder.
        self._lock = threading.RLock()
        self._writing = False
        self._postponed: deque[bytes] = deque()

    def write(self, line: bytes) -> bool:
        """
        Write one line, newline included; False where it, or a part of it, was lost.

        A line that comes in the middle of another (from a signal's handler) is written after that.
        """
        with self._lock:
            if self._writing:
                self._postponed.append(line)
                return True
            self._writing = True
            try:
                written = self._put(line)
                while self._postponed:
                    self._put(self._postponed.popleft())
            finally:
                self._writing = False
            return written

    def _put(self, line: bytes) -> bool:
        if self._fd is None and self._path is not None:
            return self._write_once(line)
        return self._write(line)

    def reopen(self) -> None:
        """
        Open the file anew, for a log that was rotated. Nothing happens for a stream.

        @raise OSError: it can't be opened; lines go on into the old one.
        """
        if self._path is None:
            return
        opened = self._open_file()
        with self._lock:
            old, self._fd, self._torn = self._fd, opened, False
        if old is not None:
            os.close(old)

    def close(self) -> None:
        """Give the file's descriptor back; a line that still comes opens it for itself alone."""
        if self._path is None:
            return
        with self._lock:
            old, self._fd = self._fd, None
        if old is not None:
            os.close(old)

    def _open_file(self) -> int:
        assert self._path is not None
        return os.open(self._path, _OPEN_FLAGS, _FILE_MODE)

    def _write_once(self, line: bytes) -> bool:
        try:
            self._fd = self._open_file()
        except OSError:
            return False
        try:
            return self._write(line)
        finally:
            os.close(self._fd)
            self._fd = None

    def _write(self, line: bytes) -> bool:
        if self._fd is None:
            return False
        # What is left of a line that could not be finished must not run into this one.
        rest = memoryview(b"\n" + line if self._torn else line)
        began = False
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
                began = True
        except OSError:
            self._torn = self._torn or began
            return False
        self._torn = False
        return True


def _descriptor(stream: str) -> int | None:
    """The descriptor of C{sys.__stdout__} or C{sys.__stderr__}; None where the process has none."""
    opened: TextIO | None = getattr(sys, f"__{stream}__")
    if opened is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        opened.flush()
        return opened.fileno()
    return None
