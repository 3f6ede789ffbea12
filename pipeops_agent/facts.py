"""
What this host is, and the cluster on it: told to the control plane at registration.

Each fact has a source of its own, so that one that hangs (a disk on a dead network server) or fails costs
that fact alone. Later rooms bring sources of theirs: what a cluster knows goes before what the host knows.
"""

from __future__ import annotations

import ipaddress
import platform
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypedDict, TypeVar

import msgspec
import psutil
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pipeops_agent.scheduling import DeadlineExceeded, bounded

T = TypeVar("T")

FACT_TIMEOUT: Final = 5.0
"""The seconds that one source may take."""
_GIB: Final = 1024**3

_log = Logger(namespace="agent")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is known at the start. What can't be had is None, never invented.

    @ivar server_ip: the node's address, else that of the interface through which this host reaches others.
    @ivar memory_gb: GiB, rounded, at least 1; so is C{disk_gb}, the file system of C{/}.
    @ivar os: the operating system's name for people: "Debian GNU/Linux 12 (bookworm)".
    @ivar k8s_version: the API server's C{gitVersion}.
    @ivar rights: what can be done in the cluster: C{logs}, or in some namespaces alone C{exec@shop}.
    """

    hostname: str
    region: str
    cloud_provider: str
    server_ip: str | None = None
    cpu_cores: int | None = None
    memory_gb: int | None = None
    disk_gb: int | None = None
    os: str | None = None
    k8s_version: str | None = None
    rights: tuple[str, ...] | None = None


class Known(TypedDict, total=False):
    """What one source knows of the L{Facts}."""

    region: str
    cloud_provider: str
    server_ip: str
    cpu_cores: int
    memory_gb: int
    disk_gb: int
    os: str
    k8s_version: str
    rights: tuple[str, ...]


class FactSource(Protocol):
    """Finds out some of the facts."""

    @property
    def name(self) -> str:
        """What it looks for, for the record when it does not come: "the disk's size"."""
        ...

    async def read(self) -> Known:
        """
        What could be found, which may be nothing. Any error, or taking longer than L{FACT_TIMEOUT}, costs
        these facts and nothing else.
        """
        ...


class ProbeSource:
    """A source made of a function (L{FactSource})."""

    def __init__(self, name: str, probe: Callable[[], Awaitable[Known]]) -> None:
        self.name = name
        self._probe = probe

    async def read(self) -> Known:
        return await self._probe()


async def collect_facts(
    clock: IReactorTime,
    *,
    hostname: str,
    region: str,
    cloud_provider: str,
    sources: Sequence[FactSource],
) -> Facts:
    """
    Ask all sources at once; this takes at most L{FACT_TIMEOUT} seconds.

    @param region: what the settings say, unless a source knows better; so is C{cloud_provider}.
    @param sources: of two that know the same, the later one counts.
    """
    reading = [Deferred.fromCoroutine(_read(clock, source)) for source in sources]
    known = Known(region=region, cloud_provider=cloud_provider)
    outcomes: list[tuple[bool, Any]] = await DeferredList(reading, consumeErrors=True)
    for succeeded, result in outcomes:
        if not succeeded:
            # Only being cancelled gets here: the list cancels its parts and fires as if nothing had been.
            result.raiseException()
        known.update(result)
    return Facts(hostname=hostname, **known)


async def _read(clock: IReactorTime, source: FactSource) -> Known:
    try:
        return await bounded(clock, FACT_TIMEOUT, source.read(), source.name)
    except CancelledError:
        raise
    except DeadlineExceeded as late:
        _log.warn("left out: {reason}", reason=str(late), fact=source.name)
    except Exception as error:
        _log.warn(
            "left out: {fact} can't be had: {reason}",
            fact=source.name,
            reason=f"{type(error).__name__}: {error}",
        )
    return Known()


def host_sources(reactor: IReactorFromThreads) -> list[FactSource]:
    """The facts of this host."""

    async def quickly(probe: Callable[[], Known]) -> Known:
        return probe()

    return [
        ProbeSource("the address", lambda: quickly(_server_ip)),
        ProbeSource("the number of processors", lambda: quickly(_cpu_cores)),
        ProbeSource("the memory's size", lambda: quickly(_memory_gb)),
        # The only one that can block: statvfs of a network file system whose server is away waits for it.
        ProbeSource("the disk's size", lambda: in_daemon_thread(reactor, _disk_gb)),
        ProbeSource("the operating system's name", lambda: quickly(_os)),
    ]


def in_daemon_thread(reactor: IReactorFromThreads, call: Callable[[], T]) -> Deferred[T]:
    """
    Run C{call} in a thread of its own that does not hold up the end of the process, however long it takes.

    Cancelling drops the result; the thread itself can't be ended.
    """
    result: Deferred[T] = Deferred()

    def run() -> None:
        try:
            value: T | Failure = call()
        except BaseException:
            value = Failure()  # it belongs to whoever waits
        # After the reactor has stopped this is never run, and nobody is waiting.
        reactor.callFromThread(result.callback, value)

    threading.Thread(target=run, name="facts", daemon=True).start()
    return result


def _cpu_cores() -> Known:
    cores = psutil.cpu_count()
    return Known() if cores is None else Known(cpu_cores=cores)


def _memory_gb() -> Known:
    return Known(memory_gb=_gib(psutil.virtual_memory().total))


def _disk_gb() -> Known:
    return Known(disk_gb=_gib(psutil.disk_usage("/").total))


def _gib(size: int) -> int:
    return max(1, round(size / _GIB))


def _os() -> Known:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return Known(os=f"{platform.system()} {platform.release()}".strip())
    return Known(os=release.get("PRETTY_NAME") or release["NAME"])


def _server_ip() -> Known:
    address = primary_address(route_source, interface_addresses)
    return Known() if address is None else Known(server_ip=address)


def primary_address(
    route: Callable[[socket.AddressFamily], str | None],
    interfaces: Callable[[], Mapping[str, Sequence[tuple[socket.AddressFamily, str]]]],
) -> str | None:
    """
    The address by which this host is known to others: the source of its default route, IPv4 before IPv6;
    without such a route the first address of any interface that others could use. None: only loopback.

    @param route: L{route_source}.
    @param interfaces: L{interface_addresses}.
    """
    families = (socket.AF_INET, socket.AF_INET6)
    for family in families:
        address = route(family)
        if address is not None and _is_usable(address):
            return address
    for family in families:
        for addresses in interfaces().values():
            for found, address in addresses:
                if found == family and _is_usable(address):
                    return address
    return None


def route_source(family: socket.AddressFamily) -> str | None:
    """
    The address from which this host would reach the rest of the world; None: it would not.

    A UDP socket is connected to an address reserved for documentation (RFC 5737, RFC 3849). That sends
    nothing: the kernel only looks up the route.
    """
    elsewhere = "2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1"
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def interface_addresses() -> dict[str, list[tuple[socket.AddressFamily, str]]]:
    """The IPv4 and IPv6 addresses of the interfaces that are up."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    return {
        name: [
            (socket.AddressFamily(found.family), found.address)
            for found in addresses
            if found.family in {socket.AF_INET, socket.AF_INET6}
        ]
        for name, addresses in psutil.net_if_addrs().items()
        if name in up
    }


def _is_usable(address: str) -> bool:
    """Whether another host could use C{address}."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (found.is_loopback or found.is_unspecified or found.is_link_local or found.is_multicast)
