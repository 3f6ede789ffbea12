"""The agent's tunnel client on real sockets: a session to a peer, and what there is to know of it."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from pipeops_agent.clock import utc_now
from pipeops_agent.net import ClientTLS, Connector, ThreadedResolver, Trace
from pipeops_agent.orders import TunnelServer
from pipeops_agent.settings.model_tunnel import TunnelSettings
from pipeops_agent.tunnel.connecting import connect_tcp
from pipeops_agent.tunnel.dialing import Dialer
from pipeops_agent.tunnel.opener import SessionOpener
from pipeops_agent.tunnel.remotes import Remote
from pipeops_agent.tunnel.session import ChiselSession
from pipeops_agent.tunnel.traffic import TrafficCounters

QUICK = TunnelSettings(connect_timeout=2.0, dial_timeout=2.0, ping_interval=1.0, ping_timeout=1.0)
"""Deadlines that a test can wait for."""


@dataclass
class Client:
    """Opens sessions, and keeps what they report."""

    reactor: Any
    settings: TunnelSettings = QUICK
    tls: ClientTLS = field(default_factory=ClientTLS)
    traffic: TrafficCounters = field(default_factory=TrafficCounters)
    dials: list[tuple[str, str | None]] = field(default_factory=list)
    trace: Trace | None = None

    async def open(self, server: TunnelServer, *remotes: Remote, **changes: Any) -> ChiselSession:
        """
        Open a session.

        @param changes: settings that differ from L{QUICK}.
        @raise SessionError: it can't be opened.
        """
        settings = msgspec.structs.replace(self.settings, **changes)
        resolver = ThreadedResolver(self.reactor)
        opener = SessionOpener(
            self.reactor,
            Connector(self.reactor, connect_timeout=settings.connect_timeout, resolver=resolver),
            Dialer(self.reactor, resolver, partial(connect_tcp, self.reactor)),
            self.traffic,
            settings=lambda: settings,
            tls=self.tls,
            version="0.0.0-test",
            report=lambda name, problem: self.dials.append((name, problem)),
            on_ping=lambda: None,
        )
        self.trace = Trace(self.reactor, utc_now)
        return await opener(server, remotes, self.trace)


def remote_to(address: str, port: int, name: str = "test") -> Remote:
    """A forward named C{name} from the server's C{port} to C{address} (C{host:port})."""
    host, _, target = address.rpartition(":")
    return Remote(name, port, host, int(target))


@dataclass(frozen=True)
class Leftovers:
    """What a process holds: compared before and after, it shows what was left behind."""

    timers: int
    descriptors: int
    objects: int

    @classmethod
    def now(cls, reactor: Any) -> Leftovers:
        """Count delayed calls, descriptors, and the tunnel's live objects."""
        gc.collect()
        ours = sum(
            type(each).__module__.startswith("pipeops_agent.tunnel")
            for each in gc.get_objects()
            if not isinstance(each, type)
        )
        return cls(len(reactor.getDelayedCalls()), len(os.listdir("/proc/self/fd")), ours)
