"""What this process uses: now, and in the last hour."""

from __future__ import annotations

import gc
import resource
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
import psutil
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.clock import Moment, WallClock
from pipeops_agent.scheduling import PeriodicService
from pipeops_agent.status import StatusBoard

INTERVAL: Final = 15.0
"""Seconds between two samples."""

SAMPLES: Final = 240
"""Samples that are kept: an hour."""

SHORTEST_SPAN: Final = 5.0
"""Seconds that a rate is a mean over, at least, as soon as there are so many."""


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """
    Processor time.

    @ivar seconds: since the start, of user and system together.
    @ivar percent: of one processor, lately.
    """

    seconds: float
    percent: float


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """
    Memory, in bytes.

    @ivar resident: what is in the machine's memory.
    @ivar virtual: what addresses were given out for.
    """

    resident: int
    virtual: int


class Descriptors(msgspec.Struct, frozen=True, kw_only=True):
    """
    File descriptors: sockets, files, pipes.

    @ivar limit: how many there may be.
    """

    open: int
    limit: int


class Collector(msgspec.Struct, frozen=True, kw_only=True):
    """
    Python's garbage collector, since the start.

    @ivar collections: by generation, the youngest first.
    @ivar collected: objects that were freed.
    @ivar uncollectable: objects that could not be.
    """

    collections: tuple[int, ...]
    collected: int
    uncollectable: int


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the tunnel's connections carry, of all forwards together. C{in} is from the control plane.

    @ivar bytes_in: since the start; C{bytes_out} likewise.
    @ivar rate_in: bytes per second, lately; C{rate_out} likewise.
    """

    bytes_in: int
    bytes_out: int
    rate_in: float
    rate_out: float


class Connections(msgspec.Struct, frozen=True, kw_only=True):
    """
    Clients that stay connected.

    @ivar websocket: those of C{/ws}.
    @ivar sse: those of event streams.
    """

    websocket: int = 0
    sse: int = 0


class RuntimeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """
    What this process uses, at one moment.

    @ivar uptime: since the start, as C{"3600s"}.
    @ivar reactor_lag: seconds by which timers were late, at worst, within the last minute.
    @ivar rate_seconds: what C{percent} and the rates are means over, in seconds; 0: they are not known yet.
    """

    time: Moment
    uptime: str
    cpu: Cpu
    memory: Memory
    file_descriptors: Descriptors
    threads: int
    garbage_collector: Collector
    reactor_lag: float
    bandwidth: Bandwidth
    connections: Connections
    rate_seconds: float


class RuntimeHistory(msgspec.Struct, frozen=True, kw_only=True):
    """
    The last hour.

    @ivar interval: seconds between two samples.
    @ivar samples: oldest first.
    """

    interval: float
    samples: tuple[RuntimeFigures, ...]


class ProcessFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the system says of this process."""

    cpu_seconds: float
    resident: int
    virtual: int
    descriptors: int
    threads: int


def this_process() -> Callable[[], ProcessFigures]:
    """Something that says, each time it is called, what the system knows of this process."""
    process = psutil.Process()

    def read() -> ProcessFigures:
        with process.oneshot():
            times, memory = process.cpu_times(), process.memory_info()
            return ProcessFigures(
                cpu_seconds=times.user + times.system,
                resident=memory.rss,
                virtual=memory.vms,
                descriptors=process.num_fds(),
                threads=process.num_threads(),
            )

    return read


class Runtime(PeriodicService):
    """
    Takes a sample again and again, and one more whenever it is asked.

    Rates are counted from a sample that was taken by itself, so that nobody's question changes what another
    one is told.

    @param lag: the reactor's, in seconds.
    @param read: what the system says of the process.
    @param connections: the clients that are connected now.
    """

    def __init__(
        self,
        clock: IReactorTime,
        wall: WallClock,
        board: StatusBoard,
        lag: Callable[[], float],
        read: Callable[[], ProcessFigures],
        *,
        connections: Callable[[], Connections] = Connections,
    ) -> None:
        super().__init__(
            clock, self._sample, lambda: INTERVAL, what="sampling the runtime's figures", from_start=True
        )
        self._wall = wall
        self._board = board
        self._lag = lag
        self._read = read
        self._connections = connections
        self._samples: deque[tuple[float, RuntimeFigures]] = deque(maxlen=SAMPLES)

    def now(self) -> RuntimeFigures:
        """The figures of this moment."""
        moment, process = self._wall(), self._read()
        forwards = self._board.traffic().forwards.values()
        bytes_in = sum(each.bytes_in for each in forwards)
        bytes_out = sum(each.bytes_out for each in forwards)
        span, before = self._reference()

        def rate(now: float, then: float) -> float:
            return max(0.0, now - then) / span if span else 0.0

        return RuntimeFigures(
            time=moment,
            uptime=uptime(self._board.now.started, moment),
            cpu=Cpu(
                seconds=round(process.cpu_seconds, 3),
                percent=round(100 * rate(process.cpu_seconds, before.cpu.seconds if before else 0.0), 2),
            ),
            memory=Memory(resident=process.resident, virtual=process.virtual),
            file_descriptors=Descriptors(open=process.descriptors, limit=_descriptor_limit()),
            threads=process.threads,
            garbage_collector=_collector(),
            reactor_lag=round(self._lag(), 6),
            bandwidth=Bandwidth(
                bytes_in=bytes_in,
                bytes_out=bytes_out,
                rate_in=round(rate(bytes_in, before.bandwidth.bytes_in if before else 0), 1),
                rate_out=round(rate(bytes_out, before.bandwidth.bytes_out if before else 0), 1),
            ),
            connections=self._connections(),
            rate_seconds=round(span, 3),
        )

    def history(self) -> RuntimeHistory:
        """What was sampled in the last hour."""
        return RuntimeHistory(interval=INTERVAL, samples=tuple(figures for _, figures in self._samples))

    def _reference(self) -> tuple[float, RuntimeFigures | None]:
        """The sample that rates are counted from, and how many seconds ago it was taken."""
        now = self._clock.seconds()
        for taken, figures in reversed(self._samples):
            if now - taken >= SHORTEST_SPAN:
                return now - taken, figures
        if self._samples and now > self._samples[0][0]:
            taken, figures = self._samples[0]
            return now - taken, figures
        return 0.0, None

    async def _sample(self) -> None:
        self._samples.append((self._clock.seconds(), self.now()))


def uptime(started: Moment, now: Moment) -> str:
    """How long it is since the start: C{3600s}."""
    return f"{max(0, int((now - started).total_seconds()))}s"


def _descriptor_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft


def _collector() -> Collector:
    generations = gc.get_stats()
    return Collector(
        collections=tuple(each["collections"] for each in generations),
        collected=sum(each["collected"] for each in generations),
        uncollectable=sum(each["uncollectable"] for each in generations),
    )
