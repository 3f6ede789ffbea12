"""The clients that are measured: the agent, Go's chisel, and Conch and Autobahn as they come."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from benchmarks.control_plane import serve_control_plane
from benchmarks.lab import Lab
from tests.peers.building import chisel
from tests.peers.harness import Peer, chisel_lines, free_port
from tests.peers.processes import Event, Program

TWISTD: Final = "from twisted.scripts.twistd import run; run()"
TOKEN: Final = "an-invented-token"  # noqa: S105 - nothing real accepts it


@dataclass(frozen=True)
class Launched:
    """
    A client that was just started; its event C{configured} says that the tunnel is up.

    @ivar port: the server's port that leads to the target then.
    @ivar began: when the process was started, in the reactor's seconds.
    @ivar web_port: the agent's own HTTP; 0: it has none.
    """

    program: Program
    port: int
    began: float
    web_port: int = 0


class Client(Protocol):
    """
    A way to get a tunnel.

    @ivar name: in results and on the command line.
    @ivar title: in tables.
    """

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    def launch(self, lab: Lab, server: Peer, target: str) -> Launched:
        """Start it, for a tunnel to C{server} that leads to C{target} (host:port)."""


def agent_lines(line: str) -> Event | None:
    """Make an event of the record that says the tunnel is up, and of those that say what is wrong."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if record.get("component") == "tunnel" and record.get("state") == "connected":
        return {"event": "configured"}
    return {"event": "wrong", "record": record} if record.get("level") not in {"debug", "info"} else None


def start_agent(
    lab: Lab, api_url: str, tunnel: Mapping[str, Any], ca_file: str = "", kubeconfig: str = ""
) -> tuple[Program, int]:
    """
    Start C{twistd -n --pidfile= pipeops-agent} with the defaults, and return it and its HTTP port.

    @param tunnel: what is not as by default in that section.
    @param ca_file: vouches for the control plane and the tunnel's server.
    @param kubeconfig: of its cluster; empty: it has none.
    """
    web_port = free_port()
    config = Path(lab.mktemp())
    config.touch(mode=0o600)
    settings = {
        "agent": {"state_file": lab.mktemp()},
        "pipeops": {"api_url": api_url, "token": TOKEN, **({"tls": {"ca_file": ca_file}} if ca_file else {})},
        "tunnel": dict(tunnel),
        "kubernetes": {"kubeconfig": kubeconfig},
        "server": {"port": web_port},
    }
    config.write_text(json.dumps(settings), encoding="utf-8")
    return lab.start(agent_lines, *python_program("pipeops-agent", "--config", str(config))), web_port


def python_program(service: str, *options: str) -> list[str]:
    """The command for one of our twistd services, in the foreground, on the Python that runs this."""
    return [sys.executable, "-c", TWISTD, "-n", "--pidfile=", service, *options]


@dataclass(frozen=True)
class AgentClient:
    """
    The agent as people run it, with a control plane that has nothing else to do.

    @ivar kubeconfig: of its cluster; empty: it has none.
    """

    name: str = "agent"
    title: str = "agent"
    kubeconfig: str = ""

    def launch(self, lab: Lab, server: Peer, target: str) -> Launched:
        port = free_port()
        listener = serve_control_plane(lab.reactor, server, {"load": port}, lab.near)
        lab.addCleanup(listener.stopListening)
        forwards = [{"name": "load", "local_addr": target}]
        began = lab.reactor.seconds()
        program, web_port = start_agent(
            lab,
            f"http://127.0.0.1:{listener.getHost().port}",
            {"allow_insecure": server.url.startswith("ws:"), "forwards": forwards},
            ca_file=lab.ca_file(server),
            kubeconfig=self.kubeconfig,
        )
        return Launched(program, port, began, web_port)


@dataclass(frozen=True)
class GoClient:
    """Go's chisel."""

    name: str = "go"
    title: str = "Go chisel"

    def launch(self, lab: Lab, server: Peer, target: str) -> Launched:
        port = free_port()
        url = server.url.replace("ws", "http", 1)
        arguments = [chisel(), "client", "--fingerprint", server.fingerprint]
        if server.credentials is not None:
            arguments += ["--auth", _login(server)]
        if ca_file := lab.ca_file(server):
            arguments += ["--tls-ca", ca_file]
        began = lab.reactor.seconds()
        return Launched(lab.start(chisel_lines, *arguments, url, f"R:{port}:{target}"), port, began)


@dataclass(frozen=True)
class StockClient:
    """Conch and Autobahn as they come: L{benchmarks.conch_client}."""

    name: str = "conch"
    title: str = "Conch + Autobahn"

    def launch(self, lab: Lab, server: Peer, target: str) -> Launched:
        port = free_port()
        arguments = [sys.executable, "-m", "benchmarks.conch_client"]
        arguments += [str(urlsplit(server.url).port), _login(server), str(port), *target.rsplit(":", 1)]
        began = lab.reactor.seconds()
        return Launched(lab.start(_connected, *arguments), port, began)


@dataclass(frozen=True)
class InformerClient:
    """client-go's shared informers: they keep a cluster, and no tunnel (L{benchmarks.inventory})."""

    name: str
    title: str

    def launch(self, lab: Lab, server: Peer, target: str) -> Launched:
        raise NotImplementedError(f"{self.name} has no tunnel")


def _connected(line: str) -> Event | None:
    return {"event": "configured"} if line == "connected" else None


def _login(server: Peer) -> str:
    user, password = server.credentials or ("", None)
    return f"{user}:{password.reveal() if password else ''}"


def available() -> tuple[Client, ...]:
    """The clients that can be measured here: Go's chisel only where C{CHISEL} names it."""
    tunnels: tuple[Client, ...] = (AgentClient(), StockClient())
    if os.environ.get("CHISEL"):
        tunnels = (AgentClient(), GoClient(), StockClient())
    informers = ("", "JSON"), ("-protobuf", "protobuf")
    return (
        *tunnels,
        *(InformerClient(f"informer{name}", f"client-go informer, {form}") for name, form in informers),
    )
