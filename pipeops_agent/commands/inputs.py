"""What a caller sends for what runs: bytes, to be read one after the other, and the end of them."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred

from pipeops_agent.web.websocket.messages import Input, MessageError

MAX_INPUT: Final = 256 * 1024
"""Bytes that may wait to be taken."""


class InputQueue:
    """
    Takes input as it comes, up to a limit, and gives it out in order.

    @param encoded: it comes in base64.
    @param room: called when everything has been taken, after input was refused for want of room.
    """

    def __init__(self, *, encoded: bool, room: Callable[[], None]) -> None:
        self._encoded = encoded
        self._room = room
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._ended = self._refused = False
        self._reader: Deferred[None] | None = None

    def put(self, given: Input) -> None:
        """
        Take C{given}, the whole of it.

        @raise MessageError: it can't be taken; then nothing of it is.
        """
        if self._ended:
            raise MessageError("not_possible", "the end of the input was sent before")
        data = _decoded(given.data) if self._encoded else given.data.encode("utf-8", "surrogatepass")
        if self._size + len(data) > MAX_INPUT:
            self._refused = True
            message = f"more than {MAX_INPUT} bytes of input would wait: send it again when there is room"
            raise MessageError("input_full", message)
        if data:
            self._waiting.append(data)
            self._size += len(data)
        self._ended = given.eof
        if self._reader is not None and (data or given.eof):
            reader, self._reader = self._reader, None
            reader.callback(None)

    async def read(self) -> bytes:
        """The next bytes, as soon as there are any; none: that was all. Cancelling loses nothing."""
        if not self._waiting and not self._ended:
            if self._refused:
                self._refused = False
                self._room()
            reader: Deferred[None] = Deferred()
            self._reader = reader
            try:
                await reader
            finally:
                self._reader = None
        if not self._waiting:
            return b""
        data = self._waiting.popleft()
        self._size -= len(data)
        return data


def _decoded(text: str) -> bytes:
    """@raise MessageError: it is no base64."""
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MessageError("bad_data", "expected the input in base64") from None
