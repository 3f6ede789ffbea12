"""What stands around a client under measurement: server, services, load; all for one run."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred

from benchmarks.place import HERE, Distance, Place
from benchmarks.programs import spawn
from tests.peers.building import gochisel
from tests.peers.harness import Peer, Peers, ServerPeer, Services
from tests.peers.processes import Event, Parser, Program, RealReactor, flags

OPENING: Final = 120.0
"""Seconds in which channels must have been opened and used."""


class LoadFailed(Exception):
    """The load did not get through: the run has no figures."""


class Lab:
    """
    One run's surroundings; L{clean} ends all of it.

    @ivar directory: for the run's files; gone afterwards.
    @ivar near: where the client is, with its control plane and the services behind it.
    @ivar far: where the server is, with the load.
    """

    near: Place = HERE
    far: Place = HERE

    def __init__(self, reactor: RealReactor) -> None:
        self.reactor = reactor
        self._room = tempfile.TemporaryDirectory(prefix="pipeops-benchmark-")
        self.directory = Path(self._room.name)
        self._started: list[Program] = []
        self._cleanups: list[Callable[[], object]] = []
        self._files = 0

    def addCleanup(self, f: Callable[..., object], *args: Any, **kwargs: Any) -> None:  # noqa: N802 - trial's
        """Call C{f} at the end of the run, the last one first."""
        self._cleanups.append(lambda: f(*args, **kwargs))

    def mktemp(self) -> str:
        """A path in this run's directory at which there is nothing yet."""
        self._files += 1
        return str(self.directory / f"file-{self._files}")

    def peers(self, place: Place) -> Peers:
        """What starts peers at C{place}."""
        return Peers(self.reactor, self, host=place.host, network=place.network)

    async def move_apart(self, distance: Distance) -> None:
        """Put C{distance} between what is started near and far from now on."""
        up, _ = await self.peers(HERE).link(
            rtt=f"{distance.round_trip}s", loss=distance.loss, rate=distance.rate
        )
        self.near = Place(up["near"], up["near_net"])
        self.far = Place(up["far"], up["far_net"])

    async def clean(self) -> None:
        """End everything that was started."""
        while self._cleanups:
            await maybeDeferred(self._cleanups.pop())
        self._room.cleanup()

    def start(
        self, parse: Parser, *arguments: str, stop_signal: str | None = "TERM", network: str = ""
    ) -> Program:
        """
        Start a program near, that ends with the run.

        @param network: start it in this network namespace instead.
        """
        program = spawn(
            self.reactor,
            arguments,
            parse,
            self.directory,
            network=network or self.near.network,
            stop_signal=stop_signal,
        )
        self._started.append(program)
        self.addCleanup(lambda: Deferred.fromCoroutine(program.kill()))
        return program

    async def server(self, *, tls: bool = False) -> ServerPeer:
        """
        chisel's own server where C{CHISEL} names it, else that of our Go peer.

        @param tls: with a certificate for its address; C{ca} of what is returned vouches for it.
        """
        if os.environ.get("CHISEL"):
            return await self.peers(self.far).chisel_server(tls=tls)
        return await self.peers(self.far).gochisel_server(quiet=True, tls=tls)

    def ca_file(self, server: Peer) -> str:
        """The path of what vouches for C{server}; empty where nothing has to."""
        ca = server.ca if isinstance(server, ServerPeer) else ""
        return self.peers(self.near).pem_file(ca) if ca else ""

    async def services(self, *, buffer: int = 0) -> Services:
        """
        What the clients forward to.

        @param buffer: the kernel's buffers for each connection under load, in bytes; 0: its own choice.
        """
        return await self.peers(self.near).services(buffer=buffer)

    async def load(self, mode: str, where: int | str, **more: object) -> Event:
        """
        Put load on C{where}, the server's port, or an address, and return its figures.

        @raise LoadFailed: not everything came through.
        """
        address = where if isinstance(where, str) else f"127.0.0.1:{where}"
        figures = await self.peers(self.far).load(mode, address, **more)
        if not figures["ok"]:
            said = [program.events[-5:] for program in self._started]
            raise LoadFailed(f"{mode} {more}: {figures}; the client said: {said}")
        return figures

    async def open_channels(self, port: int, count: int, *, use: int = 0) -> Program:
        """
        Open C{count} connections, each used once, and hold them until L{close_channels}.

        @param use: bytes that each carries in each direction before.
        """
        options = flags(
            [("m", "idle"), ("a", f"127.0.0.1:{port}"), ("c", count), ("use", use), ("check", False)]
        )
        program = Program.start(self.reactor, [gochisel(), "load", *options], _plain_json)
        self.addCleanup(lambda: Deferred.fromCoroutine(program.kill()))
        await program.wait_for("open", timeout=OPENING)
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
