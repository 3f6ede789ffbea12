"""
Every setting: its name, type, default and meaning, in one place.

Parsing, environment variables, command line options, C{--check-config} and the documentation are
all made from these classes. Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from pipeops_agent.log.components import COMPONENTS
from pipeops_agent.settings.containers import ListOf, MappingOf
from pipeops_agent.settings.kinds import About, Boolean, Choice, Duration, FilePath, Integer, Name, Text
from pipeops_agent.settings.model_pipeops import PipeopsSettings
from pipeops_agent.settings.model_server import ServerSettings
from pipeops_agent.settings.model_tunnel import TunnelSettings

Level = Literal["debug", "info", "warn", "error"]
_LEVEL: Final = Choice(("debug", "info", "warn", "error"), {"warning": "warn"})


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who this agent is."""

    id: Annotated[
        str,
        About(
            "The agent's identity. Empty: made at the first start and kept in the state.",
            Name(),
            variable="PIPEOPS_AGENT_ID",
        ),
    ] = ""
    name: Annotated[
        str,
        About("The agent's name; the registration's metadata carries it as agent_name.", Text(required=True)),
    ] = "pipeops-agent"
    cluster_name: Annotated[
        str,
        About(
            "The name under which this machine or cluster is registered.",
            Text(required=True, most=253),
            option="cluster-name",
            variable="PIPEOPS_CLUSTER_NAME",
        ),
    ] = "default-cluster"
    poll_interval: Annotated[
        float,
        About("The time from one heartbeat to the next.", Duration(0.1), option="poll-interval"),
    ] = 5.0
    labels: Annotated[
        dict[str, str],
        About("Labels that the registration carries.", MappingOf(Text()), live=True),
    ] = {}
    region: Annotated[
        str, About("The region that is reported where the nodes don't name one.", Text(required=True))
    ] = "agent-managed"
    cloud_provider: Annotated[
        str, About("The provider that is reported where the nodes don't name one.", Text(required=True))
    ] = "agent"
    node_name: Annotated[
        str,
        About("The Kubernetes node that this pod runs on.", Text(), variable="PIPEOPS_NODE_NAME"),
    ] = ""
    pod_name: Annotated[str, About("The pod's name.", Text(), variable="PIPEOPS_POD_NAME")] = ""
    pod_namespace: Annotated[str, About("The pod's namespace.", Text(), variable="PIPEOPS_POD_NAMESPACE")] = (
        ""
    )
    state_file: Annotated[
        str,
        About(
            "Where ids and the cluster's token are kept. Empty: the first writable of /var/lib/pipeops,"
            " $XDG_STATE_HOME/pipeops and ~/.local/state/pipeops.",
            FilePath(),
            option="state-file",
        ),
    ] = ""
    leader_election: Annotated[
        bool, About("With several replicas in a cluster, one is active, by a Lease.", Boolean())
    ] = False


class KubernetesSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster, where there is one."""

    in_cluster: Annotated[bool, About("In a pod, use the pod's service account.", Boolean())] = True
    namespace: Annotated[str, About("The agent's namespace.", Name(required=True))] = "pipeops-system"
    kubeconfig: Annotated[
        str,
        About(
            "The kubeconfig file by which the cluster is reached. Empty: none.",
            FilePath(),
            option="kubeconfig",
        ),
    ] = ""
    context: Annotated[str, About("The kubeconfig's context. Empty: its current one.", Text())] = ""
    namespaces: Annotated[
        tuple[str, ...],
        About(
            "The only namespaces that the agent reads and acts in. Empty: all that its rights allow.",
            ListOf(Name(required=True)),
        ),
    ] = ()
    denied_namespaces: Annotated[
        tuple[str, ...],
        About("Namespaces that the agent neither reads nor acts in.", ListOf(Name(required=True))),
    ] = ()
    labels: Annotated[
        str,
        About(
            "A label selector; of pods, services and workloads only those that it selects are read.", Text()
        ),
    ] = ""
    resync: Annotated[
        float,
        About("How often all lists are read anew, whatever their watches say. 0: never.", Duration(0)),
    ] = 3600.0
    state_secret: Annotated[
        str,
        About("In a pod: the Secret of the agent's namespace that keeps its state.", Name(required=True)),
    ] = "pipeops-agent-state"  # noqa: S105  # an object's name
    lease: Annotated[
        str,
        About("In a pod: the Lease by which one of several replicas is active.", Name(required=True)),
    ] = "pipeops-agent"


class RealtimeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """WebSockets and server-sent events."""

    max_connections: Annotated[
        int,
        About(
            "WebSockets at one time; as many clients of server-sent events besides. The next gets 503.",
            Integer(1, 100_000),
            live=True,
        ),
    ] = 100
    origins: Annotated[
        tuple[str, ...],
        About(
            "Web pages, besides the agent's own, that may open a WebSocket: https://host or https://host:port.",
            ListOf(Text(required=True)),
            live=True,
        ),
    ] = ()


class LoggingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The log."""

    level: Annotated[
        Level,
        About(
            "The lowest level that is logged: debug, info, warn or error.",
            _LEVEL,
            live=True,
            option="log-level",
            variable="PIPEOPS_LOG_LEVEL",
        ),
    ] = "info"
    format: Annotated[
        Literal["json", "text"],
        About(
            "The log's format. json: one object per line; text: for people.",
            Choice(("json", "text")),
            option="log-format",
        ),
    ] = "json"
    output: Annotated[
        str,
        About(
            "Where the log goes: stdout, stderr, or a file, which is opened again on SIGUSR1.",
            FilePath(),
            option="log-output",
        ),
    ] = "stdout"
    levels: Annotated[
        dict[str, str],
        About(
            f"Levels of single components: {', '.join(COMPONENTS)}; or of a library, such as"
            " twisted. What stands before a dot holds for all behind it. Audit records are shown whatever"
            " logging.level is, unless audit is named here.",
            MappingOf(_LEVEL),
            live=True,
        ),
    ] = {}


class DenySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What nobody may do through the agent."""

    verbs: Annotated[
        tuple[str, ...],
        About("Operations that are refused.", ListOf(Text(required=True)), live=True),
    ] = ()
    kinds: Annotated[
        tuple[str, ...],
        About("Kinds of objects that are out of reach.", ListOf(Text(required=True)), live=True),
    ] = ()
    namespaces: Annotated[
        tuple[str, ...],
        About("Namespaces that are out of reach.", ListOf(Text(required=True)), live=True),
    ] = ()


class AccessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The owner's switch: it binds everybody, the control plane included."""

    read_only: Annotated[bool, About("Nothing may be changed through the agent.", Boolean(), live=True)] = (
        False
    )
    deny: DenySettings = DenySettings()


class LeaderElectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Several replicas."""

    strict: Annotated[
        bool,
        About(
            "The active replica closes its tunnel when it can't renew its Lease in time, even if no other"
            " holder is seen.",
            Boolean(),
        ),
    ] = False


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, validated."""

    agent: AgentSettings = AgentSettings()
    pipeops: PipeopsSettings = PipeopsSettings()
    tunnel: TunnelSettings = TunnelSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    server: ServerSettings = ServerSettings()
    realtime: RealtimeSettings = RealtimeSettings()
    logging: LoggingSettings = LoggingSettings()
    access: AccessSettings = AccessSettings()
    leader_election: LeaderElectionSettings = LeaderElectionSettings()

    @property
    def tunnel_poll_interval(self) -> float:
        """C{tunnel.poll_interval}, or C{agent.poll_interval} where that is unset."""
        own = self.tunnel.poll_interval
        return self.agent.poll_interval if own is None else own
