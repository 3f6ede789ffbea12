"""
What runs on a WebSocket to a pod: a command or a container's main process, and forwarded ports.

The first byte of each message is its channel (C{v4.channel.k8s.io}, C{v5.channel.k8s.io}).
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.cluster.errors import (
    NOT_JSON,
    ApiStatus,
    ClusterError,
    StatusError,
    Unreachable,
    printable,
)
from pipeops_agent.cluster.socket import ApiSocket, SocketClosed
from pipeops_agent.scheduling import DeadlineExceeded, bounded

V4: Final = "v4.channel.k8s.io"
V5: Final = "v5.channel.k8s.io"

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
ERROR: Final = 3
RESIZE: Final = 4
CLOSE: Final = 255
"""Of v5: its one byte names the channel on which nothing follows."""

PIECE: Final = 32 * 1024
"""Bytes that are sent in one message at most."""

MAX_STATUS: Final = 64 * 1024
"""Bytes that the final status may have."""

FAREWELL: Final = 5.0
"""Seconds that the server has to close the connection once it has told the end."""

_STATUS: Final = msgspec.json.Decoder(ApiStatus)
_STREAMS: Final[dict[int, Literal["stdout", "stderr"]]] = {STDOUT: "stdout", STDERR: "stderr"}


class StreamCut(ClusterError):
    """The connection was lost before the end was told: whether what ran has succeeded is not known."""


class Chunk(msgspec.Struct, frozen=True):
    """Bytes that a process has written."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class Exit(msgspec.Struct, frozen=True):
    """
    How a command ended, as the server's final status tells it.

    @ivar code: its exit code; 0 is success.
    """

    code: int
    message: str = ""


class ExecSession:
    """
    A process in a container: a command (exec), or its main one (attach).

    @ivar exit: how it ended; None: it has not, or that is not known.
    """

    def __init__(self, clock: IReactorTime, socket: ApiSocket, what: str) -> None:
        self._clock = clock
        self._socket = socket
        self._what = what
        self._status = b""
        self._final: ApiStatus | None = None
        self.exit: Exit | None = None

    async def read(self) -> list[Chunk]:
        """
        What the process has written, at least one chunk; none: it has ended, and L{exit} says how.

        One read at a time. Cancelling one loses nothing.

        @raise StreamCut: the connection was lost before the end was told, or closed by this side.
        @raise StatusError: the server says that the process could not be run, or what became of it.
        """
        while self.exit is None:
            try:
                messages = await self._receive()
            except SocketClosed as closed:
                self._conclude(str(closed))
                break
            except DeadlineExceeded:
                self._conclude("")
                break
            chunks = [chunk for message in messages for chunk in self._chunks(message)]
            if chunks:
                return chunks
        return []

    async def write(self, data: bytes) -> None:
        """
        Write to its stdin; returns when the connection takes more.

        @raise StreamCut: the connection is gone.
        """
        for start in range(0, len(data), PIECE):
            await self._send(STDIN, data[start : start + PIECE])

    async def close_stdin(self) -> None:
        """
        Tell it that nothing more comes on stdin.

        @raise ClusterError: this API server does not know how (before Kubernetes 1.30).
        """
        if self._socket.subprotocol != V5:
            raise ClusterError(f"{self._what}: this API server can't close stdin alone ({V4})")
        await self._send(CLOSE, bytes((STDIN,)))

    async def resize(self, columns: int, rows: int) -> None:
        """Tell it the size of the terminal."""
        await self._send(RESIZE, msgspec.json.encode({"Width": columns, "Height": rows}))

    def close(self) -> None:
        """End the connection. A command is not killed by that: the runtime closes its streams."""
        self._socket.close()

    async def _receive(self) -> list[bytes]:
        if self._final is None:
            return await self._socket.receive()
        return await bounded(self._clock, FAREWELL, self._socket.receive(), "the end of a stream")

    async def _send(self, channel: int, data: bytes) -> None:
        try:
            await self._socket.send(bytes((channel,)) + data)
        except SocketClosed as closed:
            raise self._cut(str(closed)) from closed

    def _chunks(self, message: bytes) -> list[Chunk]:
        channel, data = message[:1], message[1:]
        if not data:
            return []  # servers open each channel with an empty message
        stream = _STREAMS.get(channel[0])
        if stream is not None:
            return [Chunk(stream, data)]
        if channel[0] == ERROR:
            self._note_status(data)
        return []

    def _note_status(self, data: bytes) -> None:
        if self._final is not None:
            return
        self._status += data[: MAX_STATUS - len(self._status)]
        try:
            self._final = _STATUS.decode(self._status)
        except NOT_JSON:
            self._final = None  # the rest of it is in the next message

    def _conclude(self, why: str) -> None:
        """No more comes: what the final status says is how it ended."""
        self._socket.close()
        final = self._final
        if final is None or final.status not in ("Success", "Failure"):
            raise self._cut(why)
        code = _exit_code(final)
        if code is None:
            raise StatusError(self._what, final.code or 500, reason=final.reason, message=final.message)
        self.exit = Exit(code, printable(final.message))

    def _cut(self, why: str) -> StreamCut:
        known = "so how it ended, or whether it has, is not known"
        return StreamCut(
            f"{self._what}: the connection ended before the command's end was told ({why}), {known}"
        )


def _exit_code(final: ApiStatus) -> int | None:
    """The exit code that a final status tells; None: it tells of another failure."""
    if final.status == "Success":
        return 0
    for cause in () if final.details is None else final.details.causes:
        if cause.reason == "ExitCode" and cause.message.isascii() and cause.message.isdigit():
            return int(cause.message[:9])
    return None


class PortForward:
    """
    One connection to a port of a pod: bytes both ways.

    Over WebSockets neither side can end its direction alone; L{close} ends both.
    """

    def __init__(self, socket: ApiSocket, what: str) -> None:
        self._socket = socket
        self._what = what
        self._begun: set[int] = set()
        self._complaint = b""
        self._over = False

    async def read(self) -> bytes:
        """
        What has come, as soon as there is anything; none: the pod's side has closed it.

        One read at a time. Cancelling one loses nothing.

        @raise StreamCut: the connection was lost.
        @raise ClusterError: the node could not connect to the port; the text says why.
        """
        while not self._over:
            try:
                messages = await self._socket.receive()
            except SocketClosed as closed:
                self._over = True
                self._check()
                if not closed.clean:
                    raise StreamCut(f"{self._what}: {closed}") from closed
                break
            data = b"".join(map(self._data, messages))
            if data:
                return data
        self._check()
        return b""

    async def write(self, data: bytes) -> None:
        """
        Send C{data}; returns when the connection takes more.

        @raise StreamCut: it is gone.
        """
        try:
            for start in range(0, len(data), PIECE):
                await self._socket.send(b"\0" + data[start : start + PIECE])
        except SocketClosed as closed:
            raise StreamCut(f"{self._what}: {closed}") from closed

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def _data(self, message: bytes) -> bytes:
        channel, data = message[0] if message else -1, message[1:]
        if channel not in self._begun:
            self._begun.add(channel)
            return b""  # the port, in two bytes: which is known
        if channel == 1:
            self._complaint += data[: MAX_STATUS - len(self._complaint)]
        return data if channel == 0 else b""

    def _check(self) -> None:
        if self._complaint:
            raise Unreachable(f"{self._what}: {printable(self._complaint.decode('utf-8', 'replace'))}")
