"""
The one truth about the agent: frozen values, replaced whole, read by all.

Health, heartbeat, metrics, and later the WebSocket, SSE and the dashboard all read the
L{StatusBoard}; none keeps a copy. Figures that change with every packet (bytes, open channels) are
not pushed: the tunnel hands in a function that reads its counters, and L{StatusBoard.traffic} asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from pipeops_agent.clock import Moment, WallClock
from pipeops_agent.events import EventHub
from pipeops_agent.figures import DeniedDials, FlowStatus, ForwardTraffic, TunnelTraffic

Phase = Literal["starting", "standby", "registering", "running", "stopping"]
PHASES: Final[tuple[Phase, ...]] = ("starting", "standby", "registering", "running", "stopping")

TUNNEL_STATES: Final = (
    "disabled",
    "idle",
    "connecting",
    "connected",
    "waiting",
    "closing",
)
"""The names of the tunnel machine's states (L{pipeops_agent.tunnel.machine})."""

ForwardState = Literal["configured", "allocated", "listening", "proven", "stale", "refused"]


class RegistrationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the control plane knows this agent, and as which cluster."""

    registered: bool = False
    since: Moment | None = None
    message: str = "not yet asked"
    cluster_id: str | None = None
    attempts: int = 0


class HeartbeatStatus(msgspec.Struct, frozen=True, kw_only=True):
    """
    Whether heartbeats get through.

    C{disconnected} is C{failing} for longer than C{pipeops.reconnect.max_attempts}.
    """

    state: Literal["pending", "ok", "failing", "disconnected"] = "pending"
    since: Moment | None = None
    last_success: Moment | None = None
    failures: int = 0
    message: str = "none sent yet"


class ForwardStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One configured forward, and what is known of it."""

    name: str
    local_addr: str
    state: ForwardState = "configured"
    since: Moment | None = None
    remote_port: int | None = None
    message: str = ""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of one attempt to connect: its name, how long it took, why it failed."""

    name: str
    seconds: float
    error: str | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """
    One attempt to connect, step by step.

    @ivar server: the URL that it led to.
    @ivar role: which of the tunnel's lines made it, as the log calls it.
    @ivar forwards: what it was to carry.
    @ivar outcome: C{refused}: the server answered, and did not want the configuration. C{given up}: something
        else was wanted meanwhile.
    """

    began: Moment
    steps: tuple[Step, ...]
    error: str | None = None
    server: str = ""
    role: str = ""
    forwards: tuple[str, ...] = ()
    outcome: Literal["connected", "refused", "failed", "given up"] | None = None

    @property
    def seconds(self) -> float:
        """All steps together."""
        return sum(step.seconds for step in self.steps)


class TunnelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the tunnel *is*: the machine's own state name, and the reason for it."""

    state: str = "disabled"
    since: Moment | None = None
    message: str = "not asked for yet"
    server: str | None = None
    rtt: float | None = None
    forwards: tuple[ForwardStatus, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    """The last 20, oldest first."""
    contact: Moment | None = None
    """The last proof that the server is there: an answer to a ping, to a configuration."""
    flapping: str | None = None
    """What goes on where sessions end again and again soon after they came up."""
    rebuilds: int = 0
    """How often the watchdog has made everything anew."""


class KindStatus(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the list of one kind of objects is worth; see L{pipeops_agent.cluster.reflector.ListStatus}.

    @ivar kind: the plural: C{pods}.
    @ivar namespace: where there are lists of single namespaces, the one that is worst off.
    @ivar synced: when it was last known to be the server's, where it is not C{live}.
    """

    kind: str
    state: str
    namespace: str | None = None
    since: Moment
    synced: Moment | None = None
    message: str = ""


class AbilityStatus(msgspec.Struct, frozen=True, kw_only=True):
    """
    Whether something can be done in the cluster, within the agent's rights and the owner's rules.

    @ivar name: C{logs}, C{scale}: those of L{pipeops_agent.cluster.needs}.
    @ivar state: C{namespaces}: in C{namespaces} alone.
    @ivar message: what stands in the way, and the RBAC rule that would let it pass; empty: nothing does.
    """

    name: str
    state: Literal["allowed", "denied", "namespaces"]
    namespaces: tuple[str, ...] = ()
    message: str = ""


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """
    Whether there is a Kubernetes API to talk to, and what is known by it.

    @ivar lists: empty while nothing is kept: before the registration, on a standby.
    @ivar usage: where processors' and memory's usage comes from; None: it is not known, and
        C{usage_message} says why. Else that says what is missing.
    @ivar abilities: empty until the API server was asked.
    @ivar api_versions: what the API server has: C{v1}, C{apps/v1}; C{api_missing} what of it can't be read,
        and why.
    @ivar token_message: why the control plane has no token for the tunnelled API, or no new one; empty: it
        has, or is to have none.
    """

    configured: bool = False
    reachable: bool = False
    since: Moment | None = None
    message: str = "no cluster is configured"
    version: str | None = None
    lists: tuple[KindStatus, ...] = ()
    usage: str | None = None
    usage_message: str = ""
    abilities: tuple[AbilityStatus, ...] = ()
    api_versions: tuple[str, ...] = ()
    api_missing: tuple[str, ...] = ()
    token_message: str = ""


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, at one moment."""

    phase: Phase = "starting"
    since: Moment
    started: Moment
    agent_id: str | None = None
    clock_skew: float | None = None
    """Seconds by which the control plane's clock is ahead of ours; None before its first answer."""
    registration: RegistrationStatus = RegistrationStatus()
    heartbeat: HeartbeatStatus = HeartbeatStatus()
    tunnel: TunnelStatus = TunnelStatus()
    cluster: ClusterStatus = ClusterStatus()


class StatusBoard:
    """
    Holds the present L{AgentStatus}; every change replaces it whole and is an event.

    @param clean: takes secrets out of a text. Messages repeat what peers have said, and whatever stands here
        is shown to who may read.
    """

    def __init__(self, hub: EventHub, wall: WallClock, *, clean: Callable[[str], str] = str) -> None:
        self._hub = hub
        self._wall = wall
        self._clean = clean
        now = wall()
        self._status = AgentStatus(since=now, started=now)
        self._traffic: Callable[[], TunnelTraffic] = TunnelTraffic
        self._channels: Callable[[], FlowStatus] = FlowStatus

    @property
    def now(self) -> AgentStatus:
        """The status at this moment."""
        return self._status

    def traffic(self) -> TunnelTraffic:
        """The tunnel's counters at this moment."""
        traffic = self._traffic()
        return msgspec.structs.replace(
            traffic,
            forwards={name: self._clean_forward(each) for name, each in traffic.forwards.items()},
            denied={self._clean(name): count for name, count in traffic.denied.items()},
        )

    def read_traffic_from(self, source: Callable[[], TunnelTraffic]) -> None:
        """Let L{traffic} ask C{source} from now on."""
        self._traffic = source

    def channels(self) -> FlowStatus:
        """How data flows at this moment. Rates are means since the last call."""
        return self._channels()

    def read_channels_from(self, source: Callable[[], FlowStatus]) -> None:
        """Let L{channels} ask C{source} from now on."""
        self._channels = source

    def tell_denied(self, denied: DeniedDials) -> None:
        """Publish that channels were refused whose targets are no configured forwards: C{dial_denied}."""
        targets = {self._clean(name): count for name, count in denied.targets.items()}
        cleaned = msgspec.structs.replace(denied, targets=targets)
        self._hub.publish("tunnel", "dial_denied", msgspec.to_builtins(cleaned))

    def enter(self, phase: Phase) -> None:
        """
        Note that the agent is in C{phase} from now on. Nothing leaves C{stopping}: what had been asked
        for before (an answer to the registration, the Lease) must not make a leaving agent ready again.
        """
        if self._status.phase not in (phase, "stopping"):
            self._replace("agent", "phase", phase=phase, since=self._wall())

    def identify(self, agent_id: str) -> None:
        """Note who this agent is."""
        self._replace("agent", "identity", agent_id=agent_id)

    def set_clock_skew(self, seconds: float) -> None:
        """Note how far the control plane's clock is ahead; an event only where it moved by 1 s."""
        before = self._status.clock_skew
        if before is None or abs(before - seconds) >= 1:
            self._replace("health", "clock_skew", clock_skew=seconds)

    def set_registration(self, **changes: Any) -> None:
        """Change fields of L{RegistrationStatus}."""
        value = msgspec.structs.replace(self._status.registration, **self._cleaned(changes))
        self._replace("agent", "registration", registration=value)

    def stand_by(self, reason: str) -> None:
        """This agent is active no more: what was true of its registration and its heartbeats is another's."""
        message = f"standing by: {reason}"
        self.set_registration(registered=False, since=None, message=message)
        self._replace("health", "heartbeat", heartbeat=HeartbeatStatus())

    def set_heartbeat(self, **changes: Any) -> None:
        """Change fields of L{HeartbeatStatus}."""
        value = msgspec.structs.replace(self._status.heartbeat, **self._cleaned(changes))
        self._replace("health", "heartbeat", heartbeat=value)

    def set_tunnel(self, **changes: Any) -> None:
        """Change fields of L{TunnelStatus}."""
        before = self._status.tunnel
        changes = self._cleaned(changes)
        if "forwards" in changes:
            changes["forwards"] = tuple(
                msgspec.structs.replace(each, message=self._clean(each.message))
                for each in changes["forwards"]
            )
        if "attempts" in changes:
            changes["attempts"] = tuple(
                each if each in before.attempts else self._clean_attempt(each) for each in changes["attempts"]
            )
        value = msgspec.structs.replace(before, **changes)
        self._replace("tunnel", "tunnel", tunnel=value)

    def announce(self, event: str, **data: Any) -> None:
        """Publish what has happened to the tunnel and is over: an event of its own, no status."""

        def clean(value: Any) -> Any:
            if isinstance(value, list):
                return [clean(each) for each in value]
            return self._clean(value) if isinstance(value, str) else value

        self._hub.publish("tunnel", event, {key: clean(value) for key, value in data.items()})

    def set_cluster(self, **changes: Any) -> None:
        """Change fields of L{ClusterStatus}."""
        changes = self._cleaned(changes)
        for name in ("lists", "abilities"):
            if name in changes:
                changes[name] = tuple(
                    msgspec.structs.replace(each, message=self._clean(each.message)) for each in changes[name]
                )
        if "api_missing" in changes:
            changes["api_missing"] = tuple(map(self._clean, changes["api_missing"]))
        value = msgspec.structs.replace(self._status.cluster, **changes)
        self._replace("cluster", "cluster", cluster=value)

    def _cleaned(self, changes: dict[str, Any]) -> dict[str, Any]:
        texts = {
            key: changes[key]
            for key in ("message", "flapping", "usage_message", "token_message")
            if changes.get(key)
        }
        return {**changes, **{key: self._clean(text) for key, text in texts.items()}}

    def _clean_attempt(self, attempt: Attempt) -> Attempt:
        clean = self._clean_optional
        steps = tuple(msgspec.structs.replace(step, error=clean(step.error)) for step in attempt.steps)
        return msgspec.structs.replace(attempt, steps=steps, error=clean(attempt.error))

    def _clean_forward(self, traffic: ForwardTraffic) -> ForwardTraffic:
        canary, clean = traffic.canary, self._clean_optional
        if canary is not None:
            canary = msgspec.structs.replace(canary, error=clean(canary.error))
        return msgspec.structs.replace(traffic, last_problem=clean(traffic.last_problem), canary=canary)

    def _clean_optional(self, text: str | None) -> str | None:
        return None if text is None else self._clean(text)

    def _replace(self, channel: str, event: str, **changes: Any) -> None:
        status = msgspec.structs.replace(self._status, **changes)
        if status == self._status:
            return
        self._status = status
        data = msgspec.to_builtins({name: getattr(status, name) for name in changes})
        self._hub.publish(channel, event, data)
