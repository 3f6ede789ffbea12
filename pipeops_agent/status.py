"""
The one truth about the agent: frozen values, replaced whole, read by all.

Health, heartbeat, metrics, and later the WebSocket, SSE and the dashboard all read the
L{StatusBoard}; none keeps a copy. Figures that change with every packet (bytes, open channels) are
not pushed: the tunnel hands in a function that reads its counters, and L{StatusBoard.traffic} asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from pipeops_agent.clock import WallClock
from pipeops_agent.events import EventHub

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
    since: datetime | None = None
    message: str = "not yet asked"
    cluster_id: str | None = None
    attempts: int = 0


class HeartbeatStatus(msgspec.Struct, frozen=True, kw_only=True):
    """
    Whether heartbeats get through.

    C{disconnected} is C{failing} for longer than C{pipeops.reconnect.max_attempts}.
    """

    state: Literal["pending", "ok", "failing", "disconnected"] = "pending"
    since: datetime | None = None
    last_success: datetime | None = None
    failures: int = 0
    message: str = "none sent yet"


class ForwardStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One configured forward, and what is known of it."""

    name: str
    local_addr: str
    state: ForwardState = "configured"
    since: datetime | None = None
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

    began: datetime
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
    since: datetime | None = None
    message: str = "not asked for yet"
    server: str | None = None
    rtt: float | None = None
    forwards: tuple[ForwardStatus, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    """The last 20, oldest first."""


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether there is a Kubernetes API to talk to."""

    configured: bool = False
    reachable: bool = False
    since: datetime | None = None
    message: str = "no cluster is configured"
    version: str | None = None


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, at one moment."""

    phase: Phase = "starting"
    since: datetime
    started: datetime
    agent_id: str | None = None
    clock_skew: float | None = None
    """Seconds by which the control plane's clock is ahead of ours; None before its first answer."""
    registration: RegistrationStatus = RegistrationStatus()
    heartbeat: HeartbeatStatus = HeartbeatStatus()
    tunnel: TunnelStatus = TunnelStatus()
    cluster: ClusterStatus = ClusterStatus()


class CanaryResult(msgspec.Struct, frozen=True, kw_only=True):
    """
    What became of the agent's attempts to reach itself through a forward, from the far side.

    @ivar rtt: seconds from the request to the answer, of the last one that succeeded.
    @ivar error: why the last one did not; None: it did.
    """

    last_success: datetime | None = None
    rtt: float | None = None
    error: str | None = None
    tried: int = 0
    failed: int = 0


class DialTimes(msgspec.Struct, frozen=True, kw_only=True):
    """
    How long it took to reach a local target, as a histogram.

    @ivar buckets: upper end in seconds (the last is infinite), and how many dials took no longer.
    @ivar seconds: all of them together.
    """

    buckets: tuple[tuple[float, int], ...] = ()
    seconds: float = 0.0


class ForwardTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """
    The counters of one forward since the agent's start. C{in} is from the control plane to the local target.

    The agent's own canaries are not among the channels and bytes.

    @ivar confirmed: when the server that listens for it last answered: its configuration, or a ping.
    @ivar last_dial: when the local target was last reached.
    @ivar last_in: when a byte last came from the control plane.
    @ivar last_out: when a byte last came from the local target.
    @ivar failed_dials: how often the local target was not reached.
    @ivar refused_channels: channels that were not let in: there were too many.
    @ivar problems: both of these, by kind (L{pipeops_agent.tunnel.traffic.DIAL_PROBLEMS}).
    @ivar last_problem: the reason of the last one, in a sentence.
    @ivar canary: None: there was none.
    """

    open_channels: int = 0
    total_channels: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    confirmed: datetime | None = None
    last_dial: datetime | None = None
    last_in: datetime | None = None
    last_out: datetime | None = None
    failed_dials: int = 0
    refused_channels: int = 0
    problems: Mapping[str, int] = {}
    last_problem: str | None = None
    last_problem_at: datetime | None = None
    dials: DialTimes = DialTimes()
    canary: CanaryResult | None = None


class TunnelTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """
    The tunnel's counters since the agent's start.

    @ivar refused_channels: those denied, and those that a forward did not let in.
    @ivar denied_channels: channels refused because their target is no configured forward.
    @ivar denied: the same, by what was asked for; what is beyond a bounded number of names is C{other}.
    """

    forwards: Mapping[str, ForwardTraffic] = {}
    refused_channels: int = 0
    denied_channels: int = 0
    denied: Mapping[str, int] = {}
    connects: int = 0
    carrier_bytes_in: int = 0
    carrier_bytes_out: int = 0


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """
    How data flows through one forward now. Rates are bytes per second.

    @ivar rate_seconds: what the rates are means over: since somebody last asked; 0: not known yet.
    @ivar paused_in: channels that wait for their local socket.
    @ivar paused_out: channels that wait for the peer's window or for the carrier.
    @ivar longest_pause_in: seconds that the one of them has waited that waits longest.
    """

    open_channels: int = 0
    rate_in: float = 0.0
    rate_out: float = 0.0
    rate_seconds: float = 0.0
    paused_in: int = 0
    paused_out: int = 0
    longest_pause_in: float = 0.0
    longest_pause_out: float = 0.0


class ChannelFlow(msgspec.Struct, frozen=True, kw_only=True):
    """
    One open channel. Rates are bytes per second; times are seconds.

    @ivar dial_seconds: how long it took to reach its target.
    @ivar rate_seconds: what the rates are means over: since somebody last asked, or since its opening.
    @ivar send_window: how many bytes more the peer takes.
    @ivar paused_in: it waits for its local socket now; C{paused_seconds_in}: so it did, in all.
    @ivar paused_out: it waits for the peer's window or the carrier now; C{paused_seconds_out} likewise.
    """

    forward: str
    opened: datetime | None
    age: float
    dial_seconds: float
    bytes_in: int
    bytes_out: int
    rate_in: float
    rate_out: float
    rate_seconds: float
    send_window: int
    paused_in: bool
    paused_out: bool
    paused_seconds_in: float
    paused_seconds_out: float


class FlowStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The flow through the tunnel at one moment: per forward, and for the ten busiest channels."""

    at: datetime | None = None
    forwards: Mapping[str, Flow] = {}
    busiest: tuple[ChannelFlow, ...] = ()


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

    def tell_denied(self, denied: msgspec.Struct) -> None:
        """Publish that channels were refused whose targets are no configured forwards: C{dial_denied}."""
        data = msgspec.to_builtins(denied)
        targets = {self._clean(name): count for name, count in data["targets"].items()}
        self._hub.publish("tunnel", "dial_denied", {**data, "targets": targets})

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

    def set_cluster(self, **changes: Any) -> None:
        """Change fields of L{ClusterStatus}."""
        value = msgspec.structs.replace(self._status.cluster, **self._cleaned(changes))
        self._replace("cluster", "cluster", cluster=value)

    def _cleaned(self, changes: dict[str, Any]) -> dict[str, Any]:
        if "message" in changes:
            return {**changes, "message": self._clean(changes["message"])}
        return changes

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
