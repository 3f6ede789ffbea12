"""
The agent: what starts when, what stops when.

    HTTP, cluster  ->  state, gate, facts  ->  registration  ->  heartbeat, poll, tunnel (L{Parts})
                         ^                                                   |
                         +------- the gate is lost: all of it stops ---------+

Up to the registration everything that goes wrong for good ends the process; nothing after it does, unless the
settings say so (C{pipeops.reconnect.enabled}). A state that can't be read is waited for.

Stopping goes in this order, each step bounded (L{Shutdown}): readiness off; a start under way; WebSockets and
event streams; poll, tunnel with its channels, heartbeat, one last C{stopping}; the cluster's lists; the gate;
the way to the cluster; the listeners last. An agent that loses the gate stops in the same order, without the
last word, and stands by.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.application.service import MultiService
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger

from pipeops_agent.build import build_info
from pipeops_agent.canary import Canaries
from pipeops_agent.cluster_figures import make_cluster
from pipeops_agent.entrance import Entrance
from pipeops_agent.errors import ExitStatus, FatalError
from pipeops_agent.events import EventHub
from pipeops_agent.facts import Facts, collect_facts, host_sources
from pipeops_agent.features import standard_features
from pipeops_agent.gate import StartGate
from pipeops_agent.health import standard_checks
from pipeops_agent.identity import establish
from pipeops_agent.interface import Interface
from pipeops_agent.log import AgentLog
from pipeops_agent.metrics import Metrics
from pipeops_agent.parts import Common, Parts
from pipeops_agent.scheduling import Tasks, sleep
from pipeops_agent.settings import (
    DIRECT,
    Loaded,
    Settings,
    SettingsError,
    compare,
    take_live,
    way_to_control_plane,
)
from pipeops_agent.shutdown import Shutdown
from pipeops_agent.sources import Host, home_of, make_agent_id, start_gate, state_store, token_source
from pipeops_agent.state import Conflict, FileStateStore, StateStore, Stored, Unavailable
from pipeops_agent.status import StatusBoard
from pipeops_agent.tokens import LiveToken
from pipeops_agent.web.realtime import Realtime

_log = Logger(namespace="agent")

STATE_RETRY: Final = 5.0
"""Seconds between two attempts to read a state that can't be read."""
STOP: Final = 4.9
"""Seconds that a stop may take, whatever hangs."""


class Agent(MultiService):
    """
    The one service that twistd runs. From L{startService} on it serves HTTP; the rest follows by itself.

    @param loaded: the settings at start.
    @param reload: reads all settings again, for SIGHUP.
    @param end: told, once, of the error that ends the agent; stops the process with its status.
    @param store: keeps the state; by default a file, or in a pod a Secret.
    @param gate: who may be active; by default this one, or in a pod whoever holds the Lease.

    @ivar board: the truth about this agent, and C{hub} where its changes are told.
    @ivar cluster: the cluster, where there is one; C{features} what can be done now.
    @ivar entrance: who may ask this agent what.
    @ivar http: where the agent's own pages are.
    """

    def __init__(
        self,
        reactor: Any,
        loaded: Loaded,
        log: AgentLog,
        host: Host,
        *,
        reload: Callable[[], Loaded],
        end: Callable[[FatalError], None],
        store: StateStore | None = None,
        gate: StartGate | None = None,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._loaded = loaded
        self._settings = settings = loaded.settings
        self._log_output = log
        self._host = host
        self._reload = reload
        self._end = end
        self._tasks = Tasks()
        self._turn = Tasks()
        self._failed = self._news = False
        self._parts: Parts | None = None
        self._tokens = LiveToken(token_source(settings))
        self.hub = EventHub(host.wall)
        self.board = board = StatusBoard(self.hub, host.wall, clean=log.redactor.clean)
        self.metrics = Metrics(board, host.wall, build_info())
        self.cluster = make_cluster(
            reactor, settings, host, board, self.hub, self.metrics, keep=log.redactor.keep
        )
        self.cluster.on_facts = self._cluster_known
        self._home = home = home_of(settings, host, self.cluster.api)
        self._store = store or state_store(settings, host, home)
        self._gate = gate or start_gate(reactor, settings, host, home, self._waits)
        self.entrance = Entrance(
            reactor,
            lambda: self._settings,
            board,
            control_plane=self._tokens,
            api=self.cluster.api,
            home=lambda: self.cluster.home,
            hub=self.hub,
            redactor=log.redactor,
        )
        self.features = standard_features(settings, has_home=home is not None)
        self._common = common = self._make_common()
        self.realtime = Realtime(common, self.entrance, self.hub, log, self.features)
        self.http = Interface(
            common,
            self.cluster,
            self.features,
            self.realtime,
            self.entrance,
            loaded=lambda: self._loaded,
            clean=log.redactor.clean,
            hostname=host.hostname,
        )

    def _make_common(self) -> Common:
        return Common(
            reactor=self._reactor,
            wall=self._host.wall,
            board=self.board,
            checks=standard_checks(),
            metrics=self.metrics,
            tokens=self._tokens,
            sockets=self.entrance.sockets,
            canaries=Canaries(),
            settings=lambda: self._settings,
            proxies=lambda: self._loaded.proxies,
            keep=self._log_output.redactor.keep,
            end=self._fail,
            cluster=self.cluster,
        )

    @property
    def settings(self) -> Settings:
        """The settings that hold now."""
        return self._settings

    # -- start

    def startService(self) -> None:
        """Serve HTTP, and begin the start phase; a port that is taken ends the agent."""
        super().startService()
        self._keep_own()
        self._tokens.on_change(self._keep_own)
        self._say_ways_out()
        for caution in self._loaded.cautions:
            _log.warn("{caution}", caution=caution)
        try:
            self.http.setServiceParent(self)
        except FatalError as error:
            self._fail(error)
            return
        _log.info("serving {scheme} on {address}", scheme=self.http.scheme, address=self.http.address)
        self.realtime.start()
        self.cluster.setServiceParent(self)
        self._tasks.spawn(self._or_fail(self._take_turns()), "starting the agent")

    async def _or_fail(self, work: Awaitable[None]) -> None:
        """Do C{work}; an error that it ends with is the agent's end."""
        try:
            await work
        except CancelledError:
            raise
        except FatalError as error:
            self._fail(error)
        except Exception as error:
            _log.failure("the agent could not start")
            self._fail(FatalError(f"the agent could not start: {type(error).__name__}", ExitStatus.FAILURE))

    async def _take_turns(self) -> None:
        """Be active whenever the gate lets this agent in, until it is lost; which mostly is for ever."""
        stored = await self._establish()
        if isinstance(self._store, FileStateStore):  # in a cluster that is the gate's affair
            self._tasks.spawn(self._hold_state(self._store), "holding the state")
        while True:
            self.board.enter("standby")
            await self._gate.enter()
            lost = self._gate.when_lost()
            self._turn.spawn(self._or_fail(self._become_active(stored)), "becoming active")
            reason = await lost
            await self._turn.stop()
            await self._step_back(reason)
            stored = await self._establish()  # who was active meanwhile may have changed it

    async def _become_active(self, stored: Stored) -> None:
        """The rest of the start phase, the registration, and then everything else."""
        assert stored.state is not None
        self.board.enter("starting")  # no standby any more, and not ready until it is registered
        self._news = False
        facts = await self._collect_facts()
        self.board.enter("registering")
        self._parts = Parts(self._common, facts, self._store, stored, stored.state)
        await self._parts.register()
        self.board.enter("running")
        self._parts.start(self)
        if self._news:
            self._cluster_known()
        self.cluster.watch()

    async def _step_back(self, reason: str) -> None:
        """Stop what only the active one does. No last heartbeat: the other replica is the same agent."""
        self.board.enter("standby")
        parts = self._parts
        if parts is not None:
            shutdown = Shutdown(self._reactor)
            parts.plan_stop(shutdown, last_word=False)
            shutdown.step("the cluster's lists", 0.5, self.cluster.unwatch)
            await shutdown.run()
            await parts.leave()
        self._parts = None
        self.board.stand_by(reason)

    def _waits(self, sentence: str) -> None:
        """The gate says why this agent waits; of one that is active that is no news here."""
        if self.board.now.phase in ("standby", "starting"):
            self.board.set_registration(message=sentence)

    async def _establish(self) -> Stored:
        """The state, with an id; a store that is away is waited for: it is not an empty one."""
        said = ""
        while True:
            try:
                stored = await establish(
                    self._store,
                    configured=self._settings.agent.id,
                    make=lambda: make_agent_id(self._settings, self._host, self._home),
                )
            except (Unavailable, Conflict) as error:
                reason = f"waiting for the agent's state: {error}"
                if reason != said:
                    said = reason
                    _log.error("{reason}", reason=reason)
                self.board.set_registration(message=reason)
            else:
                self._take_identity(stored)
                return stored
            await sleep(self._reactor, STATE_RETRY)

    async def _hold_state(self, store: FileStateStore) -> None:
        """Keep the state from being reset; say where another agent lives by it, and wait for that to end."""
        said = False
        while not store.hold():
            if not said:
                said = True
                _log.warn(
                    "another agent of this machine runs with {store}: to the control plane they are one; stop"
                    " one of them, or give each a file of its own (agent.state_file)",
                    store=store.describe(),
                )
            await sleep(self._reactor, STATE_RETRY)
        if said:
            _log.info("no other agent runs with {store} any more", store=store.describe())

    def _take_identity(self, stored: Stored) -> None:
        assert stored.state is not None
        if stored.state.cluster_token:
            self._log_output.redactor.keep("cluster.token", stored.state.cluster_token)
        agent_id = stored.state.agent_id
        self.board.identify(agent_id)
        _log.info("this is agent {agent_id}, by {store}", agent_id=agent_id, store=self._store.describe())

    async def _collect_facts(self) -> Facts:
        return await collect_facts(
            self._reactor,
            hostname=self._host.hostname,
            region=self._settings.agent.region,
            cloud_provider=self._settings.agent.cloud_provider,
            # Of two that know the same the later one counts: the cluster knows more than the host.
            sources=[*host_sources(self._reactor), *self.cluster.fact_sources()],
        )

    def _cluster_known(self) -> None:
        """Something is known of the cluster that the control plane is told, or it is different now."""
        if self._parts is not None and self.board.now.phase == "running":
            self._turn.spawn(self._tell_facts(self._parts), "telling what the cluster is")
        else:
            self._news = True  # for then

    async def _tell_facts(self, parts: Parts) -> None:
        parts.learn(await self._collect_facts())

    def _fail(self, error: FatalError) -> None:
        """Say, once, why the agent ends, and end it."""
        if self._failed:
            return
        self._failed = True
        fields = {} if error.response is None else {"response": error.response}
        _log.critical("{error}", error=error.sentence, **fields)
        self._end(error)

    # -- secrets

    def _keep_own(self) -> None:
        """Let the log mask what settings and files say of secrets now."""
        keep, settings = self._log_output.redactor.keep, self._settings
        for name, secret in (
            ("the token", self._tokens.current()),
            ("pipeops.token", settings.pipeops.token),
        ):
            if secret:
                keep(name, secret)
        keep("proxies", *self._loaded.proxies.secrets())

    def _say_ways_out(self) -> None:
        """Which proxy is used for what, where there is one."""
        proxies = self._loaded.proxies
        if proxies != DIRECT:
            _log.info(
                "the control plane is reached {control_plane}; tunnel servers {tunnel}, but for NO_PROXY",
                control_plane=way_to_control_plane(self._loaded),
                tunnel=proxies.usual_way,
            )

    # -- while running

    def reload(self) -> None:
        """Read all settings again (SIGHUP): what can change does, what needs a restart is named."""
        try:
            loaded = self._reload()
        except SettingsError as error:
            for problem in error.problems:
                _log.error("the settings can't be used, the old ones stay: {problem}", problem=str(problem))
            return
        changes = compare(self._settings, loaded.settings)
        before, self._loaded = self._loaded, loaded
        self._settings = settings = take_live(self._settings, loaded.settings)
        self._log_output.set_levels(settings.logging.level, settings.logging.levels)
        self._keep_own()
        self._tokens.replace(token_source(settings))
        self.cluster.reconfigure(settings)
        self.entrance.reconfigure()
        if self._parts is not None:
            self._parts.reconfigure(settings, changes)
        for caution in loaded.cautions:
            if caution not in before.cautions:
                _log.warn("{caution}", caution=caution)
        if loaded.proxies != before.proxies:
            self._say_ways_out()
        for path in changes.restart:
            _log.warn("{setting} has changed; it takes effect at the next start", setting=path)
        if changes.live:
            _log.info("settings read again, changed: {settings}", settings=", ".join(changes.live))
        else:
            _log.info("settings read again: nothing changed that can change while running")

    def reopen_log(self) -> None:
        """Open the log file anew (SIGUSR1)."""
        self._log_output.reopen()

    # -- stop

    def stopService(self) -> Deferred[None]:
        """Stop everything, in order, in under five seconds."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        was_active = self.board.now.phase == "running"
        self.board.enter("stopping")
        await self._plan_stop(last_word=was_active).run()
        if isinstance(self._store, FileStateStore):
            self._store.let_go()
        _log.info("stopped")

    def _plan_stop(self, *, last_word: bool) -> Shutdown:
        shutdown = Shutdown(self._reactor, within=STOP)
        shutdown.step("the start", 0.1, self._tasks.stop)
        shutdown.step("the registration", 0.1, self._turn.stop)
        shutdown.step("the real-time interface", 0.4, self.realtime.stop)  # its clients may be in the tunnel
        if self._parts is not None:
            self._parts.plan_stop(shutdown, last_word=last_word)
        shutdown.step("the cluster's lists", 0.05, self.cluster.unwatch)
        shutdown.step("the start gate", 0.3, self._gate.leave)
        shutdown.step("the way to the cluster", 0.05, lambda: maybeDeferred(self.cluster.stopService))
        shutdown.step("the HTTP interface", 0.4, super().stopService)
        return shutdown
