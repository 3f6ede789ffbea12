"""
Names to addresses, by the system's own C{getaddrinfo}, in threads that can't hold up anybody.

C{getaddrinfo} blocks, can't be cancelled, and with a dead DNS server takes half a minute or more.
Twisted's thread pool is joined when the reactor stops, so that one stuck lookup would keep the
process from ending. The threads here are daemons: the process ends without them.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from pipeops_agent.net.problems import LookupProblem

Address = IPv4Address | IPv6Address

MAX_THREADS: Final = 16
"""At most so many lookups run at once."""
MAX_WAITING: Final = 256
"""At most so many more wait for a thread; others fail at once."""
IDLE_THREAD: Final = 60.0
"""Seconds after which a thread without work ends."""
MAX_ADDRESSES: Final = 16
"""Of one name's addresses no more than these are tried."""

GetAddrInfo = Callable[..., Sequence[tuple[Any, ...]]]
"""L{socket.getaddrinfo}, or what stands for it in a test."""


class Resolver(Protocol):
    """Finds the addresses of a host."""

    def resolve(self, host: str, port: int) -> Deferred[list[Address]]:
        """
        Fire with at least one address, in the order in which they should be tried.

        @raise LookupProblem: through the result.
        """


class TooBusy(Exception):
    """All threads are taken and the queue is full."""


class DaemonThreads:
    """
    Runs blocking calls in a bounded number of daemon threads, started as they are needed. They end when there
    has been nothing to do for a while: what nobody uses any more leaves nothing behind.

    @param limit: how many threads at most.
    @param waiting: how many calls may wait for one.
    @param idle: the seconds for which a thread waits for the next call.
    """

    def __init__(
        self, limit: int = MAX_THREADS, waiting: int = MAX_WAITING, idle: float = IDLE_THREAD
    ) -> None:
        self._limit = limit
        self._idle = idle
        self._waiting = waiting
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads = 0
        self._unfinished = 0

    def run(self, call: Callable[[], None]) -> None:
        """
        Run C{call}, which must not raise, in a thread.

        @raise TooBusy: there is neither a thread nor a place in the queue for it.
        """
        with self._lock:
            if self._unfinished >= self._limit + self._waiting:
                raise TooBusy
            self._unfinished += 1
            starting = self._unfinished > self._threads and self._threads < self._limit
            if starting:
                self._threads += 1
                number = self._threads
        self._calls.put(call)
        if starting:
            try:
                threading.Thread(target=self._work, name=f"lookup-{number}", daemon=True).start()
            except RuntimeError as error:  # the system has no thread left
                self._not_started(error)

    def _not_started(self, error: RuntimeError) -> None:
        """Leave the call to the threads there are; where there is none, take it back."""
        with self._lock:
            self._threads -= 1
            if self._threads:
                return
            self._unfinished -= 1
        self._calls.get_nowait()
        raise TooBusy from error

    def _work(self) -> None:
        while True:
            try:
                call = self._calls.get(timeout=self._idle)
            except queue.Empty:
                with self._lock:
                    if not self._unfinished:
                        self._threads -= 1
                        return
                continue
            try:
                call()
            finally:
                with self._lock:
                    self._unfinished -= 1
            del call  # not kept alive while this thread waits for the next


class ThreadedResolver:
    """A L{Resolver} over L{DaemonThreads}. Cancelling drops the answer; the thread ends by itself."""

    def __init__(
        self,
        reactor: IReactorFromThreads,
        threads: DaemonThreads | None = None,
        getaddrinfo: GetAddrInfo = socket.getaddrinfo,
    ) -> None:
        self._reactor = reactor
        self._threads = DaemonThreads() if threads is None else threads
        self._getaddrinfo = getaddrinfo

    def resolve(self, host: str, port: int) -> Deferred[list[Address]]:
        """See L{Resolver.resolve}."""
        waiting: Deferred[list[Address]] = Deferred()

        def deliver(result: list[Address] | Failure) -> None:
            # Where it was cancelled meanwhile, a Deferred swallows this.
            if isinstance(result, Failure):
                waiting.errback(result)
            else:
                waiting.callback(result)

        def look_up() -> None:
            if waiting.called:
                return  # cancelled before a thread was free
            try:
                result: list[Address] | Failure = self._look_up(host, port)
            except Exception:
                result = Failure()
            self._reactor.callFromThread(deliver, result)

        try:
            self._threads.run(look_up)
        except TooBusy:
            problem = LookupProblem(host, "too many lookups are waiting for an answer", temporary=True)
            waiting.errback(problem)
        return waiting

    def _look_up(self, host: str, port: int) -> list[Address]:
        """Runs in a thread."""
        try:
            found = self._getaddrinfo(host, port, 0, socket.SOCK_STREAM)
        except socket.gaierror as error:
            temporary = error.errno == socket.EAI_AGAIN
            raise LookupProblem(host, error.strerror or str(error), temporary=temporary) from error
        except UnicodeError as error:
            raise LookupProblem(host, "this is not a host name", temporary=False) from error
        addresses = [
            (IPv6Address if family == socket.AF_INET6 else IPv4Address)("TCP", *place)
            for family, _, _, _, place in found
            if family in (socket.AF_INET, socket.AF_INET6)
        ]
        if not addresses:
            raise LookupProblem(host, "it has no IPv4 or IPv6 address", temporary=False)
        return addresses[:MAX_ADDRESSES]
