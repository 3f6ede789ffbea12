"""An answer's body as it comes, pulled: what is not asked for is not read, so the server waits."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss

from pipeops_agent.cluster.errors import BadAnswer

HIGH_WATER: Final = 256 * 1024
"""Bytes that may wait before the connection is paused; one read of the socket may come on top."""


class Cut(Exception):
    """The body ended before its end: the connection was lost, or closed."""


class BodyStream(Protocol):
    """
    A body, read in pieces.

    Give it to C{deliverBody}. Whoever stops reading before the end calls L{abort}.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._paused = False
        self._waiting: Deferred[bytes] | None = None
        self._end: Failure | None = None
        self._over = False

    # -- what the connection tells

    def connectionMade(self) -> None:
        if self._over:
            self._close()

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            return
        self._parts.append(data)
        self._size += len(data)
        if self._waiting is not None:
            self._hand_out()
        elif self._size >= HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pauseProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end = reason
        self._over = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            self._finish(waiting)

    # -- what the reader asks for

    def read(self) -> Deferred[bytes]:
        """
        The bytes that have come since the last time, as soon as there are any; none: the body has ended.

        One read at a time. Cancelling one leaves the stream as it was.

        @raise Cut: through the result; what came before was handed out before it.
        """
        assert self._waiting is None or self._waiting.called, "one read at a time"
        if self._parts:
            return succeed(self._take())
        if self._end is not None:
            waiting: Deferred[bytes] = Deferred()
            self._finish(waiting)
            return waiting
        if self._over:
            return fail(Cut("the stream was given up"))
        self._resume()
        self._waiting = Deferred(self._forget)
        return self._waiting

    def abort(self) -> None:
        """Read no more: the connection is closed, and what has come is dropped."""
        if self._over:
            return
        self._over = True
        self._parts.clear()
        self._size = 0
        self._close()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.errback(Cut("the stream was given up"))

    def _forget(self, _: Deferred[bytes]) -> None:
        self._waiting = None

    def _hand_out(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(self._take())

    def _take(self) -> bytes:
        parts, self._parts = self._parts, []
        self._size = 0
        self._resume()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _finish(self, waiting: Deferred[bytes]) -> None:
        assert self._end is not None
        if self._end.check(ResponseDone, PotentialDataLoss):
            waiting.callback(b"")
        else:
            waiting.errback(Cut(f"the connection was lost: {_reason(self._end)}"))

    def _resume(self) -> None:
        if self._paused and not self._over:
            self._paused = False
            self._transport.resumeProducing()

    def _close(self) -> None:
        if self.transport is not None:
            self._transport.loseConnection()  # which aborts: see net.answers

    @property
    def _transport(self) -> Any:
        assert self.transport is not None
        return self.transport


def _reason(failure: Failure) -> str:
    """Why a body was cut, out of what twisted.web wraps around it."""
    error = failure.value
    while isinstance(error, ResponseFailed) and error.reasons:
        error = error.reasons[0].value
    return str(error)[:200]


class LineReader:
    """
    The lines of a stream, without their ends.

    @param limit: the longest line, in bytes.
    @param what: names the stream in the error.
    """

    def __init__(self, stream: BodyStream, *, limit: int, what: str) -> None:
        self._stream = stream
        self._limit = limit
        self._what = what
        self._begun: list[bytes] = []
        self._size = 0

    async def read(self) -> list[bytes]:
        """
        The lines that are complete now, at least one; none: the stream has ended.

        What follows the last line end when the stream ends is dropped: half an object is none.

        @raise Cut: the stream was cut.
        @raise BadAnswer: a line is too long; the stream was given up.
        """
        while True:
            data = await self._stream.read()
            if not data:
                return []
            lines = self._split(data)
            if self._size > self._limit or any(len(line) > self._limit for line in lines):
                self._stream.abort()
                raise BadAnswer(f"{self._what}: a line is longer than {self._limit} bytes")
            if lines:
                return lines

    def _split(self, data: bytes) -> list[bytes]:
        """The lines that end in C{data}. The pieces of a long one are joined once, at its end."""
        first, end, _ = data.partition(b"\n")
        self._begun.append(first)
        self._size += len(first)
        if not end:
            return []
        *lines, rest = data[len(first) + 1 :].split(b"\n")
        lines.insert(0, b"".join(self._begun))
        self._begun, self._size = [rest], len(rest)
        return lines
