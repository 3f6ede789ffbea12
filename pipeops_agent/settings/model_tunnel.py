"""The settings of the tunnel: section C{tunnel}."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from pipeops_agent.settings.addresses import HostPort, PortURL, ServerPattern, split_host_port
from pipeops_agent.settings.containers import ListOf, Record
from pipeops_agent.settings.kinds import About, Boolean, Choice, Duration, Integer, Name, OptionalDuration


class Forward(msgspec.Struct, frozen=True, kw_only=True):
    """One port on the tunnel's server that leads to one address here."""

    name: Annotated[
        str, About("The name by which the control plane allocates its port.", Name(required=True))
    ]
    local_addr: Annotated[str, About("Where its connections go: host:port, seen from the agent.", HostPort())]
    remote_port: Annotated[
        int,
        About(
            "The port on the server where the control plane allocates none. 0: without an allocation the"
            " forward stays unused.",
            Integer(0, 65535),
        ),
    ] = 0
    aliases: Annotated[
        tuple[str, ...],
        About(
            "Other names that an allocation may have. A forward of a default's name that lists none has the"
            " default's.",
            ListOf(Name(required=True)),
        ),
    ] = ()

    @property
    def target(self) -> tuple[str, int]:
        """Host, without brackets, and port of C{local_addr}."""
        return split_host_port(self.local_addr)


DEFAULT_FORWARDS: Final = (
    Forward(name="kubernetes-api", local_addr="localhost:6443", aliases=("k8s-api",)),
    Forward(name="kubelet-metrics", local_addr="localhost:10250", aliases=("kubelet",)),
    Forward(name="agent-http", local_addr="localhost:8080"),
)


class CanarySettings(msgspec.Struct, frozen=True, kw_only=True):
    """The canary: the agent reaches for itself through the tunnel, from the far side."""

    enabled: Annotated[
        bool,
        About("Send canaries; the agent has to reach the address of the allocated ports.", Boolean()),
    ] = False
    forward: Annotated[
        str, About("The forward that leads to the agent's own HTTP interface.", Name(required=True))
    ] = "agent-http"
    url: Annotated[
        str,
        About(
            "Where an allocated port is reached from outside: {host} is the tunnel server's, {port} the"
            " allocated port.",
            PortURL(),
        ),
    ] = "http://{host}:{port}"
    interval: Annotated[float, About("The time from one canary to the next.", Duration(0.1))] = 60.0
    timeout: Annotated[float, About("How long its answer may take.", Duration())] = 10.0


class TunnelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The tunnel."""

    enabled: Annotated[bool, About("False: no tunnel, whatever the control plane wants.", Boolean())] = True
    poll_interval: Annotated[
        float | None,
        About(
            "The time from one question for the tunnel's status to the next.",
            OptionalDuration("agent.poll_interval", 0.1),
        ),
    ] = None
    inactivity_timeout: Annotated[
        float,
        About(
            "How long a tunnel that is no longer wanted stays open without a byte on it. 0: not at all.",
            Duration(0),
        ),
    ] = 300.0
    inactivity_policy: Annotated[
        Literal["wanted", "always"],
        About(
            "wanted: inactivity never closes a tunnel that the control plane wants. always: it does.",
            Choice(("wanted", "always")),
        ),
    ] = "wanted"
    forwards: Annotated[
        tuple[Forward, ...],
        About(
            "What the tunnel reaches; nothing else is ever dialled.",
            ListOf(Record(Forward, "forward")),
            live=True,
        ),
    ] = DEFAULT_FORWARDS
    allowed_servers: Annotated[
        tuple[str, ...],
        About("The servers that the control plane may name. Empty: any.", ListOf(ServerPattern())),
    ] = ()
    allow_insecure: Annotated[
        bool, About("Allow a server without TLS. Said loudly at each start.", Boolean())
    ] = False
    connect_timeout: Annotated[
        float, About("How long each step of connecting to the server may take.", Duration())
    ] = 10.0
    dial_timeout: Annotated[
        float, About("How long the connection to a forward's local address may take.", Duration())
    ] = 10.0
    ping_interval: Annotated[
        float, About("The time from one ping of the server to the next.", Duration(0.1))
    ] = 8.0
    ping_timeout: Annotated[
        float, About("How long its answer may take before the link counts as dead.", Duration(0.1))
    ] = 5.0
    stable_after: Annotated[
        float, About("How long a tunnel must last before failures are counted anew.", Duration(0))
    ] = 30.0
    proof_lifetime: Annotated[
        float,
        About(
            "How long a forward counts as proven after its target was last reached or sent something; then it"
            " is stale. 0: as long as its session lasts.",
            Duration(0),
        ),
    ] = 3600.0
    watchdog: Annotated[
        float,
        About(
            "How long a tunnel that is wanted may be without an answer of its server before everything is"
            " made anew, from the name look-up on. 0: for ever. Never less than a ping may take.",
            Duration(0),
        ),
    ] = 300.0
    window_size: Annotated[
        int,
        About(
            "The most that one connection through the tunnel may have under way, or in memory unread. Its"
            " window grows up to this where the way is long, else it stays small.",
            Integer(32_768, 2**30, "bytes"),
        ),
    ] = 16_777_216
    max_channels: Annotated[
        int, About("Connections through the tunnel at one time.", Integer(1, 100_000))
    ] = 2000
    rekey_bytes: Annotated[
        int,
        About("New keys are agreed after so much traffic.", Integer(65_536, 2**36, "bytes")),
    ] = 1_073_741_824
    rekey_interval: Annotated[float, About("New keys are agreed after so long.", Duration(1))] = 3600.0
    canary: CanarySettings = CanarySettings()
