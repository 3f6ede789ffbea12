"""
The agent's tunnel alone, in a process of its own, so that it can be put into a network namespace and killed.

    python tunnel_process.py '{"server": "ws://198.18.0.2:8080", "fingerprint": "…", "ports": [9000],
                               "login": ["user", "password"], "settings": {"stable_after": 2.0}}'

Every port leads to a service here that sends without end. Each change of the tunnel's status is written to
standard output as a line of JSON: C{{"event": "tunnel", "state", "message", "forwards", "authenticated"}}; of
these the last counts the attempts that got past the login. It ends with SIGTERM, or with its input.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from twisted.internet import reactor as global_reactor  # noqa: TID251 - this is a program
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.stdio import StandardIO
from zope.interface import implementer

from pipeops_agent.clock import utc_now
from pipeops_agent.events import Event, EventHub
from pipeops_agent.net import ClientTLS, Connector, ThreadedResolver
from pipeops_agent.orders import Allocation, ServerAddress, TunnelOrder, TunnelServer
from pipeops_agent.parts import HASTY_CONNECT
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_pipeops import ReconnectSettings
from pipeops_agent.settings.model_tunnel import Forward, TunnelSettings
from pipeops_agent.status import StatusBoard
from pipeops_agent.tunnel.connecting import connect_tcp
from pipeops_agent.tunnel.dialing import Dialer
from pipeops_agent.tunnel.manager import TunnelManager
from pipeops_agent.tunnel.opener import SessionOpener
from pipeops_agent.tunnel.traffic import TrafficCounters


@implementer(IPushProducer)
class Flood(Protocol):
    """Sends for as long as anybody takes it."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self._flowing = True
        transport.registerProducer(self, True)
        self._pour()

    def _pour(self) -> None:
        if self._flowing and self.transport is not None:
            self.transport.write(b"x" * 16_384)
            reactor.callLater(0.001, self._pour)

    def pauseProducing(self) -> None:
        self._flowing = False

    def resumeProducing(self) -> None:
        if not self._flowing:
            self._flowing = True
            self._pour()

    def stopProducing(self) -> None:
        self._flowing = False

    def connectionLost(self, reason: Any = None) -> None:
        self._flowing = False


class Input(Protocol):
    """Standard input, whose end is this program's."""

    def connectionLost(self, reason: Any = None) -> None:
        if reactor.running:
            reactor.stop()


class Reporter:
    """Writes what becomes of the tunnel, each change once."""

    def __init__(self) -> None:
        self._authenticated = 0
        self._seen: set[str] = set()
        self._last: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        status = event.data.get("tunnel")
        if status is None:
            return
        for attempt in status["attempts"]:
            passed = any(step["name"] == "login" and step["error"] is None for step in attempt["steps"])
            if passed and attempt["began"] not in self._seen:
                self._seen.add(attempt["began"])
                self._authenticated += 1
        now = {
            "event": "tunnel",
            "state": status["state"],
            "message": status["message"],
            "forwards": [forward["state"] for forward in status["forwards"]],
            "authenticated": self._authenticated,
        }
        if now != self._last:
            self._last = now
            sys.stdout.write(json.dumps(now) + "\n")
            sys.stdout.flush()


def make_manager(wanted: dict[str, Any], hub: EventHub, target: int) -> TunnelManager:
    """The tunnel as the agent has it, with its way out."""
    forwards = tuple(
        Forward(name=f"port-{port}", local_addr=f"127.0.0.1:{target + place}")
        for place, port in enumerate(wanted["ports"])
    )
    settings = TunnelSettings(forwards=forwards, allow_insecure=True, **wanted.get("settings", {}))
    counters = TrafficCounters()

    def make_opener() -> SessionOpener:
        resolver = ThreadedResolver(reactor)
        ways = [
            Connector(reactor, connect_timeout=seconds, resolver=resolver)
            for seconds in (settings.connect_timeout, HASTY_CONNECT)
        ]
        return SessionOpener(
            reactor,
            ways[0],
            Dialer(reactor, resolver, partial(connect_tcp, reactor)),
            counters,
            hasty=ways[1],
            settings=lambda: settings,
            tls=ClientTLS(),
            version="0.0.0-test",
            report=lambda name, problem: None,
            on_ping=lambda: manager.pinged(),  # noqa: PLW0108 - not made yet
        )

    manager = TunnelManager(
        reactor,
        settings,
        ReconnectSettings(),
        board=StatusBoard(hub, utc_now),
        wall=utc_now,
        make_opener=make_opener,
        counters=counters,
        on_fatal=lambda error: None,
    )
    return manager


def order(wanted: dict[str, Any]) -> TunnelOrder:
    """What the control plane would say."""
    parts = urlsplit(wanted["server"])
    user, password = wanted["login"]
    server = TunnelServer(
        address=ServerAddress(str(parts.hostname), parts.port or 80, tls=parts.scheme == "wss"),
        fingerprint=wanted["fingerprint"],
        credentials=(user, Secret(password)),
    )
    ports = wanted["ports"]
    return TunnelOrder("wanted", server, tuple(Allocation(f"port-{port}", port) for port in ports))


def main() -> None:
    """Run until told to end."""
    wanted = json.loads(sys.argv[1])
    first = 7000
    for place in range(len(wanted["ports"])):
        reactor.listenTCP(first + place, Factory.forProtocol(Flood), interface="127.0.0.1")
    hub = EventHub(utc_now)
    hub.subscribe(Reporter())
    manager = make_manager(wanted, hub, first)
    reactor.addSystemEventTrigger("before", "shutdown", manager.stopService)
    reactor.callWhenRunning(manager.startService)
    reactor.callWhenRunning(manager.obey, order(wanted))
    StandardIO(Input())
    reactor.run()


reactor: Any = global_reactor

if __name__ == "__main__":
    main()
