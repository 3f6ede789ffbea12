"""
The agent's inventory as a program of its own: reflectors and stores for pods and nodes, as in the agent.

    python -m benchmarks.inventory_reader KUBECONFIG

Speaks like C{goinformer watch}: one JSON object per line, and ends with its standard input.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import UTC, datetime
from typing import Any, Final

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react

from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.config import Credentials
from pipeops_agent.cluster.inventory import Change, Inventory
from pipeops_agent.cluster.kubeconfig import load_kubeconfig
from pipeops_agent.cluster.objects import KINDS
from pipeops_agent.cluster.reflector import Reflector
from pipeops_agent.cluster.transport import Transport
from pipeops_agent.net import Connector
from pipeops_agent.scheduling import sleep

TICK: Final = 0.005
"""Seconds between two looks at how late the reactor is."""

TELL: Final = 0.5
"""Seconds between two words on how many changes were heard of."""


class Input(Protocol):
    """Fires C{ended} when standard input does."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def connectionLost(self, *_: Any) -> None:
        self.ended.callback(None)


def cpu_seconds() -> float:
    """The processor time of this process until now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def say(event: str, **values: Any) -> None:
    """Print an event."""
    print(json.dumps({"event": event, **values}), flush=True)


class Lag:
    """How late timers are, while this runs."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.late: list[float] = []

    async def keep(self) -> None:
        """Look again and again; cancelled at the end."""
        while True:
            due = self._reactor.seconds() + TICK
            await sleep(self._reactor, TICK)
            self.late.append(self._reactor.seconds() - due)

    def percentile(self, share: float) -> float:
        """In milliseconds."""
        late = sorted(self.late)
        return 1000 * late[min(len(late) - 1, int(share * len(late)))] if late else 0.0


class Heard:
    """How many changes of pods there were, and says so whenever it is more."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.changes = 0

    def count(self, change: Change) -> None:
        """One more, if it is of a pod."""
        self.changes += change.kind == "pods"

    async def tell(self) -> None:
        """Say it again and again; cancelled at the end."""
        said = 0
        while True:
            await sleep(self._reactor, TELL)
            if self.changes != said:
                said = self.changes
                say("heard", changes=said)


async def read(reactor: Any, path: str) -> None:
    """Keep pods and nodes until standard input ends."""
    config = load_kubeconfig(path, "", _no_plugin)
    began, cpu = reactor.seconds(), cpu_seconds()
    transport = Transport(
        reactor, Connector(reactor, connect_timeout=10.0), config, version="0", observe=lambda *_: None
    )
    api, inventory, service = Api(transport), Inventory(), MultiService()
    for kind in KINDS:
        if kind.name in ("pods", "nodes"):
            sink = inventory[kind.name].part(None)
            reflector = Reflector(reactor, api, kind, sink, wall=lambda: datetime.now(UTC))
            reflector.setServiceParent(service)
    stdin = Input()
    StandardIO(stdin)
    lag = Lag(reactor)
    looking = Deferred.fromCoroutine(lag.keep())
    looking.addErrback(lambda _: None)
    service.startService()
    while not all(_live(inventory, kind) for kind in ("pods", "nodes")):
        await sleep(reactor, TICK)
    say(
        "synced",
        seconds=reactor.seconds() - began,
        cpu=cpu_seconds() - cpu,
        pods=len(inventory["pods"]),
        nodes=len(inventory["nodes"]),
        lag_p99=lag.percentile(0.99),
        lag_max=lag.percentile(1.0),
    )
    cpu = cpu_seconds()
    heard = Heard(reactor)
    stop = inventory.on_change(heard.count)
    lag.late.clear()
    telling = Deferred.fromCoroutine(heard.tell())
    telling.addErrback(lambda _: None)
    await stdin.ended
    stop()
    looking.cancel()
    telling.cancel()
    say(
        "changed",
        changes=heard.changes,
        cpu=cpu_seconds() - cpu,
        lag_p99=lag.percentile(0.99),
        lag_max=lag.percentile(1.0),
    )
    await service.stopService()


def _live(inventory: Inventory, kind: str) -> bool:
    status = inventory[kind].status
    return status is not None and status.state == "live"


def _no_plugin(*_: Any) -> Credentials:
    raise AssertionError("the benchmark's kubeconfig has no credential plugin")


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(read(reactor, sys.argv[1])))
