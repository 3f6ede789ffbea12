"""
What is forwarded, and how chisel writes it down.

The client asks for its forwards in one JSON object, the payload of the global request C{config}; the server
names one of them in the extra data of each channel. Names follow the server's view: in chisel's
C{R:8000:localhost:6443} "local" is the server's side (C{0.0.0.0:8000}) and "remote" is where the agent dials
(C{localhost:6443}).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

MAX_CONFIG_BYTES: Final = 64 * 1024
"""The largest configuration that L{parse_config} looks at."""

MAX_REMOTES: Final = 256
"""The most remotes that one configuration may carry."""

MAX_TARGET_BYTES: Final = 512
"""The longest target that L{parse_target} looks at: a host name has at most 253 characters."""

ANY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - the chisel server's side: what its Go client sends for a bare port
"""Where the server listens unless it is told otherwise."""

_PORT: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_HOST: Final = re.compile(r"[^\s:/\[\]\x00-\x1f\x7f]{1,253}")
_IPV6: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}(%[0-9A-Za-z_.-]{1,16})?")

_NAMED_PORTS: Final = (
    # chisel: "Server cannot listen on R:8000=>localhost:6443"; with an address, "R:127.0.0.1:8000=>…".
    re.compile(r"cannot listen on (?:R:)?(?:[^\s=]*:)?(\d{1,5})(?![\d:])", re.ASCII),
    # chisel: "access to 'R:0.0.0.0:8000' denied".
    re.compile(r"access to '(?:R:)?(?:[^\s']*:)?(\d{1,5})'", re.ASCII),
    # Go's net package: "listen tcp 0.0.0.0:8000: bind: address already in use".
    re.compile(r"listen tcp[46]? [^\s]*:(\d{1,5})(?![\d])", re.ASCII),
)


class Remote(msgspec.Struct, frozen=True):
    """
    One forward on its way through the tunnel.

    @ivar forward: the name of the configured forward.
    @ivar remote_port: where the server listens, 1 to 65535.
    @ivar host: where the agent dials; an IPv6 address without brackets.
    @ivar port: the same, 1 to 65535.
    """

    forward: str
    remote_port: int
    host: str
    port: int

    @property
    def target(self) -> str:
        """C{host:port} as the server sends it with each channel; an IPv6 host is bracketed."""
        return f"{bracketed(self.host)}:{self.port}"


class ReverseRemote(msgspec.Struct, frozen=True):
    """One remote as the server is asked for it: listen there, open channels for C{host:port}."""

    local_host: str
    local_port: int
    host: str
    port: int

    @property
    def target(self) -> str:
        """C{host:port} as it goes into each channel's extra data; an IPv6 host is bracketed."""
        return f"{bracketed(self.host)}:{self.port}"


class Configuration(msgspec.Struct, frozen=True):
    """What a client asks for."""

    version: str
    remotes: tuple[ReverseRemote, ...]


class ConfigError(ValueError):
    """A configuration that can't be used; its text says why and may be sent to the client."""


class TargetError(ValueError):
    """A channel's extra data that names no target."""


class ChannelTarget(msgspec.Struct, frozen=True):
    """Where a channel shall lead. C{socks} has neither host nor port; the host has no brackets."""

    host: str
    port: int
    protocol: Literal["tcp", "udp", "socks"] = "tcp"


class _WireRemote(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    """One remote in chisel's JSON. Go writes all of these, ports as strings."""

    local_host: str
    local_port: str
    remote_host: str
    remote_port: str
    local_proto: Literal["tcp"] = "tcp"
    remote_proto: Literal["tcp"] = "tcp"
    socks: bool = False
    reverse: bool = False
    stdio: bool = False


class _WireConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    version: str
    remotes: list[_WireRemote]


def bracketed(host: str) -> str:
    """C{host} as it stands before a C{:port}."""
    return f"[{host}]" if ":" in host else host


def config_payload(remotes: Iterable[Remote], version: str) -> bytes:
    """The payload of the C{config} request (spec: chisel, 5) that asks for C{remotes}, in their order."""
    wire = [
        _WireRemote(
            local_host=ANY_ADDRESS,
            local_port=str(remote.remote_port),
            remote_host=bracketed(remote.host),
            remote_port=str(remote.port),
            reverse=True,
        )
        for remote in remotes
    ]
    return msgspec.json.encode(_WireConfig(version=version, remotes=wire))


def parse_config(payload: bytes) -> Configuration:
    """
    Read the payload of a C{config} request, strictly: reverse TCP remotes only, at least one, no port twice.

    @raise ConfigError: anything else; the text names the place.
    """
    if len(payload) > MAX_CONFIG_BYTES:
        raise ConfigError(f"invalid config: more than {MAX_CONFIG_BYTES} bytes")
    try:
        wire = msgspec.json.decode(payload, type=_WireConfig)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"invalid config: {error}") from None
    if not wire.remotes:
        raise ConfigError("invalid config: no remotes")
    if len(wire.remotes) > MAX_REMOTES:
        raise ConfigError(f"invalid config: more than {MAX_REMOTES} remotes")
    remotes = tuple(_read_remote(remote, place) for place, remote in enumerate(wire.remotes))
    seen: set[int] = set()
    for place, remote in enumerate(remotes):
        if remote.local_port in seen:
            raise ConfigError(
                f"invalid config: Remotes[{place}]: port {remote.local_port} is asked for twice"
            )
        seen.add(remote.local_port)
    return Configuration(wire.version, remotes)


def _read_remote(wire: _WireRemote, place: int) -> ReverseRemote:
    where = f"invalid config: Remotes[{place}]"
    if wire.socks or wire.stdio or not wire.reverse:
        raise ConfigError(f"{where}: only reverse TCP remotes are served")
    local_port, port = _read_port(wire.local_port), _read_port(wire.remote_port)
    if local_port is None or port is None:
        raise ConfigError(f"{where}: expected ports from 1 to 65535")
    local_host, host = _read_host(wire.local_host or ANY_ADDRESS), _read_host(wire.remote_host or "127.0.0.1")
    if local_host is None or host is None:
        raise ConfigError(f"{where}: expected hosts, an IPv6 address in brackets")
    return ReverseRemote(local_host, local_port, host, port)


def parse_target(extra: bytes) -> ChannelTarget:
    """
    Read a channel's extra data: C{host:port}, C{host:port/udp} or C{socks} (spec: chisel, 7).

    @raise TargetError: it is none of these.
    """
    if len(extra) > MAX_TARGET_BYTES:
        raise TargetError(f"a target of {len(extra)} bytes")
    try:
        text = extra.decode("utf-8")
    except UnicodeDecodeError:
        raise TargetError("a target that is not UTF-8") from None
    if text == "socks":
        return ChannelTarget("", 0, "socks")
    address, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    host_text, _, port_text = address.rpartition(":")
    host, port = _read_host(host_text), _read_port(port_text)
    if host is None or port is None or protocol not in {"tcp", "udp"}:
        raise TargetError(f"expected host:port, got {text!r}")
    return ChannelTarget(host, port, "udp" if protocol == "udp" else "tcp")


def named_ports(reason: str) -> frozenset[int]:
    """
    The server's ports that the reason of a refused configuration names; empty where it names none.

    The target behind C{=>} is not one of them.
    """
    found = (int(text) for pattern in _NAMED_PORTS for text in pattern.findall(reason))
    return frozenset(port for port in found if 1 <= port <= 65535)


def _read_port(text: str) -> int | None:
    """A port from 1 to 65535, or None."""
    if not _PORT.fullmatch(text):
        return None
    port = int(text)
    return port if port <= 65535 else None


def _read_host(text: str) -> str | None:
    """A host name or address without its brackets, or None."""
    if text.startswith("["):
        inner = text[1:-1]
        return inner if text.endswith("]") and ":" in inner and _IPV6.fullmatch(inner) else None
    return text if _HOST.fullmatch(text) else None
