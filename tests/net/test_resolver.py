"""Names to addresses in daemon threads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorFromThreads
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.net.problems import LookupProblem
from pipeops_agent.net.resolver import MAX_ADDRESSES, DaemonThreads, ThreadedResolver, TooBusy


class FakeReactor:
    """Keeps what the threads hand over until the test lets it run."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.arrived = threading.Semaphore(0)

    def callFromThread(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        self.calls.append(lambda: function(*arguments, **keywords))
        self.arrived.release()

    def turn(self) -> None:
        """Wait (at most 5 s) for one call from a thread and run it."""
        assert self.arrived.acquire(timeout=5)
        self.calls.pop(0)()


def v4(*addresses: str) -> Sequence[tuple[Any, ...]]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]


def _no_thread(_: object) -> None:
    raise RuntimeError("can't start new thread")


def void(_: object) -> None:
    pass


class ResolverTests(SynchronousTestCase):
    """L{ThreadedResolver}."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()

    def resolver(
        self, getaddrinfo: Callable[..., Any], threads: DaemonThreads | None = None
    ) -> ThreadedResolver:
        return ThreadedResolver(cast(IReactorFromThreads, self.reactor), threads, getaddrinfo)

    def test_addresses(self) -> None:
        """Both families come back in the system's order; what is neither is left out."""

        def look_up(*arguments: Any) -> Any:
            self.assertEqual(arguments, ("api.example", 443, 0, socket.SOCK_STREAM))
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 443, 0, 0)),
                (socket.AF_UNIX, socket.SOCK_STREAM, 0, "", "/run/x"),
                *v4("192.0.2.1"),
            ]

        found = self.resolver(look_up).resolve("api.example", 443)
        self.reactor.turn()
        self.assertEqual(
            self.successResultOf(found),
            [IPv6Address("TCP", "2001:db8::1", 443), IPv4Address("TCP", "192.0.2.1", 443)],
        )

    def test_bounded_addresses(self) -> None:
        """A name with very many addresses gives no more than a few."""
        many = v4(*(f"192.0.2.{n}" for n in range(100)))
        found = self.resolver(lambda *_: many).resolve("many.example", 1)
        self.reactor.turn()
        self.assertEqual(len(self.successResultOf(found)), MAX_ADDRESSES)

    def test_no_such_name(self) -> None:
        """The system's reason is kept, with whether it can pass by itself."""
        for code, temporary in ((socket.EAI_NONAME, False), (socket.EAI_AGAIN, True)):

            def look_up(*_: Any, code: int = code) -> Any:
                raise socket.gaierror(code, "reason of the system")

            found = self.resolver(look_up).resolve("gone.example", 443)
            self.reactor.turn()
            problem = self.failureResultOf(found, LookupProblem).value
            self.assertEqual((problem.host, problem.reason), ("gone.example", "reason of the system"))
            self.assertIs(problem.temporary, temporary)

    def test_not_a_name(self) -> None:
        """What can't be a host name (a label over 63 characters) is a problem, not a traceback."""
        found = self.resolver(lambda host, *_: host.encode("idna")).resolve("a" * 64 + ".example", 443)
        self.reactor.turn()
        self.assertFalse(self.failureResultOf(found, LookupProblem).value.temporary)

    def test_no_address(self) -> None:
        """A name without an IPv4 or IPv6 address is a problem too."""
        found = self.resolver(lambda *_: []).resolve("odd.example", 443)
        self.reactor.turn()
        self.assertIn("no IPv4", str(self.failureResultOf(found, LookupProblem).value))

    def test_unforeseen(self) -> None:
        """Another error comes through the result: no caller waits for ever."""

        def look_up(*_: Any) -> Any:
            raise OSError(24, "Too many open files")

        found = self.resolver(look_up).resolve("api.example", 443)
        self.reactor.turn()
        self.failureResultOf(found, OSError)

    def test_cancelled(self) -> None:
        """Cancelling answers at once; what the thread finds later is dropped."""
        proceed = threading.Event()
        self.addCleanup(proceed.set)

        def look_up(*_: Any) -> Any:
            proceed.wait(5)
            return v4("192.0.2.1")

        found = self.resolver(look_up).resolve("slow.example", 443)
        found.cancel()
        self.failureResultOf(found, CancelledError)
        proceed.set()
        self.reactor.turn()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_no_thread_to_be_had(self) -> None:
        """Where the system gives no thread a lookup fails as busy; the next one gets its thread."""
        resolver = self.resolver(lambda *_: v4("192.0.2.1"))
        patched = self.patch(threading.Thread, "start", _no_thread)
        refused = self.failureResultOf(resolver.resolve("api.example", 443), LookupProblem).value
        self.assertTrue(refused.temporary)
        patched.restore()
        found = resolver.resolve("api.example", 443)
        self.reactor.turn()
        self.assertEqual([address.host for address in self.successResultOf(found)], ["192.0.2.1"])
        self.assertEqual(self.reactor.calls, [], "the lookup that had failed was done all the same")

    def test_stuck_lookups_are_bounded(self) -> None:
        """With all threads stuck and the queue full, another lookup fails at once; later they recover."""
        proceed = threading.Event()
        self.addCleanup(proceed.set)

        def look_up(*_: Any) -> Any:
            proceed.wait(5)
            return v4("192.0.2.1")

        resolver = self.resolver(look_up, DaemonThreads(limit=2, waiting=1))
        waiting = [resolver.resolve("slow.example", 443) for _ in range(3)]
        refused = self.failureResultOf(resolver.resolve("slow.example", 443), LookupProblem).value
        self.assertTrue(refused.temporary)
        proceed.set()
        for _ in waiting:
            self.reactor.turn()
        for found in waiting:
            self.assertEqual(len(self.successResultOf(found)), 1)

    def test_cancelled_while_queued(self) -> None:
        """A lookup that was given up before a thread was free is never asked."""
        proceed = threading.Event()
        self.addCleanup(proceed.set)
        asked: list[str] = []

        def look_up(host: str, *_: Any) -> Any:
            asked.append(host)
            proceed.wait(5)
            return v4("192.0.2.1")

        resolver = self.resolver(look_up, DaemonThreads(limit=1))
        first = resolver.resolve("first.example", 443)
        second = resolver.resolve("second.example", 443)
        third = resolver.resolve("third.example", 443)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        proceed.set()
        self.reactor.turn()
        self.reactor.turn()
        self.successResultOf(first)
        self.successResultOf(third)
        self.assertEqual(asked, ["first.example", "third.example"])


class DaemonThreadsTests(SynchronousTestCase):
    """L{DaemonThreads}."""

    def test_daemons(self) -> None:
        """The threads are daemons: none can hold up the end of the process."""
        seen: list[bool] = []
        done = threading.Semaphore(0)

        def call() -> None:
            seen.append(threading.current_thread().daemon)
            done.release()

        DaemonThreads().run(call)
        self.assertTrue(done.acquire(timeout=5))
        self.assertEqual(seen, [True])

    def test_end_of_process(self) -> None:
        """A process ends while a lookup is stuck. (This starts a real process.)"""
        program = (
            "import time; from pipeops_agent.net.resolver import DaemonThreads;"
            "DaemonThreads().run(lambda: time.sleep(60))"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        ended = subprocess.run([sys.executable, "-c", program], timeout=30, env=environment, check=False)
        self.assertEqual(ended.returncode, 0)

    def test_idle(self) -> None:
        """A thread that has nothing to do ends, and the next call has another."""
        threads = DaemonThreads(idle=0.01)
        for _ in range(3):
            done = threading.Semaphore(0)
            ran: list[threading.Thread] = []

            def call(ran: list[threading.Thread] = ran, done: threading.Semaphore = done) -> None:
                ran.append(threading.current_thread())
                done.release()

            threads.run(call)
            self.assertTrue(done.acquire(timeout=5))
            ran[0].join(5)
            self.assertFalse(ran[0].is_alive())

    def test_too_busy(self) -> None:
        """Beyond threads and queue a call is refused."""
        proceed = threading.Event()
        self.addCleanup(proceed.set)
        threads = DaemonThreads(limit=1, waiting=1)
        threads.run(lambda: void(proceed.wait(5)))
        threads.run(lambda: None)
        self.assertRaises(TooBusy, threads.run, lambda: None)
