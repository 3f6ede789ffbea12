"""From settings and the control plane's order to a plan: which tunnel there shall be. A pure function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from pipeops_agent.orders import Allocation, TunnelOrder, TunnelServer
from pipeops_agent.settings.model_tunnel import Forward, TunnelSettings
from pipeops_agent.tunnel.remotes import Remote
from pipeops_agent.tunnel.session_api import Target


class PlannedForward(msgspec.Struct, frozen=True):
    """
    One configured forward, and the port that it is to have.

    @ivar remote_port: None: it has none, and C{note} says why.
    """

    name: str
    local_addr: str
    remote_port: int | None = None
    note: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the tunnel shall be.

    @ivar wish: C{wanted}: it shall be there. C{idle}: it may stay until it has been quiet for long enough.
        C{disabled}: it shall be gone.
    @ivar why: a sentence for the status.
    @ivar target: where it shall lead; None unless it is wanted and can be had.
    @ivar problem: why a wanted tunnel can't be had; None where it can.
    @ivar skipped: what of the control plane's allocations is not used, each as a sentence.
    """

    wish: Literal["wanted", "idle", "disabled"]
    why: str
    forwards: tuple[PlannedForward, ...]
    target: Target | None = None
    problem: str | None = None
    skipped: tuple[str, ...] = ()


def make_plan(settings: TunnelSettings, order: TunnelOrder | None) -> Plan:
    """The plan for these settings and this order; C{order} is None before the first."""
    unallocated = tuple(PlannedForward(forward.name, forward.local_addr) for forward in settings.forwards)
    if not settings.enabled:
        return Plan(wish="disabled", why="switched off in the settings", forwards=unallocated)
    if order is None:
        return Plan(wish="disabled", why="not asked for yet", forwards=unallocated)
    if order.state == "disabled":
        return Plan(wish="disabled", why="the control plane wants no tunnel", forwards=unallocated)
    if order.state == "idle":
        return Plan(wish="idle", why="the control plane needs no tunnel now", forwards=unallocated)
    forwards, skipped = allocate(settings.forwards, order.allocations)
    remotes = _remotes(settings.forwards, forwards)
    problem = _server_problem(settings, order.server)
    if problem is None and not remotes:
        problem = "none of the configured forwards has a port on the tunnel server"
    target = None
    if problem is None and order.server is not None:
        target = Target(order.server, remotes)
    return Plan(
        wish="wanted",
        why=problem or "wanted by the control plane",
        forwards=forwards,
        target=target,
        problem=problem,
        skipped=skipped,
    )


def allocate(
    forwards: Sequence[Forward], allocations: Sequence[Allocation]
) -> tuple[tuple[PlannedForward, ...], tuple[str, ...]]:
    """
    Give every forward its port; return them, and what of C{allocations} was skipped.

    An allocation belongs to the forward of its name, else to the first one that has it as an alias. A name
    counts for more than an alias and, among equals, the first allocation for more than the next. A forward
    without one uses its own C{remote_port}, unless an allocation (or a forward before it) has that port.
    """
    ports, skipped = _match(forwards, allocations)
    taken = {port: name for name, port in ports.items()}
    planned = []
    for forward in forwards:
        port, note = ports.get(forward.name), ""
        if port is None and not forward.remote_port:
            note = "the control plane has allocated no port for it"
        elif port is None:
            port = forward.remote_port
            holder = taken.setdefault(port, forward.name)
            if holder != forward.name:
                port, note = None, f"its own port {port} belongs to {holder}"
        planned.append(PlannedForward(forward.name, forward.local_addr, port, note))
    return tuple(planned), tuple(skipped)


def _match(
    forwards: Sequence[Forward], allocations: Iterable[Allocation]
) -> tuple[dict[str, int], list[str]]:
    """The allocated port of each forward that has one, and a sentence for each allocation left over."""
    names = {forward.name for forward in forwards}
    aliases: dict[str, str] = {}
    for forward in forwards:
        for alias in forward.aliases:
            aliases.setdefault(alias, forward.name)
    ports: dict[str, int] = {}
    holders: dict[int, str] = {}
    skipped = []
    by_name_first = sorted(allocations, key=lambda allocation: allocation.name not in names)
    for allocation in by_name_first:
        name, port = allocation.name, allocation.remote_port
        forward_name = name if name in names else aliases.get(name)
        if forward_name is None:
            skipped.append(f"{name!r} (port {port}) is the name of no configured forward")
        elif forward_name in ports:
            skipped.append(f"{name!r} (port {port}): {forward_name} has port {ports[forward_name]} already")
        elif port in holders:
            skipped.append(f"{name!r} (port {port}): that port is allocated to {holders[port]}")
        else:
            ports[forward_name] = port
            holders[port] = forward_name
    return ports, skipped


def _remotes(forwards: Sequence[Forward], planned: Sequence[PlannedForward]) -> tuple[Remote, ...]:
    targets: Mapping[str, tuple[str, int]] = {forward.name: forward.target for forward in forwards}
    return tuple(
        Remote(each.name, each.remote_port, *targets[each.name])
        for each in planned
        if each.remote_port is not None
    )


def _server_problem(settings: TunnelSettings, server: TunnelServer | None) -> str | None:
    """Why this server is not to be connected to; None where it may be."""
    if server is None:
        return "the control plane names no tunnel server"
    if server.address.tls:
        return (
            None  # without a fingerprint the carrier verifies the certificate, whatever else is switched off
        )
    if not settings.allow_insecure:
        return (
            f"{server.address.url} is refused: it is not encrypted by TLS, and tunnel.allow_insecure is off"
        )
    if server.fingerprint is None:
        return f"{server.address.url} is refused: without TLS it needs a server_fingerprint"
    return None
