"""Tests for L{pipeops_agent.facts}."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pipeops_agent.facts import (
    Facts,
    FactSource,
    Known,
    ProbeSource,
    collect_facts,
    host_sources,
    in_daemon_thread,
    interface_addresses,
    primary_address,
    route_source,
)

T = TypeVar("T")


def knows(known: Known) -> FactSource:
    """A source that has an answer at once."""

    async def probe() -> Known:
        return known

    return ProbeSource("something", probe)


@implementer(IReactorFromThreads)
class Handover:
    """What threads hand to the reactor, run when the test says so."""

    def __init__(self) -> None:
        self.calls: queue.Queue[Callable[[], object]] = queue.Queue()

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:  # noqa: A002 - the interface's name
        self.calls.put(lambda: callable(*args, **kwargs))

    def run_one(self) -> None:
        """Run what a thread has handed over, as soon as it has."""
        self.calls.get(timeout=10)()


class CollectTests(SynchronousTestCase):
    """All sources together."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    def collect(self, *sources: FactSource) -> Coroutine[Deferred[Any], Any, Facts]:
        return collect_facts(
            self.clock, hostname="web1", region="agent-managed", cloud_provider="agent", sources=sources
        )

    def test_nothing_known(self) -> None:
        """Without any source there is what was given, and nothing invented."""
        self.assertEqual(
            self.successResultOf(self.collect()),
            Facts(hostname="web1", region="agent-managed", cloud_provider="agent"),
        )

    def test_later_goes_first(self) -> None:
        """What a later source knows replaces what an earlier one, or the settings, said."""
        facts = self.successResultOf(
            self.collect(
                knows({"server_ip": "10.0.0.1", "cpu_cores": 2}),
                knows({"server_ip": "203.0.113.7", "region": "eu-central-1", "k8s_version": "v1.31.2"}),
            )
        )
        self.assertEqual(
            facts,
            Facts(
                hostname="web1",
                region="eu-central-1",
                cloud_provider="agent",
                server_ip="203.0.113.7",
                cpu_cores=2,
                k8s_version="v1.31.2",
            ),
        )

    def test_later_even_if_slower(self) -> None:
        """The order of the sources counts, not that of their answers."""
        slow: Deferred[Known] = Deferred()
        collecting = Deferred.fromCoroutine(
            self.collect(ProbeSource("slow", lambda: slow), knows({"cpu_cores": 2}))
        )
        self.assertNoResult(collecting)
        slow.callback({"cpu_cores": 1})
        self.assertEqual(self.successResultOf(collecting).cpu_cores, 2)

    def test_failure(self) -> None:
        """A source that fails costs its own facts, and a warning that names it."""

        async def fail() -> Known:
            raise OSError(5, "Input/output error")

        with capturedLogs() as records:
            facts = self.successResultOf(
                self.collect(ProbeSource("the disk's size", fail), knows({"cpu_cores": 2}))
            )
        self.assertEqual(facts.cpu_cores, 2)
        self.assertEqual(
            [(record["log_level"], record["fact"]) for record in records],
            [(LogLevel.warn, "the disk's size")],
        )
        self.assertIn("Input/output error", records[0]["reason"])

    def test_hanging(self) -> None:
        """Sources that hang are left out after 5 s, all at the same time; nothing waits on."""
        hanging: list[Deferred[Known]] = [Deferred(lambda _: None), Deferred(lambda _: None)]
        collecting = Deferred.fromCoroutine(
            self.collect(
                ProbeSource("the disk's size", lambda: hanging[0]),
                knows({"cpu_cores": 2}),
                ProbeSource("the version", lambda: hanging[1]),
            )
        )
        self.clock.advance(4.9)
        self.assertNoResult(collecting)
        with capturedLogs() as records:
            self.clock.advance(0.1)
        self.assertEqual(self.successResultOf(collecting).cpu_cores, 2)
        self.assertEqual({record["fact"] for record in records}, {"the disk's size", "the version"})

    def test_cancelled(self) -> None:
        """Cancelling stops every source and the collecting itself."""
        cancelled: list[int] = []

        def hang(number: int) -> FactSource:
            return ProbeSource("it", lambda: Deferred(lambda _: cancelled.append(number)))

        collecting = Deferred.fromCoroutine(self.collect(hang(1), knows({"cpu_cores": 2}), hang(2)))
        with capturedLogs() as records:
            collecting.cancel()
        self.failureResultOf(collecting, CancelledError)
        self.assertEqual(cancelled, [1, 2])
        self.assertEqual(records, [])


class DaemonThreadTests(SynchronousTestCase):
    """Calls that may block. Uses real threads."""

    def test_result(self) -> None:
        """The result comes by way of the reactor, not on the thread's own stack."""
        reactor = Handover()
        threads: list[threading.Thread] = []

        def call() -> int:
            threads.append(threading.current_thread())
            return 7

        result = in_daemon_thread(reactor, call)
        self.assertNoResult(result)
        reactor.run_one()
        self.assertEqual(self.successResultOf(result), 7)
        self.assertTrue(threads[0].daemon)
        self.assertIsNot(threads[0], threading.current_thread())

    def test_failure(self) -> None:
        """An error, whichever, belongs to whoever waits."""
        for error in (OSError("gone"), SystemExit(1)):

            def fail(error: BaseException = error) -> None:
                raise error

            reactor = Handover()
            result = in_daemon_thread(reactor, fail)
            reactor.run_one()
            self.failureResultOf(result, type(error))

    def test_cancelled(self) -> None:
        """What comes after the waiting was given up is dropped."""
        reactor = Handover()
        go_on = threading.Event()
        result = in_daemon_thread(reactor, lambda: go_on.wait(10))
        result.cancel()
        self.failureResultOf(result, CancelledError)
        go_on.set()
        reactor.run_one()


class HostTests(SynchronousTestCase):
    """The facts of the host that the tests run on."""

    def test_host(self) -> None:
        """Each can be had, has its type, and is no nonsense."""
        clock, reactor = Clock(), Handover()
        collecting = Deferred.fromCoroutine(
            collect_facts(clock, hostname="h", region="r", cloud_provider="c", sources=host_sources(reactor))
        )
        reactor.run_one()
        facts = self.successResultOf(collecting)
        for size in (facts.cpu_cores, facts.memory_gb, facts.disk_gb):
            assert isinstance(size, int)
            self.assertGreaterEqual(size, 1)
        self.assertIsInstance(facts.os, str)
        self.assertNotEqual(facts.os, "")
        if facts.server_ip is not None:  # a host may have nothing but loopback
            self.assertFalse(ipaddress.ip_address(facts.server_ip).is_loopback)
        self.assertIsNone(facts.k8s_version)

    def test_system_calls(self) -> None:
        """What the kernel says about routes and interfaces has the form that the choice expects."""
        for family in (socket.AF_INET, socket.AF_INET6):
            source = route_source(family)
            if source is not None:
                self.assertEqual(ipaddress.ip_address(source).version, 6 if family == socket.AF_INET6 else 4)
        loopback = [address for found in interface_addresses().values() for _, address in found]
        self.assertIn("127.0.0.1", loopback)


Interfaces = Mapping[str, Sequence[tuple[socket.AddressFamily, str]]]


class PrimaryAddressTests(SynchronousTestCase):
    """Which address is the host's."""

    def choose(self, v4: str | None, v6: str | None, interfaces: Interfaces | None = None) -> str | None:
        routes = {socket.AF_INET: v4, socket.AF_INET6: v6}
        return primary_address(lambda family: routes[family], lambda: interfaces or {})

    def test_route(self) -> None:
        """The default route's address, IPv4 before IPv6."""
        self.assertEqual(self.choose("10.0.0.5", "2a00::5"), "10.0.0.5")

    def test_ipv6_only(self) -> None:
        """A host that has only IPv6."""
        self.assertEqual(self.choose(None, "2a00::5"), "2a00::5")

    def test_useless_routes(self) -> None:
        """Addresses that no other host could use do not count."""
        self.assertIsNone(self.choose("127.0.0.1", "::1"))
        self.assertIsNone(self.choose("0.0.0.0", "fe80::1%eth0"))
        self.assertEqual(self.choose("169.254.3.4", "fd00::2"), "fd00::2")

    def test_no_route(self) -> None:
        """Without a default route it is an interface's address: IPv4 first, none that others can't use."""
        interfaces: Interfaces = {
            "lo": [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")],
            "eth0": [(socket.AF_INET6, "fe80::1%eth0"), (socket.AF_INET6, "fd00::2")],
            "eth1": [(socket.AF_INET, "10.1.0.2")],
        }
        self.assertEqual(self.choose(None, None, interfaces), "10.1.0.2")
        self.assertEqual(self.choose(None, None, {"eth0": interfaces["eth0"]}), "fd00::2")
        self.assertIsNone(self.choose(None, None, {"lo": interfaces["lo"]}))
        self.assertIsNone(self.choose(None, None, {"x": [(socket.AF_INET, "nonsense")]}))
