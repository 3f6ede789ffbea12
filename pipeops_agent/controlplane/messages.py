"""What is sent to the control plane, and what its answer to a registration says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from pipeops_agent.controlplane.errors import AnswerError, first_line
from pipeops_agent.controlplane.strict import kind, optional_object, optional_text, parse_object
from pipeops_agent.secrets import Secret

CONTRACT_VERSION: Final = 1
CAPABILITIES: Final = ("heartbeat", "tunnel")
"""What this agent can do for the control plane, by name."""
MAX_IDENTIFIER: Final = 512
MAX_TOKEN: Final = 32 * 1024

TunnelWord = Literal["connected", "connecting", "disconnected"]
AgentWord = Literal["active", "degraded", "stopping"]


class ServerSpecs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the host has."""

    cpu_cores: int | None = None
    memory_gb: float | None = None
    disk_gb: float | None = None
    os: str = ""


class Registration(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of a registration. What is empty is left out."""

    contract_version: int
    capabilities: tuple[str, ...] = ()
    agent_id: str
    name: str = ""
    k8s_version: str = ""
    server_ip: str = ""
    server_code: str = ""
    k8s_service_token: Secret | None = None
    k8s_ca: str = ""
    k8s_server_name: str = ""
    region: str = ""
    cloud_provider: str = ""
    hostname: str = ""
    agent_version: str = ""
    labels: Mapping[str, str] = {}
    tunnel_port_config: Mapping[str, int] = {}
    server_specs: ServerSpecs | None = None
    metadata: Mapping[str, str] = {}


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a heartbeat. There is no token in it: the header carries that."""

    cluster_id: str
    agent_id: str
    status: AgentWord
    tunnel_status: TunnelWord
    timestamp: str
    metadata: Mapping[str, str | int | float]


def encode(body: Registration | Heartbeat) -> bytes:
    """C{body} as JSON; here, on its way to the wire, secrets are revealed."""
    return msgspec.json.encode(body, enc_hook=_reveal)


def _reveal(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(type(value).__name__)


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the control plane says to a registration.

    @ivar known: it had known this agent before (409).
    """

    cluster_id: str
    cluster_token: Secret | None = None
    contract_version: int = CONTRACT_VERSION
    known: bool = False


class NoClusterID(AnswerError):
    """The answer is well-formed and names no cluster."""


def parse_registered(body: bytes, *, known: bool = False) -> Registered:
    """
    Read the answer to a registration.

    @raise NoClusterID: none of the fields that may hold the cluster's UUID does.
    @raise AnswerError: it is no JSON object, or a field is of a wrong type.
    """
    answer = parse_object(body)
    cluster = optional_object(answer, "cluster", "cluster")
    data = optional_object(answer, "data", "data")
    token = optional_text(cluster, "token", "cluster.token")
    if token is not None and len(token) > MAX_TOKEN:
        raise AnswerError(f"cluster.token: longer than {MAX_TOKEN} characters")
    version = answer.get("contract_version", CONTRACT_VERSION)
    if type(version) is not int or version < 1:
        raise AnswerError(f"contract_version: expected a number from 1, got {kind(version)}")
    return Registered(
        cluster_id=_cluster_id(answer, cluster, data),
        cluster_token=None if token is None else Secret(token),
        contract_version=min(version, CONTRACT_VERSION),
        known=known,
    )


class HeartbeatAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """
    What an answer to a heartbeat advises. Most say nothing.

    @ivar reconnect: the tunnel should be connected anew.
    @ivar message: what the control plane says, one line; may be empty.
    @ivar server: the chisel server, as text. That another is named is a hint to poll and no more: what proves
        a server comes with the tunnel status alone.
    @ivar problem: what can't be understood of it. The heartbeat got through all the same.
    """

    reconnect: bool = False
    message: str = ""
    server: str | None = None
    problem: str | None = None


def parse_heartbeat_answer(body: bytes) -> HeartbeatAnswer:
    """Read the answer to a heartbeat. A body that is no JSON object says nothing: it need not be one."""
    try:
        answer = parse_object(body)
        reconnect = answer.get("reconnect", False)
        if not isinstance(reconnect, bool):
            raise AnswerError(f"reconnect: expected true or false, got {kind(reconnect)}")
        server = optional_text(answer, "tunnel_server_addr", "tunnel_server_addr")
        if server is None:
            server = optional_text(answer, "tunnel_url", "tunnel_url")
        message = optional_text(answer, "message", "message")
    except AnswerError as error:
        return HeartbeatAnswer(problem=None if error.syntax else str(error))
    return HeartbeatAnswer(
        reconnect=reconnect,
        message="" if message is None else first_line(message),
        server=None if server is None else server.strip()[:MAX_IDENTIFIER],
    )


def _cluster_id(answer: Mapping[str, Any], cluster: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The first of the five fields that is a non-empty string; others are passed over, but named."""
    odd = []
    for place, value in (
        ("cluster_id", answer.get("cluster_id")),
        ("cluster_uuid", answer.get("cluster_uuid")),
        ("cluster.uuid", cluster.get("uuid")),
        ("cluster.id", cluster.get("id")),
        ("data.cluster_id", data.get("cluster_id")),
    ):
        if isinstance(value, str):
            if value.strip():
                return _identifier(value.strip(), place)
        elif value is not None:
            odd.append(f"{place}: expected a string, got {kind(value)}")
    raise NoClusterID("; ".join(odd))


def _identifier(value: str, place: str) -> str:
    """An id stands in paths and records: it is short and holds nothing that ends a line or a path."""
    if len(value) > MAX_IDENTIFIER or not re.fullmatch(r"[^\x00-\x20\x7f-\x9f\ud800-\udfff]+", value):
        raise AnswerError(f"{place}: expected an id of at most {MAX_IDENTIFIER} printable characters")
    if value in (".", ".."):
        raise AnswerError(f"{place}: not an id")
    return value
