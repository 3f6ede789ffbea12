"""
Starts the peers that the tunnel is tested with, and ends them with the test.

A contract suite is written once against L{Peer}; each variant says how its server is made::

    class SandboxServer(Contract, TestCase):
        async def make_server(self) -> Peer: ...


    class GoServer(Contract, TestCase):
        async def make_server(self) -> Peer:
            return await self.peers.gochisel_server()


    class ChiselServer(Contract, TestCase):
        async def make_server(self) -> Peer:
            return await self.peers.chisel_server()

The Go peer is built on first use; without Go, or without C{CHISEL}, the test is skipped and says why
(L{tests.peers.building}).
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import msgspec
from twisted.internet.defer import Deferred

from pipeops_agent.orders import ServerAddress, TunnelServer
from pipeops_agent.secrets import Secret
from tests.net.authority import Authority
from tests.peers.building import chisel, gochisel
from tests.peers.processes import Event, Parser, PeerEnded, Program, RealReactor, flags, json_lines

CREDENTIALS = ("agent", Secret("correct horse:battery"))
"""The default login; the password holds a colon, which belongs to it."""

KEY_SEED = "peer"

_PORT_ATTEMPTS = 5


class Owner(Protocol):
    """Whom the peers end with: a test case, or a run of a benchmark."""

    def addCleanup(self, f: Callable[..., object], *args: Any, **kwargs: Any) -> None:  # noqa: N802 - trial's name
        """Call C{f} at the end; what it returns may be a Deferred."""

    def mktemp(self) -> str:
        """Return a path at which there is nothing yet."""


class Peer(Protocol):
    """A chisel server that someone else runs."""

    @property
    def url(self) -> str:
        """C{ws://} or C{wss://}, without a path."""

    @property
    def fingerprint(self) -> str:
        """Of its SSH host key: 44 characters of base64."""

    @property
    def credentials(self) -> tuple[str, Secret] | None:
        """The login that it accepts; None: any."""

    async def stop(self) -> None:
        """End it in order."""

    async def kill(self) -> None:
        """End it as a power cut does: no goodbye above TCP."""


@dataclass(frozen=True)
class ServerPeer:
    """A server in a process of its own; a L{Peer}."""

    url: str
    fingerprint: str
    credentials: tuple[str, Secret] | None
    program: Program
    ca: str = ""
    """The PEM certificate that vouches for a C{wss} server."""

    @property
    def port(self) -> int:
        """For a successor under the same address."""
        port = urlsplit(self.url).port
        assert port is not None
        return port

    async def stop(self) -> None:
        await self.program.stop()

    async def kill(self) -> None:
        await self.program.kill()


@dataclass(frozen=True)
class Services:
    """The TCP services behind the tunnel: C{host:port} by name, and the CA of the one named tls."""

    addresses: Mapping[str, str]
    ca: str
    program: Program

    def __getitem__(self, name: str) -> str:
        return self.addresses[name]


class Mode(msgspec.Struct, frozen=True):
    """A way in which C{gochisel server} misbehaves, and what a good client does about it."""

    mode: str
    stage: str
    expect: Literal["end", "refuse", "carry-on", "bounded"]
    does: str


def tunnel_server(peer: Peer) -> TunnelServer:
    """Return C{peer} as an order of the control plane names it."""
    parts = urlsplit(peer.url)
    assert parts.hostname is not None
    address = ServerAddress(
        host=parts.hostname,
        port=parts.port or (443 if parts.scheme == "wss" else 80),
        path=parts.path or "/",
        tls=parts.scheme == "wss",
    )
    return TunnelServer(address=address, fingerprint=peer.fingerprint, credentials=peer.credentials)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody has at this moment, for programs that can't choose one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_CHISEL_LINES = [
    (re.compile(r"server: Fingerprint (?P<fingerprint>\S+)$"), "fingerprint"),
    (re.compile(r"server: Listening on (?P<url>\S+)$"), "listening"),
    (re.compile(r"server: session#(?P<session>\d+): .*: Listening$"), "bound"),
    (re.compile(r"client: Connected "), "configured"),
    (re.compile(r"client: (?P<error>Connection error: .*)$"), "error"),
    (re.compile(r"client: Disconnected"), "closed"),
]


def chisel_lines(line: str) -> Event:
    """Make an event of a line of chisel's log; C{log} where it is none of those that tests wait for."""
    for pattern, event in _CHISEL_LINES:
        found = pattern.search(line)
        if found:
            return {"event": event, **found.groupdict()}
    return {"event": "log", "line": line}


class Peers:
    """
    Starts peers for one test; all of them end with it.

    @param host: the address at which servers and services listen.
    @param network: the file of the network namespace in which all of them run; empty: this process's own.
    """

    def __init__(
        self, reactor: RealReactor, case: Owner, *, host: str = "127.0.0.1", network: str = ""
    ) -> None:
        self._reactor = reactor
        self._case = case
        self._host = host
        self._network = network

    def _start(
        self, arguments: Sequence[str], parse: Parser = json_lines, stop_signal: str | None = None
    ) -> Program:
        if self._network:
            arguments = [gochisel(), "leash", f"-net={self._network}", *arguments]
        program = Program.start(self._reactor, arguments, parse, stop_signal)
        self._case.addCleanup(lambda: Deferred.fromCoroutine(program.kill()))
        return program

    async def gochisel_server(
        self,
        *,
        host: str = "",
        port: int = 0,
        within: Sequence[str] = (),
        credentials: tuple[str, Secret] | None = CREDENTIALS,
        hostile: str = "",
        tls: bool = False,
        **more: object,
    ) -> ServerPeer:
        """
        Start C{gochisel server}.

        @param host: where it listens; by default where all of these peers do.
        @param within: what runs the program somewhere else (L{tests.peers.netns}).
        @param hostile: one of the names of L{modes}.
        @param more: other flags, with underscores: C{half_close=True}, C{rekey_bytes=4096},
            C{ping_interval="1s"}, C{config_timeout="1s"}, C{quiet=True}.
        """
        host = host or self._host
        named = [("listen", f"{host}:{port}"), ("key-seed", KEY_SEED), ("auth", _login(credentials))]
        named += [("hostile", hostile)]
        other = [("tls", tls), *((name.replace("_", "-"), value) for name, value in more.items())]
        program = self._start([*within, gochisel(), "server", *flags([*named, *other])])
        up = await program.wait_for("listening")
        return ServerPeer(up["url"], up["fingerprint"], credentials, program, up["ca"])

    def program(self, *arguments: str, parse: Parser = json_lines, stop_signal: str | None = None) -> Program:
        """Start any program, by its full path; it ends with the test."""
        return self._start(arguments, parse, stop_signal)

    async def gochisel_client(self, peer: Peer, *remotes: str, **more: object) -> Program:
        """
        Start C{gochisel client}, which offers C{remotes} (C{R:port:host:port}) to C{peer}.

        It tries once: wait for its C{configured}, or its C{closed} with the C{error}.

        @param more: other flags, as for L{gochisel_server}: C{tls_ca}, C{keepalive}, C{half_close}.
        """
        named = [("server", peer.url), ("fingerprint", peer.fingerprint), ("auth", _login(peer.credentials))]
        other = [(name.replace("_", "-"), value) for name, value in more.items()]
        return self._start([gochisel(), "client", *flags([*named, *other]), *remotes])

    async def services(self, **more: object) -> Services:
        """
        Start C{gochisel services}.

        @param more: C{buffer}, as C{gochisel services -h} explains.
        """
        options = flags([("listen", self._host), *more.items()])
        program = self._start([gochisel(), "services", *options])
        up = await program.wait_for("listening")
        return Services(up["services"], up["ca"], program)

    async def load(self, mode: str, *addresses: str, **more: object) -> Event:
        """
        Run C{gochisel load} through C{addresses}, each of which leads to the service C{load}.

        @param mode: C{down}, C{up}, C{both} (bytes), C{steady-down}, C{steady-up} (rates of connections),
            C{rtt} (round trips), C{conn} (connections).
        @param more: C{n}, C{c}, C{s}, C{check}, C{warm}, C{for}, C{probe}, C{buffer}, C{timeout}, as
            C{gochisel load -h} explains.
        @return: the figures; C{ok} is False, with C{error}, where something went wrong.
        """
        arguments = flags([("m", mode), ("a", ",".join(addresses)), *more.items()])
        program = self._start([gochisel(), "load", *arguments], _figures)
        return await program.wait_for("figures", timeout=300.0)

    async def modes(self) -> list[Mode]:
        """Return every hostile mode of C{gochisel server}, in the order of a connection's stages."""
        program = self._start([gochisel(), "modes"], _figures)
        await program.ended()
        return [msgspec.convert(event, Mode) for event in program.events]

    async def link(self, **options: object) -> tuple[Event, Program]:
        """
        Start C{gochisel link}: two network namespaces and what lies between them.

        @param options: C{rtt}, C{loss}, C{rate}, C{queue}, as C{gochisel link -h} explains.
        @return: the event C{up}, which names the ends' addresses and namespaces, and the program.
        """
        program = self._start([gochisel(), "link", *flags(options.items())])
        return await program.wait_for("up"), program

    async def chisel_server(
        self,
        *,
        host: str = "",
        port: int = 0,
        within: Sequence[str] = (),
        credentials: tuple[str, Secret] | None = CREDENTIALS,
        tls: bool = False,
    ) -> ServerPeer:
        """
        Start chisel itself as a server with reverse tunnels; C{host} and C{within} as for L{gochisel_server}.

        @param tls: with a certificate of its own, whose authority is in the answer.
        """
        host = host or self._host
        program = chisel()
        arguments = ["server", "--host", host, "--reverse", "--key", KEY_SEED]
        scheme, ca = "ws", ""
        if tls:
            authority = Authority("Peers' CA")
            identity = authority.issue(host)
            arguments += ["--tls-cert", self.pem_file(identity.certificate_pem.decode())]
            arguments += ["--tls-key", self.pem_file(identity.key_pem().decode())]
            scheme, ca = "wss", authority.identity.certificate_pem.decode()
        if credentials is not None:
            arguments += ["--auth", _login(credentials)]
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            listen = port or free_port()
            running = self._leash(program, *arguments, "--port", str(listen), within=within)
            try:
                await running.wait_for("listening")
            except PeerEnded:
                if port or attempt == _PORT_ATTEMPTS:
                    raise
                continue  # somebody else was quicker to take the port
            fingerprint = running.seen("fingerprint")[0]["fingerprint"]
            return ServerPeer(f"{scheme}://{host}:{listen}", fingerprint, credentials, running, ca)
        raise AssertionError("the last attempt returns or raises")

    async def chisel_client(self, peer: Peer, *remotes: str) -> Program:
        """Start chisel itself as a client; it tries again and again."""
        login = ["--auth", _login(peer.credentials)] if peer.credentials is not None else []
        server = peer.url.replace("ws", "http", 1)
        return self._leash(chisel(), "client", "--fingerprint", peer.fingerprint, *login, server, *remotes)

    def _leash(self, *arguments: str, within: Sequence[str] = ()) -> Program:
        """Start a program that does not watch its input, so that it ends with the test all the same."""
        return self._start([*within, gochisel(), "leash", *arguments], chisel_lines, stop_signal="TERM")

    def pem_file(self, pem: str) -> str:
        """Write a certificate where a program can read it, and return the path."""
        path = Path(self._case.mktemp())
        path.write_text(pem)
        return str(path.absolute())


def _login(credentials: tuple[str, Secret] | None) -> str:
    return "" if credentials is None else f"{credentials[0]}:{credentials[1].reveal()}"


def _figures(line: str) -> Event | None:
    """Parse the output of the commands that print plain objects."""
    try:
        return {"event": "figures", **json.loads(line)}
    except ValueError:
        return None
