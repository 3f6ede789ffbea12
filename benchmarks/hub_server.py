"""
C{/ws} alone, in a process of its own, for C{benchmarks.hub}: the agent's site, hub and feed.

It serves on a free port of loopback, until its standard input ends. Orders there are lines of JSON: C{burst},
so many messages as fast as they are taken; C{steady}, at a rate, for so many seconds. Each is answered by a
line of JSON, with when it began and the processor time that it took.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any, Final

from twisted.internet import reactor as global_reactor  # noqa: TID251 - this is a program
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO

from pipeops_agent.build import build_info
from pipeops_agent.clock import utc_now
from pipeops_agent.cluster.api import LiveApi
from pipeops_agent.cluster.errors import Misconfigured
from pipeops_agent.cluster.transport import Transport
from pipeops_agent.entrance import Entrance
from pipeops_agent.events import EventHub
from pipeops_agent.health import standard_checks
from pipeops_agent.log import AgentLog, LogConfig, Redactor
from pipeops_agent.metrics import Metrics
from pipeops_agent.realtime import EventFeed, LogFeed, Reader
from pipeops_agent.scheduling import Tasks, sleep
from pipeops_agent.secrets import Secret
from pipeops_agent.settings import Settings
from pipeops_agent.settings.model_server import ClientLimits, LimitsSettings, ServerSettings, TotalLimits
from pipeops_agent.status import StatusBoard
from pipeops_agent.tokens import SettingsToken
from pipeops_agent.web.access import RefusingSight
from pipeops_agent.web.listener import Listener
from pipeops_agent.web.presence import Presences
from pipeops_agent.web.site import build_site
from pipeops_agent.web.websocket import Registry, WebSocketHub, standard_messages

reactor: Any = global_reactor

TOKEN: Final = "the-token-of-the-benchmark"  # noqa: S105 (of this program alone)
CHANNEL: Final = "metrics"

SETTINGS: Final = Settings(
    server=ServerSettings(
        port=0,
        max_connections=20_000,
        limits=LimitsSettings(
            client=ClientLimits(requests=1_000_000, connections=20_000, subscriptions=20_000),
            total=TotalLimits(requests=1_000_000),
        ),
    )
)

_BATCH: Final = 50
"""Messages in one turn of the reactor, of a burst."""
_AHEAD: Final = 500
"""Messages by which a burst may be ahead of those that read."""
_STUCK: Final = 0.5
"""Seconds without a byte taken, after which a burst waits for a client no more."""


def no_cluster() -> Transport:
    """There is none."""
    raise Misconfigured("no cluster is configured")


def say(event: str, **fields: Any) -> None:
    """Report something."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def cpu() -> float:
    """Processor seconds that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Server(Protocol):
    """The hub, and who reads orders for it."""

    def __init__(self) -> None:
        self._rest = b""
        self._tasks = Tasks()
        self.hub = EventHub(utc_now)
        self.events = EventFeed(reactor, self.hub)
        registry = Registry()
        log = AgentLog(LogConfig(output="/dev/null"), reactor, Redactor())
        logs = LogFeed(reactor, self.hub.start, log)
        registry.add(*standard_messages(status=dict, metrics=dict, logs=logs))
        board = StatusBoard(self.hub, utc_now)
        entrance = Entrance(
            reactor,
            lambda: SETTINGS,
            board,
            control_plane=SettingsToken(Secret(TOKEN)),
            api=LiveApi(no_cluster),
            home=str,
            hub=self.hub,
            redactor=Redactor(),
        )
        presences = Presences(reactor, entrance.access, RefusingSight(entrance.sight))
        presences.start()
        self.sockets = WebSocketHub(
            reactor,
            utc_now,
            self.events,
            registry,
            presences,
            state=dict,
            most=lambda: 10_000,
            origins=tuple,
        )
        site = build_site(
            reactor,
            board,
            standard_checks(),
            Metrics(board, utc_now, build_info()),
            SETTINGS.server,
            utc_now,
            access=entrance.access,
            build=build_info(),
            more=self.sockets.routes(),
        )
        self._listener = Listener(reactor, site, SETTINGS.server, utc_now, "localhost")
        self._listener.startService()
        self.sockets.start()
        self._moved: dict[Reader, tuple[int, float]] = {}
        say("listening", port=int(self._listener.address.rpartition(":")[2]))

    def dataReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._tasks.spawn(self._obey(json.loads(line)), "an order")

    def connectionLost(self, reason: Any = None) -> None:
        if reactor.running:
            reactor.stop()

    async def _obey(self, order: dict[str, Any]) -> None:
        began, before = time.time_ns(), cpu()
        sent = 0
        if order["do"] == "burst":
            while sent < order["messages"]:
                for _ in range(_BATCH):
                    self._publish()
                sent += _BATCH
                await sleep(reactor, 0)
                while self._behind():
                    await sleep(reactor, 0)
        elif order["do"] == "steady":
            start = reactor.seconds()
            while (passed := reactor.seconds() - start) < order["seconds"]:
                while sent < int(passed * order["rate"]):
                    self._publish()
                    sent += 1
                await sleep(reactor, 0.0005)
        say("done", do=order["do"], began=began, messages=sent, cpu=cpu() - before)

    def _publish(self) -> None:
        # With what the hub puts around it that is a message of 200 bytes.
        self.hub.publish(CHANNEL, "t", {"t": time.time_ns()})

    def _behind(self) -> bool:
        """Whether one of those that read is too far behind."""
        now = reactor.seconds()
        for reader in self.events._readers:
            if self.hub.seq - reader.place < _AHEAD:
                continue
            place, since = self._moved.get(reader, (-1, now))
            if place != reader.place:
                self._moved[reader] = (reader.place, now)
                return True
            if now - since < _STUCK:
                return True
        return False


if __name__ == "__main__":
    StandardIO(Server())
    reactor.run()
