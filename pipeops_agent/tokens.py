"""
Where the API token comes from.

A source is asked at each use, so that a rotated token is used from the next call on, without a restart.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from twisted.logger import Logger

from pipeops_agent.secrets import Secret

FILE_LIMIT: Final = 64 * 1024
"""The bytes that a token file may have."""

_log = Logger(namespace="controlplane")


class TokenSource(Protocol):
    """Gives the present token."""

    def current(self) -> Secret | None:
        """The token to use now; None: there is none."""
        ...

    def refresh(self) -> bool:
        """
        Look again, because the token was refused.

        @return: whether the token is another one now, so that it is worth trying again.
        """
        ...

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call C{callback} whenever another token was found; the result, called, ends that."""
        ...


class _Listeners:
    """Who wants to be told."""

    def __init__(self) -> None:
        self._callbacks: dict[object, Callable[[], None]] = {}

    def add(self, callback: Callable[[], None]) -> Callable[[], None]:
        key = object()
        self._callbacks[key] = callback

        def remove() -> None:
            self._callbacks.pop(key, None)

        return remove

    def tell(self) -> None:
        for key, callback in tuple(self._callbacks.items()):
            if key not in self._callbacks:
                continue  # removed by one that was told before it
            try:
                callback()
            except Exception:
                _log.failure("a listener for token changes failed")


class SettingsToken:
    """The token of the settings or of the environment: the same for as long as those are (L{TokenSource})."""

    def __init__(self, secret: Secret | None) -> None:
        self._secret = secret or None
        self._listeners = _Listeners()

    def current(self) -> Secret | None:
        return self._secret

    def refresh(self) -> bool:
        return False

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._listeners.add(callback)

    def replace(self, secret: Secret | None) -> None:
        """Use C{secret} from now on: the settings were read again."""
        before, self._secret = self._secret, secret or None
        if self._secret != before:
            self._listeners.tell()


class _Unusable(Exception):
    """The token can't be taken from the file; the message says why, without quoting it."""


class FileToken:
    """
    The token in a file, such as a mounted Secret (L{TokenSource}).

    The file is looked at whenever the token is asked for, and read when it is not the one of last time:
    also where a symbolic link on the way to it was turned, as Kubernetes does. While it can't be used, the
    last good token is; that is reported once for each reason.

    The calls are made on the reactor's thread: one C{stat} of a local file at each use.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listeners = _Listeners()
        self._secret: Secret | None = None
        self._seen: tuple[int, ...] | None = None
        self._problem: str | None = None
        self._look(again=True)

    @property
    def problem(self) -> str | None:
        """Why the file can't be used now; None: it can."""
        return self._problem

    def current(self) -> Secret | None:
        self._look(again=False)
        return self._secret

    def refresh(self) -> bool:
        return self._look(again=True)

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._listeners.add(callback)

    def _look(self, *, again: bool) -> bool:
        """Read the file if it has changed, or C{again}; return whether the token is another now."""
        try:
            if not again and self._problem is None and _identity(self._path.stat()) == self._seen:
                return False
            self._seen, secret = _read_token(self._path)
        except (OSError, _Unusable) as error:
            self._report(error)
            return False
        if self._problem is not None:
            _log.info("the token file {path} can be used again", path=str(self._path))
            self._problem = None
        if secret == self._secret:
            return False
        first, self._secret = self._secret is None, secret
        if not first:
            _log.info("the token in {path} has changed", path=str(self._path), fingerprint=secret.fingerprint)
        self._listeners.tell()
        return True

    def _report(self, error: OSError | _Unusable) -> None:
        problem = error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
        if problem == self._problem:
            return
        self._problem = problem
        if self._secret is None:
            _log.error(
                "the token file {path} can't be used: {problem}", path=str(self._path), problem=problem
            )
        else:
            _log.warn(
                "the token file {path} can't be used: {problem}; the token read before stays in use",
                path=str(self._path),
                problem=problem,
            )


class LiveToken:
    """
    A source that can be exchanged for another while the agent runs (L{TokenSource}).

    It is what the users of the token hold: settings that were read again may name a file instead of a token.
    """

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._listeners = _Listeners()
        self._unsubscribe = source.on_change(self._listeners.tell)

    def current(self) -> Secret | None:
        return self._source.current()

    def refresh(self) -> bool:
        return self._source.refresh()

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._listeners.add(callback)

    def replace(self, source: TokenSource) -> None:
        """Ask C{source} from now on; the listeners are told where it has another token."""
        before = self._source.current()
        self._unsubscribe()
        self._source = source
        after = source.current()
        self._unsubscribe = source.on_change(self._listeners.tell)
        if after != before:
            self._listeners.tell()


def _identity(found: os.stat_result) -> tuple[int, ...]:
    """What differs when the file was replaced or written: the link's target counts, not the link."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _read_token(path: Path) -> tuple[tuple[int, ...], Secret]:
    """
    The token in C{path}, and which file it was read from.

    @raise OSError: as the system says.
    @raise _Unusable: there is no usable token in it.
    """
    # O_NONBLOCK: opening a named pipe would wait for a writer for ever.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise _Unusable("it is not a regular file")
        content = file.read(FILE_LIMIT + 1)
    if len(content) > FILE_LIMIT:
        raise _Unusable(f"it is longer than {FILE_LIMIT} bytes")
    # A byte order mark is what some editors put before everything.
    token = content.removeprefix(b"\xef\xbb\xbf").strip()
    if not token:
        raise _Unusable("it is empty")
    if not all(0x21 <= byte <= 0x7E for byte in token):
        raise _Unusable(
            "it holds more than a token: a space, a line break, a control or a non-ASCII character"
        )
    return _identity(found), Secret(token.decode("ascii"))
