"""
The way out of a carrier: messages are put together where they are sent from.

Whoever sends asks for L{Outbox.room}, fills it, perhaps asks for more, and says L{Outbox.flush}. The headers
of the frames are written into space kept free before each message, the payload is masked where it lies,
and everything goes to the connection in one piece: a byte is copied into the kernel, and nowhere before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pipeops_agent.tunnel.frames import BINARY, frame_in_place, header_size

FIRST: Final = 4096
SPLIT_FROM: Final = 8192
"""
A longer packet goes out as two messages, the first of L{FIRST} bytes: Go's SSH reader asks for 4,096 bytes
first, and what else a message holds chisel copies into a new buffer before it is read.
"""

CAPACITY: Final = 72 * 1024
"""Bytes that are put together before they are sent: two packets of the usual 32 KiB."""


class Outbox:
    """
    Messages between L{room} and L{flush}.

    @param send: takes frames, and does not keep them: the buffer is used again. It may come back here when
        it has taken them: a connection that is full pauses who writes, and an answer may be due at once.
    @param masked: whether this side is the client.
    """

    def __init__(self, send: Callable[[memoryview], None], *, masked: bool) -> None:
        self._send = send
        self._masked = masked
        self._buffer = memoryview(bytearray(CAPACITY))
        self._end = 0
        self._begin = 0
        self._opcode = BINARY
        self._unframed = False

    def room(self, size: int, opcode: int = BINARY) -> memoryview:
        """Return the place of the next message, to be filled before anything else is asked here."""
        self._frame()
        masked = self._masked
        if size > SPLIT_FROM:
            head = header_size(FIRST, masked=masked) + header_size(size - FIRST, masked=masked)
        else:
            head = header_size(size, masked=masked)
        if self._end + head + size > len(self._buffer):
            self.flush()
            if head + size > len(self._buffer):
                self._buffer = memoryview(bytearray(head + size))
        self._begin = self._end + head
        self._end = self._begin + size
        self._opcode = opcode
        self._unframed = True
        return self._buffer[self._begin : self._end]

    def flush(self) -> None:
        """Send all messages."""
        self._frame()
        end, self._end = self._end, 0
        if end:
            self._send(self._buffer[:end])

    def _frame(self) -> None:
        """Make frames of the message that was filled last."""
        if not self._unframed:
            return
        self._unframed = False
        buffer, begin, end = self._buffer, self._begin, self._end
        if end - begin > SPLIT_FROM:
            split = begin + FIRST
            gap = header_size(end - split, masked=self._masked)
            buffer[begin - gap : split - gap] = buffer[begin:split]
            frame_in_place(buffer, begin - gap, split - gap, self._opcode, masked=self._masked)
            begin = split
        frame_in_place(buffer, begin, end, self._opcode, masked=self._masked)
