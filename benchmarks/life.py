"""Measurements of a client's start and end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import treq
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import Agent, ResponseNeverReceived
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from benchmarks.clients import Client, Launched
from benchmarks.lab import Lab
from benchmarks.model import Figure, Measurement, Scale, Values
from benchmarks.tunnel import SETTLE, connected
from pipeops_agent.scheduling import bounded, sleep

LOOK: Final = 0.02
"""Seconds between two looks at /ready: how exact the time is."""

PATIENCE: Final = 20.0
"""Seconds in which a client must have started."""


async def _start(lab: Lab, client: Client, scale: Scale) -> Values:
    services = await lab.services()
    launched = client.launch(lab, await lab.server(), services["load"])
    ready = Deferred.fromCoroutine(_ready(lab.reactor, launched)) if launched.web_port else None
    await launched.program.wait_for("configured")
    values = {"connected": lab.reactor.seconds() - launched.began}
    if ready is not None:
        values["ready"] = await bounded(lab.reactor, PATIENCE, ready, "ready")
    return values


@implementer(IAgentEndpointFactory)
@dataclass(frozen=True)
class _Loopback:
    """An address is connected to at once; as a name, each refusal would take 0.3 s (RFC 8305)."""

    reactor: Any

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:  # noqa: N802 - Twisted's name
        return TCP4ClientEndpoint(self.reactor, "127.0.0.1", uri.port)


async def _ready(reactor: Any, launched: Launched) -> float:
    """Ask C{/ready} until it says 200, and return how long that took from the start of the process."""
    agent = Agent.usingEndpointFactory(reactor, _Loopback(reactor))
    while True:
        try:
            answer = await treq.get(f"http://127.0.0.1:{launched.web_port}/ready", agent=agent)
            await treq.content(answer)
        except CancelledError:
            raise
        except (ConnectError, ResponseNeverReceived):
            pass  # it does not listen yet
        else:
            if answer.code == 200:
                return float(reactor.seconds() - launched.began)
        await sleep(reactor, LOOK)


async def _stop(lab: Lab, client: Client, scale: Scale) -> Values:
    """SIGTERM to the end of the process: once idle, and once with channels open."""
    values = {"idle": await _stopped(lab, client, 0)}
    values["busy"] = await _stopped(lab, client, scale.busy_channels)
    return values


async def _stopped(lab: Lab, client: Client, channels: int) -> float:
    _, launched = await connected(lab, client)
    if channels:
        await lab.open_channels(launched.port, channels)
    await sleep(lab.reactor, SETTLE)
    began = lab.reactor.seconds()
    launched.program.signal("TERM")
    await launched.program.ended()
    return lab.reactor.seconds() - began


MEASUREMENTS: Final = (
    Measurement(
        "start",
        (
            Figure("ready", "start of the process to ready", "s", 2),
            Figure("connected", "start of the process to tunnel connected", "s", 2),
        ),
        _start,
    ),
    Measurement(
        "stop",
        (
            Figure("idle", "SIGTERM to end, idle", "s", 2),
            Figure("busy", "SIGTERM to end, 500 channels open", "s", 2),
        ),
        _stop,
        clients=("agent",),
    ),
)
