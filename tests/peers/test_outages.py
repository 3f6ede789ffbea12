"""
Outages in a real network: two namespaces and a cable that is cut without a word (L{tests.peers.netns}).

The agent's tunnel, in a process of its own, against the Go peer and chisel itself; the whole agent against
the sandbox. With C{PIPEOPS_OUTAGES=1} an outage lasts a minute.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from twisted.trial.unittest import TestCase

from pipeops_agent.scheduling import sleep
from tests.agent.house import look_until
from tests.agent.twistd import TOKEN, TWISTD, Twistd, TwistdCase
from tests.peers.harness import CREDENTIALS, Peers, ServerPeer
from tests.peers.netns import THERE, Cable
from tests.peers.processes import Event, Program, real_reactor

REACTOR: Any = real_reactor()

if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object  # mixed with a TestCase by each variant: trial runs the variants alone

LEAVES: Final = 15.0
"""Seconds within which a tunnel whose packets are lost must not be called connected any more."""
RETURNS: Final = 3.0
"""Seconds from the network's return within which SSH must be authenticated again."""
CLOSES: Final = 5.0
"""Seconds that a stop may take."""
SLACK: Final = 1.0
"""Seconds for a machine that is busy: processes that report, and a test that looks."""

STABLE: Final = 2.0
"""The tests' C{tunnel.stable_after}."""
OUTAGE: Final = 60.0 if os.environ.get("PIPEOPS_OUTAGES") else 20.0
"""Seconds without a network."""
SERVER_PORT: Final = 8080
FORWARD_PORT: Final = 9000

_READS = """
import socket, sys, time
reader = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
reader.recv(1_000_000)
print('{"event": "flows"}', flush=True)
while reader.recv(65536):
    pass
"""
"""Connects to a forward's port, where that is, and reads what comes."""

_TUNNEL = str(Path(__file__).with_name("tunnel_process.py"))


_NOTHING: Final[Event] = {"state": "none", "forwards": [], "authenticated": 0}


class Stopwatch:
    """The seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._began


class Tunnel:
    """The agent's tunnel in its process, and what it says of itself."""

    def __init__(self, program: Program) -> None:
        self.program = program

    @property
    def now(self) -> Event:
        """What it said last."""
        return self.program.events[-1] if self.program.events else _NOTHING

    async def until(self, condition: Callable[[Event], object], what: str, timeout: float = 30.0) -> float:
        """Wait until what it says fulfils C{condition}; return the seconds that took."""
        watch = Stopwatch()
        try:
            await look_until(lambda: condition(self.now), what, timeout)
        except Exception as error:
            raise AssertionError(f"{error}; it says {self.program.events[-5:]}") from None
        return watch()

    async def until_connected(self, timeout: float = 30.0) -> float:
        """Wait until it is, with everything that it forwards."""
        return await self.until(
            lambda event: event["state"] == "connected" and set(event["forwards"]) == {"listening"},
            "the tunnel",
            timeout,
        )

    async def until_lost(self) -> float:
        """Wait until it is not called connected any more."""
        return await self.until(lambda event: event["state"] != "connected", "the loss")

    async def until_authenticated(self, times: int) -> float:
        """Wait until it has logged in so often."""
        return await self.until(lambda event: event["authenticated"] >= times, "the login")


class Outages(_Base):
    """
    What holds with every server; L{serve} starts it.

    Times are those of the defaults, but for C{stable_after}: no test waits for half a minute first.
    """

    cable: Cable
    peers: Peers
    server: ServerPeer

    def setUp(self) -> None:
        self.cable = Cable(self)
        self.peers = Peers(REACTOR, self)

    async def serve(self) -> ServerPeer:
        """Start the server, at L{THERE} and L{SERVER_PORT}; again after its end."""
        raise NotImplementedError

    def start_tunnel(self, *ports: int) -> Tunnel:
        """Start the agent's tunnel."""
        user, password = CREDENTIALS
        wanted = {
            "server": self.server.url,
            "fingerprint": self.server.fingerprint,
            "login": [user, password.reveal()],
            "ports": ports or [FORWARD_PORT],
            "settings": {"stable_after": STABLE},
        }
        return Tunnel(
            self.peers.program(
                *self.cable.here, sys.executable, _TUNNEL, json.dumps(wanted), stop_signal="TERM"
            )
        )

    async def stable_tunnel(self) -> Tunnel:
        """A server, and a tunnel to it that has lasted."""
        self.server = await self.serve()
        tunnel = self.start_tunnel()
        await tunnel.until_connected()
        await sleep(REACTOR, STABLE)
        return tunnel

    async def outage(self, seconds: float) -> None:
        """Every packet is lost for so long; then the tunnel is authenticated within L{RETURNS}."""
        tunnel = await self.stable_tunnel()
        watch = Stopwatch()
        self.cable.cut()
        await tunnel.until_lost()
        self.assertLess(watch(), LEAVES + SLACK)
        await sleep(REACTOR, max(0.0, seconds - watch()))
        self.cable.mend()
        self.assertLess(await tunnel.until_authenticated(2), RETURNS + SLACK)

    async def test_outage(self) -> None:
        """The loss is known within 15 s, and SSH authenticated within 3 s of the network's return."""
        await self.outage(OUTAGE)

    async def test_server_killed(self) -> None:
        """kill -9 of the server: known at once; 3 s after it is back on its port the tunnel is, too."""
        tunnel = await self.stable_tunnel()
        await self.server.kill()
        self.assertLess(await tunnel.until_lost(), SLACK)
        await sleep(REACTOR, 4.0)
        await self.serve()
        self.assertLess(await tunnel.until_connected(), RETURNS + SLACK)

    async def test_agent_killed_in_an_outage(self) -> None:
        """
        kill -9 of an agent of whose end the server does not hear: the next one has its forward, or shows it
        refused until the server lets go, and then has it, without being started again.
        """
        tunnel = await self.stable_tunnel()
        self.cable.cut()
        await tunnel.program.kill()
        self.cable.mend()
        successor = self.start_tunnel()
        await successor.until(
            lambda event: event["state"] == "connected" or event["forwards"] == ["refused"], "an answer"
        )
        await successor.until_connected(timeout=90.0)

    async def test_frozen_while_a_ping_is_written(self) -> None:
        """
        A server that stops while more is to be written than any buffer takes: the ping waits behind it, and
        its deadline counts all the same. A stop in that state ends in time.
        """
        self.cable.narrow(16_384)
        tunnel = await self.stable_tunnel()
        reader = self.peers.program(*self.cable.there, sys.executable, "-c", _READS, str(FORWARD_PORT))
        await reader.wait_for("flows")
        pid = self.server.program.pid
        os.kill(pid, signal.SIGSTOP)
        self.assertLess(await tunnel.until_lost(), LEAVES + SLACK)
        os.kill(pid, signal.SIGCONT)
        await tunnel.until_connected(timeout=60.0)
        os.kill(pid, signal.SIGSTOP)
        await sleep(REACTOR, 1.0)
        watch = Stopwatch()
        await tunnel.program.stop()
        self.assertLess(watch(), CLOSES)


class GoOutages(Outages, TestCase):
    """Our Go peer: the SSH and the WebSocket that chisel is built of."""

    timeout = 150

    async def serve(self) -> ServerPeer:
        return await self.peers.gochisel_server(host=THERE, port=SERVER_PORT, within=self.cable.there)


class ChiselOutages(Outages, TestCase):
    """Chisel itself, where C{CHISEL} names it."""

    timeout = 150

    async def serve(self) -> ServerPeer:
        return await self.peers.chisel_server(host=THERE, port=SERVER_PORT, within=self.cable.there)


class AgentOutages(TwistdCase):
    """The whole agent, and the sandbox as its control plane."""

    timeout = 150

    def setUp(self) -> None:
        super().setUp()
        self.cable = Cable(self)
        self.peers = Peers(REACTOR, self)
        self.within = self.cable.here
        self.api = f"https://{THERE}:{SERVER_PORT}"
        token = self.directory / "sandbox-token"
        token.touch(mode=0o600)
        token.write_text(TOKEN.reveal())

    async def start_sandbox_there(self) -> Program:
        """The sandbox, in a process of its own."""
        options = ["--listen", THERE, "--port", str(SERVER_PORT), "--tls", "--tls-dir", str(self.directory)]
        options += ["--token-file", str(self.directory / "sandbox-token")]
        command = [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "pipeops-sandbox", *options]
        sandbox = self.peers.program(*self.cable.there, *command, parse=_ready, stop_signal="TERM")
        await sandbox.wait_for("ready")
        return sandbox

    async def connected_agent(self) -> Twistd:
        """A sandbox, and an agent whose tunnel has lasted."""
        self.sandbox = await self.start_sandbox_there()
        self.configure(f"tunnel: {{stable_after: {STABLE}s}}\n")
        agent = self.start_for(self.api, "--ca-file", str(self.directory / "ca.pem"))
        await agent.says("the tunnel is connected")
        await sleep(REACTOR, STABLE)
        return agent

    async def outage(self, seconds: float) -> None:
        """As in L{Outages}."""
        agent = self.agent = await self.connected_agent()
        watch = Stopwatch()
        self.cable.cut()
        await agent.says("the tunnel is waiting")
        self.assertLess(watch(), LEAVES + SLACK)
        await sleep(REACTOR, max(0.0, seconds - watch()))
        self.cable.mend()
        watch = Stopwatch()
        await agent.until(lambda: _logged_in(agent), "another login")
        self.assertLess(watch(), RETURNS + SLACK)

    async def test_outage(self) -> None:
        """The loss is known within 15 s, and SSH authenticated within 3 s of the network's return."""
        await self.outage(OUTAGE)


def _ready(line: str) -> Event | None:
    """The one event of a sandbox's output."""
    return {"event": "ready"} if re.search(r"sandbox (is )?ready at", line) else None


def _logged_in(agent: Twistd) -> bool:
    """Whether there was a second login: what is said after it, be it that the ports are still held."""
    again = len(agent.saying("the tunnel is connected")) > 1
    return again or bool(agent.saying("the server refused the configuration"))
