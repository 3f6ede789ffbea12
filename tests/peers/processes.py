"""Programs that report what they do line by line, and tests that wait for what they report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from signal import Signals
from typing import Any, TypeAlias, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport, IReactorProcess, IReactorTCP, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from pipeops_agent.scheduling import DeadlineExceeded, bounded

Event: TypeAlias = dict[str, Any]
"""One JSON object; C{event} says what happened. The rest depends on that, hence C{Any}."""

Parser: TypeAlias = Callable[[str], Event | None]

PATIENCE = 20.0
"""Seconds that a test waits for what must come: far more than it takes, also on a busy machine."""

_STOP_SECONDS = 5.0
_MAX_LINE = 1 << 20
_TAIL_LINES = 40


class RealReactor(IReactorProcess, IReactorTCP, IReactorTime):
    """What these tests use of a reactor."""


def real_reactor() -> RealReactor:
    """Return the reactor that trial runs: for tests with real processes and sockets, and only for those."""
    from twisted.internet import reactor  # noqa: TID251 - a process has no in-memory stand-in

    return cast(RealReactor, reactor)


class PeerEnded(Exception):
    """The program ended while something was still expected of it."""


def json_lines(line: str) -> Event | None:
    """Parse an event of the Go peer; anything else it prints (a panic, say) is no event."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


class _Lines:
    """Cuts one of the program's outputs into lines."""

    def __init__(self, received: Callable[[str], None]) -> None:
        self._received = received
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            raise PeerEnded(f"a line of more than {_MAX_LINE} bytes")
        for line in lines:
            self._received(line.decode(errors="replace").rstrip("\r"))


class _Waiter:
    """Someone who waits for the C{count}-th event that matches."""

    def __init__(self, event: str, count: int, match: Event) -> None:
        self.found: Deferred[Event] = Deferred()
        self._wanted = {"event": event, **match}
        self._left = count

    def offer(self, event: Event) -> bool:
        """Look at C{event}; True when that was the one."""
        if not _matches(event, self._wanted):
            return False
        self._left -= 1
        return self._left == 0

    def __str__(self) -> str:
        return str(self._wanted)


def _matches(event: Event, wanted: Event) -> bool:
    return all(key in event and event[key] == value for key, value in wanted.items())


class Program(ProcessProtocol):
    """
    A running program and what it has reported so far.

    @ivar events: all events, in order.
    @ivar status: the exit status, negative for a signal; None while it runs.
    """

    def __init__(self, reactor: RealReactor, parse: Parser, stop_signal: str | None) -> None:
        self._reactor = reactor
        self._parse = parse
        self._stop_signal = stop_signal
        self._waiters: list[_Waiter] = []
        self._ending: list[Deferred[None]] = []
        self._tail: list[str] = []
        self._outputs = {1: _Lines(self._line), 2: _Lines(self._line)}
        self.events: list[Event] = []
        self.status: int | None = None

    @classmethod
    def start(
        cls,
        reactor: RealReactor,
        arguments: Sequence[str],
        parse: Parser = json_lines,
        stop_signal: str | None = None,
    ) -> Program:
        """
        Start C{arguments[0]}, a full path, with an empty environment.

        @param stop_signal: what L{stop} asks it with; None: the end of its input does it.
        """
        program = cls(reactor, parse, stop_signal)
        reactor.spawnProcess(program, arguments[0], list(arguments), env={})
        return program

    @property
    def pid(self) -> int:
        """The process id; C{gochisel leash} keeps it for the program that it becomes."""
        pid: int | None = self._process.pid
        assert pid is not None, "the program has ended"
        return pid

    @property
    def output(self) -> str:
        """The last lines that were no events."""
        return "\n".join(self._tail)

    @property
    def _process(self) -> IProcessTransport:
        process = self.transport
        assert process is not None
        return process

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803 - Twisted's names
        self._outputs[childFD].feed(data)

    def _line(self, line: str) -> None:
        event = self._parse(line)
        if event is None:
            self._tail = [*self._tail[1 - _TAIL_LINES :], line]
            return
        self.events.append(event)
        found = [waiter for waiter in self._waiters if waiter.offer(event)]
        self._waiters = [waiter for waiter in self._waiters if waiter not in found]
        for waiter in found:
            waiter.found.callback(event)

    def processEnded(self, reason: Failure) -> None:
        end = reason.value
        assert isinstance(end, ProcessDone | ProcessTerminated)
        self.status = end.exitCode if end.signal is None else -end.signal
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.found.errback(self._ended(str(waiter)))
        ending, self._ending = self._ending, []
        for ended in ending:
            ended.callback(None)

    def _ended(self, expected: str) -> PeerEnded:
        return PeerEnded(f"ended with status {self.status} while {expected} was expected\n{self.output}")

    def seen(self, event: str, **match: object) -> list[Event]:
        """All events so far with this name and these fields."""
        wanted = {"event": event, **match}
        return [past for past in self.events if _matches(past, wanted)]

    async def wait_for(
        self, event: str, *, count: int = 1, timeout: float = PATIENCE, **match: object
    ) -> Event:
        """
        Return the C{count}-th event, counted from the start, that has this name and these fields.

        @raise PeerEnded: the program ended first.
        @raise DeadlineExceeded: it did not come; the message shows what came instead.
        """
        waiter = _Waiter(event, count, dict(match))
        for past in self.events:
            if waiter.offer(past):
                return past
        if self.status is not None:
            raise self._ended(str(waiter))
        self._waiters.append(waiter)
        try:
            return await bounded(self._reactor, timeout, waiter.found, f"waiting for {waiter}")
        except DeadlineExceeded as late:
            raise DeadlineExceeded(f"{late}; the last events: {self.events[-10:]}") from None
        finally:
            self._waiters = [other for other in self._waiters if other is not waiter]

    async def ended(self, timeout: float = PATIENCE) -> int:
        """Wait until the program has ended, and return its status."""
        if self.status is None:
            ending: Deferred[None] = Deferred()
            self._ending.append(ending)
            try:
                await bounded(self._reactor, timeout, ending, "the program's end")
            finally:
                self._ending = [other for other in self._ending if other is not ending]
        assert self.status is not None
        return self.status

    def order(self, do: str, **fields: object) -> None:
        """Tell a C{gochisel server} to do something now: drop, freeze, thaw, open, request."""
        line = json.dumps({"do": do, **fields}) + "\n"
        self._process.writeToChild(0, line.encode())

    def signal(self, name: str) -> None:
        """Send a signal (C{"TERM"}, C{"STOP"}, …); one that comes too late does nothing."""
        number = Signals[f"SIG{name}"]  # Twisted itself knows five names
        with suppress(ProcessExitedAlready):
            self._process.signalProcess(number)

    async def stop(self) -> None:
        """End it politely, or by force after 5 seconds."""
        if self.status is not None:
            return
        if self._stop_signal is None:
            self._process.closeChildFD(0)
        else:
            self.signal(self._stop_signal)
        try:
            await self.ended(_STOP_SECONDS)
        except DeadlineExceeded:
            await self.kill()

    async def kill(self) -> None:
        """End it as a power cut does to a program."""
        self.signal("KILL")
        await self.ended()


def flags(options: Iterable[tuple[str, object]]) -> list[str]:
    """Go's flags for names and values; an empty text or None leaves its flag out, False and 0 do not."""
    return [
        f"-{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in options
        if value is not None and value != ""
    ]
