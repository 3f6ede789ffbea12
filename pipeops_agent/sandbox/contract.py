"""
What the agent sends, checked field by field: the sandbox is strict, so that a slip shows on a laptop first.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar

import msgspec

Filled = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
"""Text; the contract leaves empty fields out."""

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=65536)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]

T = TypeVar("T")

_PLACE = re.compile(r"^(?P<what>.*) - at `\$\.?(?P<place>.*)`$", re.DOTALL)
_NAMED = re.compile(r"^Object (?P<what>missing required|contains unknown) field `(?P<field>[^`]*)`$")


class ContractError(Exception):
    """What came breaks the contract; the message names the field."""


class ServerSpecs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """C{server_specs}: what cannot be known is left out."""

    cpu_cores: Annotated[int, msgspec.Meta(ge=1)] | None = None
    memory_gb: Annotated[float, msgspec.Meta(gt=0)] | None = None
    disk_gb: Annotated[float, msgspec.Meta(gt=0)] | None = None
    os: Filled | None = None


class Registration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of C{POST /api/v1/clusters/agent/register}."""

    contract_version: Annotated[int, msgspec.Meta(ge=1)]
    agent_id: Filled
    name: Filled
    agent_version: Filled
    metadata: dict[Filled, Text]
    labels: dict[Filled, str]
    capabilities: list[Filled] = []
    hostname: Filled | None = None
    k8s_version: Filled | None = None
    server_ip: Filled | None = None
    server_code: Filled | None = None
    k8s_service_token: Text | None = None
    k8s_ca: Text | None = None
    k8s_server_name: Filled | None = None
    region: Filled | None = None
    cloud_provider: Filled | None = None
    tunnel_port_config: Annotated[dict[Filled, Port], msgspec.Meta(max_length=100)] = {}
    server_specs: ServerSpecs | None = None

    def __repr__(self) -> str:
        return f"<registration of {self.agent_id}>"


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of C{POST /api/v1/clusters/agent/{cluster_id}/heartbeat}: no token field."""

    cluster_id: Filled
    agent_id: Filled
    status: Literal["active", "degraded", "stopping"]
    tunnel_status: Literal["connected", "connecting", "disconnected"]
    timestamp: Moment
    metadata: dict[Filled, Any]


REQUIRED_LABELS: Final = ("hostname", "agent.pipeops.io/version")
REQUIRED_BEAT_METADATA: Final = ("uptime", "version")


def parse_registration(body: bytes) -> Registration:
    """@raise ContractError: with the first field that does not fit."""
    value = _parse(body, Registration)
    for label in REQUIRED_LABELS:
        if label not in value.labels:
            raise ContractError(f"labels.{label}: missing")
    if value.metadata.get("agent_mode") != "vm-agent":
        raise ContractError("metadata.agent_mode: expected 'vm-agent'")
    _moment(value.metadata.get("registration_timestamp"), "metadata.registration_timestamp")
    for name in ("k8s_ca", "k8s_server_name"):
        if getattr(value, name) is not None and value.k8s_service_token is None:
            raise ContractError(f"{name}: comes only with k8s_service_token")
    return value


def parse_heartbeat(body: bytes) -> Heartbeat:
    """@raise ContractError: with the first field that does not fit."""
    value = _parse(body, Heartbeat)
    for name in REQUIRED_BEAT_METADATA:
        if not isinstance(value.metadata.get(name), str):
            raise ContractError(f"metadata.{name}: expected str")
    return value


def _parse(body: bytes, kind: type[T]) -> T:
    try:
        value = json.loads(body, object_pairs_hook=_unique, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"body: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ContractError(f"body: expected an object, got {type(value).__name__}")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ContractError(named_field(str(error))) from None


def named_field(message: str) -> str:
    """
    A message of msgspec's with the field first: C{agent_id: expected `str`, got `int`}.

    @param message: as in C{Expected `str`, got `int` - at `$.agent_id`}.
    """
    placed = _PLACE.match(message)
    what, place = (placed["what"], placed["place"]) if placed else (message, "")
    named = _NAMED.match(what)
    if named is not None:
        place = f"{place}.{named['field']}" if place else named["field"]
        what = "missing" if named["what"] == "missing required" else "unknown field"
    return f"{place or 'body'}: {what[:1].lower()}{what[1:]}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ContractError(f"{key}: given twice")
        value[key] = item
    return value


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _moment(text: str | None, place: str) -> None:
    try:
        msgspec.convert(text, Moment)
    except msgspec.ValidationError:
        raise ContractError(f"{place}: expected RFC 3339 with a zone, got {text!r}") from None
