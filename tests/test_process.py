"""Tests for L{pipeops_agent.process}; C{tests.agent.test_twistd} asks real ones for their statuses."""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent import process
from pipeops_agent.errors import ExitStatus
from pipeops_agent.process import Process


class Reactor:
    """Keeps what it is to call until it L{turn}s."""

    running = True

    def __init__(self) -> None:
        self.stopped = 0
        self._calls: list[Callable[[], Any]] = []

    def callWhenRunning(self, call: Callable[..., Any], *args: Any) -> None:
        self._calls.append(lambda: call(*args))

    def callFromThread(self, call: Callable[..., Any], *args: Any) -> None:
        self._calls.append(lambda: call(*args))

    def stop(self) -> None:
        self.stopped += 1
        self.running = False

    def turn(self) -> None:
        calls, self._calls = self._calls, []
        for call in calls:
            call()


class EndTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.process = Process(self.reactor)
        self.at_exit: list[tuple[Any, ...]] = []
        self.patch(atexit, "register", lambda *call: self.at_exit.append(call))

    def test_status(self) -> None:
        """The reactor is stopped in a turn of its own, and the status is left for the process's end."""
        self.process.end(ExitStatus.NOPERM)
        self.assertEqual(self.reactor.stopped, 0)
        self.reactor.turn()
        self.assertEqual(self.reactor.stopped, 1)
        self.assertEqual([call[1] for call in self.at_exit], [ExitStatus.NOPERM])

    def test_first_counts(self) -> None:
        """What goes wrong because of the end does not change its reason."""
        self.process.end(ExitStatus.CONFIG)
        self.process.end(ExitStatus.FAILURE)
        self.reactor.turn()
        self.assertEqual([call[1] for call in self.at_exit], [ExitStatus.CONFIG])
        self.assertEqual(self.reactor.stopped, 1)

    def test_stopping_already(self) -> None:
        """A reactor that a signal has stopped meanwhile is not stopped again, which would raise."""
        self.process.end(ExitStatus.FAILURE)
        self.reactor.stop()
        self.reactor.turn()
        self.assertEqual(self.reactor.stopped, 1)

    def test_leaves_whatever_the_streams_say(self) -> None:
        """What was printed is flushed; a stream that is gone does not keep the process from its status."""
        left: list[int] = []
        self.patch(os, "_exit", left.append)
        closed = io.StringIO()
        closed.close()
        for out, err in ((io.StringIO(), io.StringIO()), (closed, None)):
            self.patch(sys, "__stdout__", out)
            self.patch(sys, "__stderr__", err)
            process._leave(ExitStatus.UNAVAILABLE)
        self.assertEqual(left, [69, 69])


class SignalTests(SynchronousTestCase):
    """With real signals, to this process."""

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.process = Process(self.reactor)
        for number in (signal.SIGUSR1, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.signal(number, signal.SIG_IGN))

    def test_handled_in_the_reactor(self) -> None:
        """A handler is called in a turn of the reactor, never in the middle of something; each its own."""
        called: list[str] = []
        self.process.handle(
            {signal.SIGUSR1: lambda: called.append("USR1"), signal.SIGHUP: lambda: called.append("HUP")}
        )
        self.addCleanup(self.process.release)
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(called, [])
        self.reactor.turn()
        self.assertEqual(sorted(called), ["HUP", "USR1"])

    def test_release(self) -> None:
        """Afterwards the former handlers are back."""
        self.process.handle({signal.SIGUSR1: lambda: None})
        self.assertIsNot(signal.getsignal(signal.SIGUSR1), signal.SIG_IGN)
        self.process.release()
        self.assertIs(signal.getsignal(signal.SIGUSR1), signal.SIG_IGN)
        self.process.release()
