"""
What the control plane wants of the tunnel, parsed: handed by the poll to the tunnel's manager.

It stands here, outside both rooms, because C{controlplane} makes it and C{tunnel} obeys it, and
neither imports the other.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pipeops_agent.secrets import Secret


class Allocation(msgspec.Struct, frozen=True):
    """A port on the chisel server, for the forward of this name (or alias)."""

    name: str
    remote_port: int


class ServerAddress(msgspec.Struct, frozen=True):
    """Where the chisel server is: C{wss} on 443 and path C{/} unless the answer says otherwise."""

    host: str
    port: int = 443
    path: str = "/"
    tls: bool = True

    @property
    def url(self) -> str:
        """The WebSocket URL; an IPv6 address is bracketed."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.tls else 'ws'}://{host}:{self.port}{self.path}"


class TunnelServer(msgspec.Struct, frozen=True):
    """The chisel server and how to prove both sides to each other."""

    address: ServerAddress
    fingerprint: str | None = None
    """base64 SHA-256 of the host key, 44 characters; None: TLS must vouch for the server."""
    credentials: tuple[str, Secret] | None = None
    """User and password; None: empty ones."""


class TunnelOrder(msgspec.Struct, frozen=True):
    """
    What the last poll said.

    C{wanted}: a tunnel shall be there. C{idle}: it may be closed after the inactivity timeout.
    C{disabled}: it shall be closed at once. With C{wanted}, C{server} is present.
    """

    state: Literal["wanted", "idle", "disabled"]
    server: TunnelServer | None = None
    allocations: tuple[Allocation, ...] = ()
