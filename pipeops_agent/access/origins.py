"""Where a connection comes from, and by what its client is told from others."""

from __future__ import annotations

import ipaddress
from typing import Final

import msgspec
from twisted.internet.interfaces import IAddress

from pipeops_agent.own_sockets import OwnSockets

TUNNEL: Final = "tunnel:"
"""What the origins of the tunnel's callers begin with; the forward's name follows."""

_NETWORK: Final = 64
"""Bits of an IPv6 address that tell clients apart: whoever has one has all 2^64 of its network."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """
    Where something comes from.

    @ivar name: for logs and audit: an address, or C{tunnel:<forward>}.
    @ivar client: by which it is counted and limited.
    @ivar tunnel: it came through the agent's own tunnel.
    @ivar near: no network lies before it that could be listened to: loopback, or the tunnel.
    """

    name: str
    client: str
    tunnel: bool = False
    near: bool = False


def origin_of(address: IAddress, sockets: OwnSockets) -> Origin:
    """
    The origin of a connection.

    @param address: the peer's. One that is no IP address (a test's, a Unix socket's) is somewhere far away.
    @param sockets: the tunnel's.
    """
    host, port = str(getattr(address, "host", address)), getattr(address, "port", 0)
    forward = sockets.forward_of((host, port))
    if forward is not None:
        name = f"{TUNNEL}{forward}"
        return Origin(name=name, client=name, tunnel=True, near=True)
    try:
        # An address with a scope (fe80::1%eth0) is one of its interface's network.
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return Origin(name=host, client=host)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped  # a socket for both families says so
    if isinstance(ip, ipaddress.IPv4Address) or ip.is_loopback:
        return Origin(name=str(ip), client=str(ip), near=ip.is_loopback)
    network = ipaddress.ip_network((ip, _NETWORK), strict=False)
    return Origin(name=str(ip), client=str(network))
