"""The agent as people run it: twistd in a process of its own, everything it writes, how it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pipeops_agent.clock import utc_now
from pipeops_agent.sandbox.service import SandboxService, SandboxSettings
from pipeops_agent.scheduling import DeadlineExceeded, bounded
from pipeops_agent.secrets import Secret
from tests.agent.house import REACTOR

CHECKOUT = Path(__file__).resolve().parents[2]
TWISTD = "from twisted.scripts.twistd import run; run()"
TOKEN = Secret("the-token-of-this-test")

PATIENCE = 30.0
"""Seconds to wait for what must come: the start alone takes one or two on a busy machine."""

Record = dict[str, Any]

FAST = """\
agent: {poll_interval: 200ms, cluster_name: shop}
pipeops:
  reconnect: {interval: 100ms, backoff: 0s}
tunnel: {allow_insecure: true, poll_interval: 200ms}
server: {port: 0}
"""
"""A settings file whose agent does not make tests wait."""


class Twistd(ProcessProtocol):
    """
    One C{twistd -n --pidfile= pipeops-agent}.

    @ivar status: the exit status, negative for a signal; None while it runs.
    """

    def __init__(self) -> None:
        self.out = b""
        self.err = b""
        self.status: int | None = None
        self._waiting: list[tuple[Callable[[], object], Deferred[None]]] = []

    @property
    def pid(self) -> int:
        assert self.transport is not None
        pid: int | None = self.transport.pid
        assert pid is not None
        return pid

    @property
    def command_line(self) -> bytes:
        """What C{ps} shows of it."""
        return Path(f"/proc/{self.pid}/cmdline").read_bytes()

    @property
    def records(self) -> list[Record]:
        """Its log so far: every whole line must be a record."""
        whole, _, _ = self.out.rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def find(self, **match: object) -> list[Record]:
        """The records so far that have these fields."""
        return [one for one in self.records if all(one.get(key) == value for key, value in match.items())]

    def saying(self, text: str) -> list[Record]:
        """The records so far with C{text} in their message."""
        return [one for one in self.records if text in one["msg"]]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something that it writes, or its end, makes C{condition} true."""
        if condition():
            return
        there: Deferred[None] = Deferred()
        self._waiting.append((condition, there))
        try:
            await bounded(REACTOR, PATIENCE, there, what)
        except DeadlineExceeded as late:
            raise DeadlineExceeded(f"{late}; it has written {self.out!r} and {self.err!r}") from None

    async def says(self, text: str, count: int = 1) -> Record:
        """Wait for the C{count}-th record with C{text} in its message, and return it."""
        await self.until(
            lambda: len(self.saying(text)) >= count or self.status is not None, f"a record saying {text!r}"
        )
        if len(self.saying(text)) < count:
            raise AssertionError(
                f"it has not said {text!r}, and ended: {self.out.decode()}{self.err.decode()}"
            )
        return self.saying(text)[count - 1]

    async def says_more(self, count: int) -> None:
        """Wait for so many further records."""
        seen = len(self.records)
        await self.until(lambda: len(self.records) >= seen + count, f"{count} records")

    async def ended(self) -> int:
        """Wait for its end, and return the status."""
        await self.until(lambda: self.status is not None, "its end")
        assert self.status is not None
        return self.status

    def signal(self, name: str) -> None:
        """Send C{SIG<name>}."""
        os.kill(self.pid, signal.Signals[f"SIG{name}"])

    def _look(self) -> None:
        ready = [each for each in self._waiting if each[0]()]
        self._waiting = [each for each in self._waiting if each not in ready]
        for _, waiter in ready:
            waiter.callback(None)

    def outReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        self.out += data
        self._look()

    def errReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        self.err += data
        self._look()

    def processEnded(self, reason: Failure) -> None:
        end = reason.value
        assert isinstance(end, ProcessDone | ProcessTerminated)
        self.status = end.exitCode if end.signal is None else -end.signal
        self._look()


class TwistdCase(TestCase):
    """
    A test that starts agents, in a directory of its own; nothing outside of it is touched.

    @ivar within: what runs an agent somewhere else (L{tests.peers.netns}).
    @ivar directory: where they run: their home, and where C{config.yaml} is found.
    """

    timeout = 120
    within: Sequence[str] = ()

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir(mode=0o700)
        self.state_file = self.directory / "state.json"

    def configure(self, text: str) -> None:
        """Write the settings file."""
        path = self.directory / "config.yaml"
        path.touch(mode=0o600)
        path.write_text(text)

    def start_sandbox(self, **settings: Any) -> SandboxService:
        """A sandbox in the test's own process: its ledger and its faults are at hand."""
        wanted = SandboxSettings(**{"token": TOKEN, **settings})
        sandbox = SandboxService(REACTOR, wanted, utc_now)
        sandbox.startService()
        self.addCleanup(lambda: sandbox.stopService() if sandbox.running else None)
        return sandbox

    def start(
        self, *arguments: str, environ: Mapping[str, str] | None = None, service: str = "pipeops-agent"
    ) -> Twistd:
        """Start an agent, or C{service}; it is killed at the test's end if it is still there."""
        program = Twistd()
        command = [*self.within, sys.executable, "-c", TWISTD, "-n", "--pidfile=", service]
        REACTOR.spawnProcess(
            program,
            command[0],
            [*command, *arguments],
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "PYTHONPATH": str(CHECKOUT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "HOME": str(self.directory),
                "TMPDIR": str(self.directory),
                **(environ or {}),
            },
            path=str(self.directory),
        )
        self.addCleanup(self._end, program)
        return program

    def start_for(self, url: str, *arguments: str, environ: Mapping[str, str] | None = None) -> Twistd:
        """Start an agent of the control plane at C{url}."""
        return self.start(
            *("--api-url", url, "--port", "0", "--state-file", str(self.state_file), *arguments),
            environ={"PIPEOPS_TOKEN": TOKEN.reveal(), **(environ or {})},
        )

    async def run_agent(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Twistd:
        """Start one that ends by itself, and wait for that."""
        program = self.start(*arguments, environ=environ)
        await program.ended()
        return program

    def _end(self, program: Twistd) -> Deferred[int] | None:
        if program.status is not None:
            return None
        program.signal("KILL")
        return Deferred.fromCoroutine(program.ended())

    def check_well_behaved(self, program: Twistd) -> None:
        """All it wrote are records, with the keys that every record has, and nothing went past the log."""
        self.assertEqual(program.err.decode(), "")
        self.assertTrue(program.out.endswith(b"\n"))
        for record in program.records:
            self.assertEqual(list(record)[:4], ["time", "level", "msg", "component"])
            self.assertNotIn("traceback", record, record)
            self.assertNotIn("Unhandled", record["msg"])
