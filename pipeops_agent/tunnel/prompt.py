"""
Writing to a connection, and closing it, at once instead of in the reactor's next turn.

Twisted's C{write} only appends to a buffer and asks the reactor to call back when the socket is
writable. Where nothing waits in that buffer the kernel takes the data just as well now, and two turns of
the reactor and two system calls are saved. What the kernel does not take goes the usual way, so order,
backpressure and errors stay Twisted's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.tcp import Connection
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

_DONE: Final = Failure(ConnectionDone())
"""One for all, as Twisted has it: it has no traceback that could keep anything alive."""

Write = Callable[[bytes | memoryview], None]
"""Writes, and does not keep what it was given: its buffer may be used again."""


def tune(transport: Any, buffer: int) -> None:
    """
    Make a TCP connection send small packets at once.

    @param buffer: the bytes read at once; as many may wait to be written before the producer is paused.
    """
    transport.setTcpNoDelay(True)
    below: Any = transport.transport if isinstance(transport, TLSMemoryBIOProtocol) else transport
    if _is_tcp(below):
        below.bufferSize = buffer


def prompt_writer(transport: Any) -> Write:
    """
    Return what writes to C{transport}: to the kernel now, if nothing waits before it, else as Twisted does.

    Which way that is depends on what C{transport} is by its class, not by its methods: TLS passes on what it
    does not know to the connection below, and what should have been encrypted would go out in the clear.
    """
    if _is_tcp(transport):
        return partial(_write_tcp, transport)
    if isinstance(transport, TLSMemoryBIOProtocol):
        return partial(_write_tls, transport)
    return partial(_write, transport)


def _write_tcp(transport: Any, data: bytes | memoryview) -> None:
    if transport.connected and not (transport._aborting or transport.dataBuffer or transport._tempDataBuffer):
        sent = transport.writeSomeData(data)
        if sent == len(data):
            return
        # Anything but a number is the loss of the connection; the usual way reports it.
        if isinstance(sent, int) and sent > 0:
            data = data[sent:]
    transport.write(bytes(data))


def _write_tls(transport: TLSMemoryBIOProtocol, data: bytes | memoryview) -> None:
    """Let TLS encrypt now, and the connection below it send now what that has come to."""
    below: Any = transport.transport
    was_free = _is_tcp(below) and not (below.dataBuffer or below._tempDataBuffer)
    transport.write(bytes(data))
    if was_free and below._tempDataBuffer and not (below._aborting or below.disconnecting):
        below.doWrite()  # an error is found again, and reported, in the reactor's next turn


def _write(transport: Any, data: bytes | memoryview) -> None:
    transport.write(bytes(data))


def close_now(transport: Any) -> None:
    """
    Close after what waits to be sent: now, where nothing does, else as Twisted does.

    The descriptor is free at once, and a socket that is made in the same turn may get its number. What the
    reactor has still to tell of the old one then goes to the new one, which must bear to be told that it is
    readable when it is not: Twisted's sockets do (EWOULDBLOCK), and attempts to connect (L{connecting}).
    """
    if (
        _is_tcp(transport)
        and transport.connected
        and not (
            transport._aborting
            or transport.dataBuffer
            or transport._tempDataBuffer
            or transport.disconnecting
        )
    ):
        transport.connectionLost(_DONE)
    else:
        transport.loseConnection()


def _is_tcp(transport: Any) -> bool:
    """Whether C{transport} is Twisted's own TCP connection."""
    return isinstance(transport, Connection) and not transport.TLS
