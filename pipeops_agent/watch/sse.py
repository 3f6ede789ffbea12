"""Server-sent events: bytes in, events out (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

MAX_EVENT: Final = 1024 * 1024
"""Bytes of one event."""

_END: Final = re.compile(rb"\r\n|\n|\r")


class EventTooLong(Exception):
    """An event is longer than L{MAX_EVENT}: this is no agent's."""


class ServerEvent(msgspec.Struct, frozen=True):
    """
    One event.

    @ivar id: where to go on behind it; empty: that is not known.
    """

    name: str
    data: str
    id: str


class EventParser:
    """
    Takes bytes as they come.

    @ivar last_id: that of the last event, to be shown after a cut.
    @ivar retry: milliseconds after which to come again, where the sender has said so.
    """

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self._rest = b""
        self._size = 0
        self._begin()

    def _begin(self) -> None:
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[ServerEvent]:
        """
        The events that C{data} completes.

        @raise EventTooLong: there is no end to one.
        """
        data = self._rest + data
        start = 0
        for end in _END.finditer(data):
            if end.end() == len(data) and end[0] == b"\r":
                break  # a line feed that belongs to it may come yet
            event = self._line(data[start : end.start()])
            start = end.end()
            if event is not None:
                yield event
        self._rest = data[start:]
        self._check(len(self._rest))

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            return self._complete()
        self._size += len(line)
        self._check(0)
        name, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        if name == b"data":
            self._data.append(text)
        elif name == b"event":
            self._name = text
        elif name == b"id" and "\0" not in text:
            self.last_id = text
        elif name == b"retry" and text.isascii() and text.isdigit() and len(text) < 10:
            self.retry = int(text)
        return None

    def _complete(self) -> ServerEvent | None:
        event = ServerEvent(self._name or "message", "\n".join(self._data), self.last_id)
        there = bool(self._data)
        self._begin()
        return event if there else None

    def _check(self, more: int) -> None:
        if self._size + more > MAX_EVENT:
            raise EventTooLong(f"an event of more than {MAX_EVENT} bytes")

    def cut(self) -> None:
        """The connection is gone: what was begun is dropped; where to go on is kept."""
        self._rest = b""
        self._begin()
