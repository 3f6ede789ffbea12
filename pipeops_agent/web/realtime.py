"""The real-time interface as a whole: WebSockets and server-sent events, as far as they are switched on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList

from pipeops_agent.clock import WallClock
from pipeops_agent.commands.desk import Cluster, Desk
from pipeops_agent.commands.http import CommandStreams
from pipeops_agent.commands.messages import command_messages, pod_logs
from pipeops_agent.entrance import Entrance
from pipeops_agent.events import EventHub
from pipeops_agent.health import Feature, Registry
from pipeops_agent.log import AgentLog
from pipeops_agent.metrics import Metrics
from pipeops_agent.realtime import EventFeed, LogFeed, present_state
from pipeops_agent.settings import Settings
from pipeops_agent.status import StatusBoard
from pipeops_agent.tokens import TokenSource
from pipeops_agent.web.access import RefusingSight
from pipeops_agent.web.api.operation import Operation
from pipeops_agent.web.api.streams import COMMANDS, EVENTS, LOGS, WEBSOCKET
from pipeops_agent.web.presence import Presences
from pipeops_agent.web.routes import Route
from pipeops_agent.web.sse import EventStreams
from pipeops_agent.web.websocket import Registry as Messages
from pipeops_agent.web.websocket import WebSocketHub, standard_messages


class Surroundings(Protocol):
    """What of the agent is needed here."""

    @property
    def reactor(self) -> Any: ...
    @property
    def wall(self) -> WallClock: ...
    @property
    def board(self) -> StatusBoard: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def tokens(self) -> TokenSource: ...
    @property
    def cluster(self) -> Cluster: ...
    @property
    def settings(self) -> Callable[[], Settings]: ...


class Realtime:
    """
    Made at start; what is switched off has no routes.

    @ivar messages: which messages C{/ws} understands: others may be added until it is started.
    @ivar status: what C{get_status} is answered with, C{metrics} what C{get_metrics}; set before the start.
    """

    def __init__(
        self,
        common: Surroundings,
        entrance: Entrance,
        hub: EventHub,
        log: AgentLog,
        features: Registry[Feature],
    ) -> None:
        board = common.board
        self.status: Callable[[], Any] = dict
        self.metrics: Callable[[], Any] = dict
        settings = common.settings
        self._presences = Presences(common.reactor, entrance.access, RefusingSight(entrance.sight))
        desk = Desk(common.reactor, common.cluster, entrance.audit)
        self._events = EventFeed(common.reactor, hub)
        self._logs = LogFeed(common.reactor, hub.start, log)
        self.messages = Messages()
        self.messages.add(
            *standard_messages(
                status=self._status,
                metrics=self._metrics,
                logs=self._logs,
                pod_logs=partial(pod_logs, desk),
            ),
            *command_messages(desk),
        )
        self._commands = CommandStreams(common.reactor, common.wall, desk, self._presences)

        def state() -> Mapping[str, Any]:
            return present_state(board, features, hub)

        def most() -> int:
            return settings().realtime.max_connections

        self._websockets = WebSocketHub(
            common.reactor,
            common.wall,
            self._events,
            self.messages,
            self._presences,
            state=state,
            most=most,
            origins=lambda: settings().realtime.origins,
        )
        self._streams = EventStreams(
            common.reactor,
            self._events,
            self._logs,
            self._presences,
            state,
            most=most,
            pod_logs=self._commands.pod_logs,
        )
        common.metrics.read_connections_from("websocket", lambda: len(self._websockets))
        common.metrics.read_connections_from("sse", lambda: len(self._streams))
        self._switches = settings().server

    def routes(self) -> list[Route]:
        """The lines for the table."""
        websocket = self._websockets.routes() if self._switches.enable_websocket else []
        sse = [*self._streams.routes(), *self._commands.routes()] if self._switches.enable_sse else []
        return [*websocket, *sse]

    def operations(self) -> list[Operation]:
        """What these do, for descriptions."""
        websocket = [WEBSOCKET] if self._switches.enable_websocket else []
        return [*websocket, *([EVENTS, LOGS, COMMANDS] if self._switches.enable_sse else [])]

    def start(self) -> None:
        """Keep log records, and clients alive, from now on."""
        self._logs.begin()
        self._presences.start()
        self._websockets.start()
        self._streams.start()
        self._commands.start()

    def stop(self) -> Deferred[None]:
        """Say goodbye to all clients, and take no more; fires when they are gone."""
        self._logs.stop()
        stopping = (self._presences, self._websockets, self._commands, self._streams)
        ending = DeferredList([each.stop() for each in stopping], consumeErrors=True)

        def ended(_: object) -> None:
            self._events.stop()

        return ending.addCallback(ended)

    def _status(self) -> Any:
        return self.status()

    def _metrics(self) -> Any:
        return self.metrics()
