"""
What the agent touches of its process: the exit status and two signals.

twistd ends with 0 whenever the reactor merely stops, and swallows a C{SystemExit} that is raised while it
runs. So the status is remembered here, and an C{atexit} handler, which runs after twistd has removed its
pid file and said its last word, ends the process with it. A signal's death is left to twistd.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Protocol

from pipeops_agent.errors import ExitStatus


class StoppableReactor(Protocol):
    """What L{Process} needs of the reactor."""

    def callWhenRunning(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call now, or when the reactor runs."""

    def callFromThread(self, call: Callable[..., Any], *args: Any) -> None:
        """Call in the reactor's next turn; the only call that a signal handler may make."""

    def stop(self) -> None:
        """End the reactor."""


class Process:
    """The process that the agent runs in."""

    def __init__(self, reactor: StoppableReactor) -> None:
        self._reactor = reactor
        self._status: ExitStatus | None = None
        self._replaced: dict[signal.Signals, Any] = {}

    def end(self, status: ExitStatus) -> None:
        """Stop the reactor, in order, and end the process with C{status}. The first call counts."""
        if self._status is not None:
            return
        self._status = status
        atexit.register(_leave, status)
        self._reactor.callWhenRunning(self._stop)

    def _stop(self) -> None:
        if getattr(self._reactor, "running", True):
            self._reactor.stop()

    def handle(self, handlers: Mapping[signal.Signals, Callable[[], None]]) -> None:
        """Call C{handlers} by signal number, in the reactor's own turns, until L{release}."""
        for number, handler in handlers.items():

            def caught(_: int, __: FrameType | None, handler: Callable[[], None] = handler) -> None:
                self._reactor.callFromThread(handler)

            self._replaced[number] = signal.signal(number, caught)

    def release(self) -> None:
        """Put the former handlers back."""
        for number, former in self._replaced.items():
            signal.signal(number, former)
        self._replaced.clear()


def _leave(status: ExitStatus) -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass  # nobody reads it any more
    os._exit(status)
