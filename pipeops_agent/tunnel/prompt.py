"""
Writing to a TCP connection, and closing it, at once instead of in the reactor's next turn.

Twisted's C{write} only appends to a buffer and asks the reactor to call back when the socket is
writable. Where nothing waits in that buffer the kernel takes the data just as well now, and two turns of
the reactor and two system calls are saved. What the kernel does not take goes the usual way, so order,
backpressure and errors stay Twisted's.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure

BUFFER: Final = 256 * 1024
"""Bytes read at once, and bytes that may wait to be written before the producer is paused."""

_DONE: Final = Failure(ConnectionDone())
"""One for all, as Twisted has it: it has no traceback that could keep anything alive."""


def tune(transport: Any) -> None:
    """Make a TCP connection send small packets at once, and read large pieces."""
    transport.setTcpNoDelay(True)
    if _is_tcp(transport):
        transport.bufferSize = BUFFER


def write_now(transport: Any, data: bytes | bytearray) -> None:
    """Write C{data}: to the kernel now, where nothing waits before it, else as Twisted does."""
    if _is_tcp(transport) and _is_open(transport) and not (transport.dataBuffer or transport._tempDataBuffer):
        sent = transport.writeSomeData(data)
        # Anything but a number is the loss of the connection; the usual way reports it.
        if isinstance(sent, int) and sent > 0:
            if sent == len(data):
                return
            data = data[sent:]
    transport.write(bytes(data))


def close_now(transport: Any) -> None:
    """Close after what waits to be sent: now, where nothing does, else as Twisted does."""
    if (
        _is_tcp(transport)
        and _is_open(transport)
        and not (transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting)
    ):
        transport.connectionLost(_DONE)
    else:
        transport.loseConnection()


def _is_tcp(transport: Any) -> bool:
    """
    Whether C{transport} is Twisted's own TCP connection.

    By its class, not by its methods: TLS passes on what it does not know to the connection below, and what
    should have been encrypted would go out in the clear.
    """
    return isinstance(transport, Connection) and not transport.TLS


def _is_open(transport: Any) -> bool:
    """Whether a TCP connection may be written to: neither gone nor being aborted."""
    return bool(transport.connected) and not transport._aborting
