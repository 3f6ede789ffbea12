"""The peers among themselves, through the harness: real processes and sockets on 127.0.0.1."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from unittest import SkipTest

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from pipeops_agent.scheduling import sleep
from tests.peers import building, processes
from tests.peers.harness import Peer, Peers, chisel_lines, free_port, tunnel_server
from tests.peers.processes import PeerEnded, Program, flags, json_lines, real_reactor

_DOCUMENT = Path(__file__).parents[2] / "docs" / "chisel.md"


class PeersTestCase(TestCase):
    """A test with peers of its own."""

    def setUp(self) -> None:
        self.peers = Peers(real_reactor(), self)


class GoClientContract:
    """What Go clients and servers do with each other, whoever wrote them."""

    peers: Peers

    async def make_server(self) -> Peer:
        raise NotImplementedError

    async def make_client(self, peer: Peer, *remotes: str) -> Program:
        raise NotImplementedError

    async def test_bytes_go_through_unharmed(self) -> None:
        """A megabyte each way at once, on several connections, arrives as it was sent."""
        services = await self.peers.services()
        server = await self.make_server()
        port = free_port()
        client = await self.make_client(server, f"R:{port}:{services['load']}")
        await client.wait_for("configured")
        figures = await self.peers.load("both", f"127.0.0.1:{port}", n=4 << 20, c=4)
        assert figures["ok"], figures
        assert figures["checked"], figures

    async def test_a_taken_port_is_refused_by_name(self) -> None:
        """A second session can't have the first one's port, and is told so."""
        server = await self.make_server()
        port = free_port()
        first = await self.make_client(server, f"R:{port}:127.0.0.1:9")
        await first.wait_for("configured")
        second = await self.peers.gochisel_client(server, f"R:{port}:127.0.0.1:9")
        closed = await second.wait_for("closed")
        assert f"cannot listen on R:{port}=>9" in closed["error"], closed

    async def test_a_killed_server_is_noticed(self) -> None:
        """The client hears of the server's death."""
        server = await self.make_server()
        client = await self.make_client(server, f"R:{free_port()}:127.0.0.1:9")
        await client.wait_for("configured")
        await server.kill()
        await client.wait_for("closed")


class GochiselBothSides(GoClientContract, PeersTestCase):
    """Our Go client and our Go server."""

    async def make_server(self) -> Peer:
        return await self.peers.gochisel_server()

    async def make_client(self, peer: Peer, *remotes: str) -> Program:
        return await self.peers.gochisel_client(peer, *remotes)


class ChiselClient(GoClientContract, PeersTestCase):
    """chisel's client and our Go server."""

    async def make_server(self) -> Peer:
        return await self.peers.gochisel_server()

    async def make_client(self, peer: Peer, *remotes: str) -> Program:
        return await self.peers.chisel_client(peer, *remotes)


class ChiselServer(GoClientContract, PeersTestCase):
    """Our Go client and chisel's server."""

    async def make_server(self) -> Peer:
        return await self.peers.chisel_server()

    async def make_client(self, peer: Peer, *remotes: str) -> Program:
        return await self.peers.gochisel_client(peer, *remotes)


class GochiselServerTests(PeersTestCase):
    """What tests ask of our Go server."""

    async def test_tls(self) -> None:
        """A server with a certificate of its own is reached by those who know its CA."""
        server = await self.peers.gochisel_server(tls=True)
        self.assertTrue(tunnel_server(server).address.tls)
        client = await self.peers.gochisel_client(
            server, "R:0:127.0.0.1:9", tls_ca=self.peers.pem_file(server.ca)
        )
        await client.wait_for("configured", ok=True)
        stranger = await self.peers.gochisel_client(server, "R:0:127.0.0.1:9")
        self.assertIn("certificate", (await stranger.wait_for("closed"))["error"])

    async def test_a_successor_has_the_same_address_and_key(self) -> None:
        """A server that comes back is the same server."""
        first = await self.peers.gochisel_server()
        await first.stop()
        second = await self.peers.gochisel_server(port=first.port)
        self.assertEqual((first.url, first.fingerprint), (second.url, second.fingerprint))

    async def test_orders(self) -> None:
        """It asks for a channel, falls silent and cuts its connections when told to."""
        server = await self.peers.gochisel_server()
        client = await self.peers.gochisel_client(server, "R:0:127.0.0.1:9")
        await server.program.wait_for("configured", ok=True)
        server.program.order("open", type="chisel", data="socks")
        probed = await server.program.wait_for("probed")
        self.assertEqual((probed["ok"], probed["error"]), (False, "SOCKS5 is not enabled"))
        server.program.order("freeze")
        await server.program.wait_for("frozen")
        server.program.order("thaw")
        await server.program.wait_for("thawn")
        server.program.order("drop")
        await client.wait_for("closed")

    async def test_hostile_modes_are_documented(self) -> None:
        """docs/chisel.md has one row for each mode, in order, with what is expected of a client."""
        modes = await self.peers.modes()
        rows = re.findall(
            r"^\| `([a-z0-9-]+)` \| (\S+) \| (end|refuse|carry-on|bounded) \| (.*) \|$",
            _DOCUMENT.read_text(),
            re.MULTILINE,
        )
        self.assertEqual([(m.mode, m.stage, m.expect, m.does) for m in modes], rows)

    async def test_an_unknown_mode_is_an_error(self) -> None:
        """A misspelt mode does not pass for a well-behaved server."""
        with self.assertRaises(PeerEnded) as caught:
            await self.peers.gochisel_server(hostile="no-such-mode")
        self.assertIn("no hostile mode", str(caught.exception))

    async def test_it_ends_with_its_input(self) -> None:
        """The end of its standard input ends it with status 0: no test leaves one behind."""
        server = await self.peers.gochisel_server()
        await server.stop()
        self.assertEqual(server.program.status, 0)


class ProgramTests(PeersTestCase):
    """Waiting for what a program reports."""

    def start(self, script: str, stop_signal: str | None = None) -> Program:
        program = Program.start(real_reactor(), ["/bin/sh", "-c", script], json_lines, stop_signal)
        self.addCleanup(lambda: Deferred.fromCoroutine(program.kill()))
        return program

    async def test_counted_from_the_start(self) -> None:
        """Events that came before the wait count; fields choose among them."""
        program = self.start(
            """for n in 1 2 3; do echo "{\\"event\\": \\"up\\", \\"n\\": $n}"; done; read x"""
        )
        self.assertEqual((await program.wait_for("up", n=3))["n"], 3)
        self.assertEqual((await program.wait_for("up", count=2))["n"], 2)
        self.assertEqual(len(program.seen("up")), 3)

    async def test_an_end_fails_those_who_wait(self) -> None:
        """A program that ends is not waited for, and its last words are in the error."""
        program = self.start("echo what a pity >&2; exit 3")
        with self.assertRaisesRegex(PeerEnded, "(?s)status 3 .*what a pity"):
            await program.wait_for("up")
        with self.assertRaisesRegex(PeerEnded, "status 3"):
            await program.wait_for("up")
        self.assertEqual(await program.ended(), 3)

    async def test_one_that_does_not_stop_is_killed(self) -> None:
        """Stopping ends by force where politeness does not help."""
        self.patch(processes, "_STOP_SECONDS", 0.2)
        program = self.start("""trap "" TERM; echo '{"event": "up"}'; while :; do sleep 1; done""", "TERM")
        await program.wait_for("up")
        await program.stop()
        self.assertEqual(program.status, -signal.SIGKILL)

    async def test_a_leash_ends_with_the_hand_that_holds_it(self) -> None:
        """A program that does not watch its input dies with the one that started it."""
        holder = self.start(
            f"""{building.gochisel()} leash /bin/sleep 60 &
            printf '{{"event": "up", "pid": %d}}\\n' $!; read x"""
        )
        pid = (await holder.wait_for("up"))["pid"]
        status = Path(f"/proc/{pid}/status")
        await until(lambda: status.read_text().startswith("Name:\tsleep"))
        await holder.kill()
        await until(lambda: not status.exists() or "State:\tZ" in status.read_text())


async def until(condition: Callable[[], bool]) -> None:
    """Look every few milliseconds; for what no event announces."""
    for _ in range(500):
        if condition():
            return
        await sleep(real_reactor(), 0.01)
    raise AssertionError("it did not come about within 5 s")


class BuildingTests(SynchronousTestCase):
    """When the Go peer can't be had."""

    def without_go(self, ci: str) -> None:
        self.patch(os, "environ", {"PATH": "/nowhere", "PIPEOPS_CACHE": self.mktemp(), "CI": ci})

    def test_skipped_without_go(self) -> None:
        """Without Go the test is skipped, with the reason."""
        self.without_go(ci="")
        with self.assertRaisesRegex(SkipTest, "go"):
            building.gochisel()

    def test_not_skipped_in_ci(self) -> None:
        """A pipeline fails instead."""
        self.without_go(ci="true")
        with self.assertRaisesRegex(RuntimeError, "go"):
            building.gochisel()

    def test_chisel_that_is_not_there(self) -> None:
        """No CHISEL skips; a wrong one is an error."""
        self.patch(os, "environ", {})
        self.assertRaises(SkipTest, building.chisel)
        self.patch(os, "environ", {"CHISEL": "/nowhere/chisel"})
        self.assertRaises(RuntimeError, building.chisel)

    def test_flags(self) -> None:
        """False and 0 are values; only what is empty is left to the program's default."""
        options = [("tls", True), ("check", False), ("ping-interval", 0), ("hostile", ""), ("auth", None)]
        self.assertEqual(flags(options), ["-tls=true", "-check=false", "-ping-interval=0"])

    def test_lines_of_chisel(self) -> None:
        """Its log's lines become events."""
        self.assertEqual(
            chisel_lines("2026/11/23 22:46:38 server: Fingerprint KpSYHkes="),
            {"event": "fingerprint", "fingerprint": "KpSYHkes="},
        )
        self.assertEqual(chisel_lines("anything")["event"], "log")
