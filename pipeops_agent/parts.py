"""
What runs once the agent may: registration, heartbeat, poll, tunnel, and what they tell each other.

    registration -- ids --> heartbeat, poll -- orders --> tunnel
          ^                     |    |                     ^ |
          +-- "unknown" --------+    +-- outage is over, --+ |
                                ^         "reconnect"        |
                                +--- connected --------------+

The rooms do not know each other; here they are joined. L{Parts.register} comes first, L{Parts.start} when it
has succeeded, and L{Parts.plan_stop} says in which order they end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import psutil
from twisted.application.service import MultiService, Service
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.build import build_info
from pipeops_agent.canary import MAX_ANSWER, Canaries, CanaryService
from pipeops_agent.clock import WallClock, describe_skew
from pipeops_agent.cluster.service import ClusterService
from pipeops_agent.cluster_figures import heartbeat_figures
from pipeops_agent.cluster_token import ClusterToken
from pipeops_agent.controlplane import (
    ControlPlaneClient,
    HeartbeatReport,
    HeartbeatService,
    Registration,
    RegistrationService,
    TunnelPollService,
    client_tls,
    describe_agent,
)
from pipeops_agent.errors import FatalError
from pipeops_agent.facts import Facts
from pipeops_agent.health import HealthCheck, Registry
from pipeops_agent.metrics import Metrics
from pipeops_agent.net import Connector, ThreadedResolver
from pipeops_agent.orders import TunnelOrder
from pipeops_agent.own_sockets import OwnSockets
from pipeops_agent.scheduling import PeriodicService
from pipeops_agent.secrets import Secret
from pipeops_agent.settings import Changes, Proxies, Settings
from pipeops_agent.shutdown import Shutdown
from pipeops_agent.state import State, StateStore, Stored
from pipeops_agent.status import StatusBoard
from pipeops_agent.tokens import TokenSource
from pipeops_agent.tunnel import masking
from pipeops_agent.tunnel.connecting import connect_tcp
from pipeops_agent.tunnel.dialing import Dialer
from pipeops_agent.tunnel.manager import TunnelManager
from pipeops_agent.tunnel.opener import SessionOpener
from pipeops_agent.tunnel.traffic import ForwardCounters, TrafficCounters
from pipeops_agent.watched_calls import Registrar, TimedHeartbeats

_log = Logger(namespace="agent")

TOKEN_LOOK: Final = 30.0
"""Seconds between two looks at token files: a replaced one is known before it is needed."""

HASTY_CONNECT: Final = 2.0
"""
Seconds for name, TCP and TLS in an attempt that is hurried. The kernel sends a lost SYN again after 1 s, and
then after 2 more: with a new attempt instead there is one each second, and a network that is back is noticed.
"""

_TOLD: Final = ("agent.labels", "tunnel.forwards", "access.")
"""The live settings that a registration carries; a name that ends in a dot stands for all below it."""

_TOKEN: Final = frozenset({"pipeops.token", "pipeops.token_file"})


@dataclass(frozen=True)
class Common:
    """
    What the agent has from its first moment, and all of its parts share.

    @ivar reactor: everything that a reactor can do; each room takes what it needs of it.
    @ivar settings: those that hold now; asked each time.
    @ivar sockets: those of the tunnel, of which the agent's own site knows.
    @ivar canaries: the canaries that are out, of which the agent's own site knows.
    @ivar proxies: which proxy leads to which target, now; asked for each connection.
    @ivar keep: lets the log mask a secret until another has its name.
    @ivar end: told of the error that ends the agent.
    @ivar cluster: the cluster, or that there is none.
    """

    reactor: Any
    wall: WallClock
    board: StatusBoard
    checks: Registry[HealthCheck]
    metrics: Metrics
    tokens: TokenSource
    sockets: OwnSockets
    canaries: Canaries
    settings: Callable[[], Settings]
    proxies: Callable[[], Proxies]
    keep: Callable[[str, Secret], None]
    end: Callable[[FatalError], None]
    cluster: ClusterService

    @property
    def clock(self) -> IReactorTime:
        """The reactor, as what tells and waits for time."""
        clock: IReactorTime = self.reactor
        return clock


class Parts:
    """
    Made after the start phase.

    @param facts: what is known of this host.
    @param store: keeps the state; C{stored} is what it holds: it has the agent's id.
    """

    def __init__(self, common: Common, facts: Facts, store: StateStore, stored: Stored, state: State) -> None:
        self._common = common
        self._facts = facts
        self._password: Secret | None = None
        self._started: tuple[Service, ...] = ()
        settings = common.settings()
        self._api = Connector(
            common.reactor, connect_timeout=settings.pipeops.connect_timeout, proxies=common.proxies
        )
        self._cluster_token = ClusterToken(
            common.clock,
            settings.pipeops,
            common.cluster,
            common.board,
            wall=common.wall,
            keep=common.keep,
            changed=lambda: self.registration.again("the cluster's token or CA has changed"),
        )
        client = ControlPlaneClient(
            common.clock, settings.pipeops, common.tokens, self._api, common.board, common.wall
        )
        self.registration = RegistrationService(
            common.clock,
            Registrar(client, partial(common.keep, "cluster.token")),
            settings.pipeops,
            common.board,
            common.wall,
            store,
            stored=stored,
            state=state,
            describe=self._describe,
        )
        self.tunnel = self._make_tunnel(settings)
        self.heartbeat = self._make_heartbeat(settings, client)
        self.poll = TunnelPollService(
            common.clock,
            client,
            settings.pipeops.reconnect,
            settings.tunnel,
            ids=lambda: self.registration.ids,
            interval=settings.tunnel_poll_interval,
            obey=self._obey,
        )
        self.heartbeat.on_recovery = self._heartbeat_recovered
        self.poll.on_recovery = self._poll_recovered
        self.heartbeat.on_advice = self._advised
        self.tunnel.on_connected = self._tunnel_connected
        self._token_watch = PeriodicService(
            common.clock, self._look_at_tokens, lambda: TOKEN_LOOK, what="looking at the token files"
        )

    def _make_heartbeat(self, settings: Settings, client: ControlPlaneClient) -> HeartbeatService:
        common = self._common
        return HeartbeatService(
            common.clock,
            TimedHeartbeats(common.clock, client, common.metrics),
            common.board,
            common.wall,
            settings.pipeops.reconnect,
            interval=settings.agent.poll_interval,
            report=HeartbeatReport(
                common.clock,
                common.board,
                common.wall,
                ids=lambda: self.registration.ids,
                checks=common.checks,
                metadata=self._known,
            ),
            on_fatal=common.end,
            on_unknown=lambda: self.registration.again("the control plane does not know this cluster"),
        )

    def _make_tunnel(self, settings: Settings) -> TunnelManager:
        common = self._common
        if not masking.IS_NATIVE:
            _log.warn("this installation of Autobahn masks frames without native code: tunnels are slower")
        counters = TrafficCounters()
        # Not made anew with the tunnel: the tunnel does not depend on it, and it has threads of its own.
        self._canary_connector = self._tunnel_connector(settings.tunnel.connect_timeout)
        self._canary = self._make_canary(settings, counters)
        return TunnelManager(
            common.clock,
            settings.tunnel,
            settings.pipeops.reconnect,
            board=common.board,
            wall=common.wall,
            make_opener=lambda: self._make_opener(settings, counters),
            counters=counters,
            on_fatal=common.end,
        )

    def _make_canary(self, settings: Settings, counters: TrafficCounters) -> CanaryService:
        common, canary = self._common, settings.tunnel.canary
        return CanaryService(
            common.clock,
            self._canary_connector.agent(client_tls(settings.pipeops.tls), max_answer=MAX_ANSWER),
            canary,
            canaries=common.canaries,
            board=common.board,
            wall=common.wall,
            counters=counters.forward(canary.forward) if canary.enabled else ForwardCounters(),
            version=build_info().version,
        )

    def _tunnel_connector(self, seconds: float, resolver: ThreadedResolver | None = None) -> Connector:
        """A way out to chisel servers, and to what they listen on; it takes so many seconds at most."""
        return Connector(
            self._common.reactor,
            connect_timeout=seconds,
            resolver=resolver,
            proxies=self._common.proxies,
            clock_note=lambda: describe_skew(self._common.board.now.clock_skew),
        )

    def _make_opener(self, settings: Settings, counters: TrafficCounters) -> SessionOpener:
        """With its own threads for look-ups: those of the one before may all be stuck."""
        reactor, timeout = self._common.reactor, settings.tunnel.connect_timeout
        resolver = ThreadedResolver(reactor)
        return SessionOpener(
            reactor,
            self._tunnel_connector(timeout, resolver),
            Dialer(reactor, resolver, partial(connect_tcp, reactor), self._common.sockets),
            counters,
            hasty=self._tunnel_connector(min(timeout, HASTY_CONNECT), resolver),
            settings=lambda: self._common.settings().tunnel,
            tls=client_tls(settings.pipeops.tls),
            version=build_info().version,
            report=self._dialled,
            on_ping=self._pinged,
        )

    # -- start, change, end

    async def register(self) -> None:
        """@raise FatalError: this agent must not run."""
        await self._cluster_token.obtain()
        await self.registration.at_start()

    def start(self, agent: MultiService) -> None:
        """Start everything, as children of C{agent}. Only after L{register} has succeeded."""
        services: dict[str, Service] = {
            "registration": self.registration,
            "tunnel": self.tunnel,
            "heartbeat": self.heartbeat,
            "token watch": self._token_watch,
            "cluster token": self._cluster_token,
        }
        if self._common.settings().tunnel.enabled:
            services["poll"] = self.poll
            if self._common.settings().tunnel.canary.enabled:
                services["canary"] = self._canary
        for name, service in services.items():
            service.setName(name)
            service.setServiceParent(agent)
        self._started = tuple(services.values())

    async def leave(self) -> None:
        """Be nobody's children any more, once stopped."""
        for service in self._started:
            await maybeDeferred(service.disownServiceParent)

    def learn(self, facts: Facts) -> None:
        """More is known than at the start, or something else: the control plane is told."""
        if facts != self._facts:
            self._facts = facts
            self.registration.again("what is known of this host or its cluster has changed")

    def reconfigure(self, settings: Settings, changes: Changes) -> None:
        """Take in what of the live settings concerns these parts."""
        self.tunnel.reconfigure(settings.tunnel)
        told = [path for path in changes.live if path.startswith(_TOLD)]
        if told:
            self.registration.again(f"{', '.join(told)} changed")
        if not _TOKEN.isdisjoint(changes.live):
            self.heartbeat.wake()
            self.poll.wake()

    def plan_stop(self, shutdown: Shutdown, *, last_word: bool) -> None:
        """
        Add the steps that stop these parts: no more orders, then the tunnel, then the last word.

        Also where they have not been started.

        @param last_word: whether the control plane hears that this agent stops. Not where another replica is
            active now: it is the same agent, and goes on.
        """
        shutdown.step("the poll", 0.2, self.poll.stopService)
        shutdown.step("the canary", 0.1, self._canary.stopService)
        shutdown.step("the tunnel", 1.7, self.tunnel.stopService)
        shutdown.step("the token watch", 0.1, self._token_watch.stopService)
        shutdown.step("the cluster's token", 0.1, self._cluster_token.stopService)
        shutdown.step("registering again", 0.1, self.registration.stopService)
        shutdown.step("the heartbeat", 0.1, self.heartbeat.stopService)
        if last_word and self._common.board.now.registration.registered:
            shutdown.step("the last heartbeat", 1.1, self.heartbeat.send_stopping)
        shutdown.step("the canary's connections", 0.1, self._canary_connector.close)
        shutdown.step("the connections to the control plane", 0.2, self._api.close)

    # -- what the rooms tell each other through here

    def _describe(self, state: State) -> Registration:
        return describe_agent(
            self._common.settings(),
            self._facts,
            agent_id=state.agent_id,
            cluster_id=state.cluster_id,
            version=build_info().version,
            moment=self._common.wall(),
            **self._cluster_token.describe(),
        )

    def _known(self) -> dict[str, str | int]:
        """What heartbeats carry besides: the host's load, or the cluster's where that is known."""
        known: dict[str, str | int] = {
            "cpu_usage": f"{psutil.cpu_percent(interval=None):.1f}%",
            "memory_usage": f"{psutil.virtual_memory().percent:.1f}%",
        }
        if self._facts.k8s_version is not None:
            known["k8s_version"] = self._facts.k8s_version
        known.update(heartbeat_figures(self._common.cluster, self._common.board.now.cluster))
        return known

    def _obey(self, order: TunnelOrder) -> None:
        if order.server is not None and order.server.credentials is not None:
            _, password = order.server.credentials
            if password != self._password:
                self._password = password
                self._common.keep("the tunnel's password", password)
        self.tunnel.obey(order)

    def _dialled(self, forward: str, problem: str | None) -> None:
        self.tunnel.dialled(forward, problem)

    def _pinged(self) -> None:
        self.tunnel.pinged()

    def _heartbeat_recovered(self) -> None:
        self.poll.nudge()
        self.tunnel.wake()

    def _poll_recovered(self) -> None:
        self.heartbeat.nudge()
        self.tunnel.wake()

    def _tunnel_connected(self) -> None:
        self.heartbeat.nudge()
        self.poll.nudge()

    def _advised(self, why: str, reconnect: bool) -> None:
        """The control plane says that the tunnel needs care: first what it orders now, then the rest."""
        self.poll.refresh((lambda: self.tunnel.reconnect(why)) if reconnect else lambda: None)

    async def _look_at_tokens(self) -> None:
        """Reading a source notices a change, and tells whoever listens."""
        self._common.tokens.current()
        self._cluster_token.look()
