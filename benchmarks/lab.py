"""What stands around a client under measurement: server, services, load; all for one run."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from benchmarks.programs import spawn
from tests.peers.building import gochisel
from tests.peers.harness import Peers, ServerPeer, Services
from tests.peers.processes import Event, Parser, Program, RealReactor, flags


class LoadFailed(Exception):
    """The load did not get through: the run has no figures."""


class Lab:
    """
    One run's surroundings; L{clean} ends all of it.

    @ivar directory: for the run's files; gone afterwards.
    """

    def __init__(self, reactor: RealReactor) -> None:
        self.reactor = reactor
        self._room = tempfile.TemporaryDirectory(prefix="pipeops-benchmark-")
        self.directory = Path(self._room.name)
        self._cleanups: list[Callable[[], object]] = []
        self._files = 0
        self.peers = Peers(reactor, self)

    def addCleanup(self, f: Callable[..., object], *args: Any, **kwargs: Any) -> None:  # noqa: N802 - trial's
        """Call C{f} at the end of the run, the last one first."""
        self._cleanups.append(lambda: f(*args, **kwargs))

    def mktemp(self) -> str:
        """A path in this run's directory at which there is nothing yet."""
        self._files += 1
        return str(self.directory / f"file-{self._files}")

    async def clean(self) -> None:
        """End everything that was started."""
        while self._cleanups:
            await maybeDeferred(self._cleanups.pop())
        self._room.cleanup()

    def start(self, parse: Parser, *arguments: str) -> Program:
        """Start a program that ends with the run."""
        program = spawn(self.reactor, arguments, parse, self.directory)
        self.addCleanup(lambda: Deferred.fromCoroutine(program.kill()))
        return program

    async def server(self) -> ServerPeer:
        """chisel's own server where C{CHISEL} names it, else that of our Go peer."""
        if os.environ.get("CHISEL"):
            return await self.peers.chisel_server()
        return await self.peers.gochisel_server(quiet=True)

    async def services(self) -> Services:
        """What the clients forward to."""
        return await self.peers.services()

    async def load(self, mode: str, port: int, **more: object) -> Event:
        """
        Put load on C{port} and return its figures.

        @raise LoadFailed: not everything came through.
        """
        figures = await self.peers.load(mode, f"127.0.0.1:{port}", **more)
        if not figures["ok"]:
            raise LoadFailed(f"{mode} {more}: {figures}")
        return figures

    async def open_channels(self, port: int, count: int) -> Program:
        """Open C{count} connections, each used once, and hold them until L{close_channels}."""
        options = flags([("m", "idle"), ("a", f"127.0.0.1:{port}"), ("c", count), ("check", False)])
        program = Program.start(self.reactor, [gochisel(), "load", *options], _plain_json)
        self.addCleanup(lambda: Deferred.fromCoroutine(program.kill()))
        await program.wait_for("open")
        return program

    async def close_channels(self, program: Program) -> None:
        """
        Use each connection once more, and close them all.

        @raise LoadFailed: one of them was dead.
        """
        await program.stop()
        closing = program.seen("figures")
        if not closing or not closing[0]["ok"]:
            raise LoadFailed(f"idle connections: {closing}")


def _plain_json(line: str) -> Event | None:
    try:
        return {"event": "figures", **json.loads(line)}
    except ValueError:
        return None
