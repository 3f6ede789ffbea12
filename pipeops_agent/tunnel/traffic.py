"""The tunnel's counters: since the agent's start, whatever sessions come and go."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from pipeops_agent.status import ForwardTraffic, TunnelTraffic


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


class ForwardCounters:
    """
    What one forward has carried. Plain numbers, added to with every write: the hot path.

    @ivar opened: channels so far.
    @ivar open: channels now.
    @ivar bytes_in: from the control plane to the local target.
    @ivar bytes_out: from the local target to the control plane.
    @ivar failed_dials: how often the local target could not be reached.
    @ivar last_byte: when a byte last passed, either way: the reactor's seconds, since the epoch.
    @ivar last_dial: when the local target was last reached, likewise.
    @ivar refused: channels for this forward that were not let in (too many).
    """

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "failed_dials",
        "last_byte",
        "last_dial",
        "open",
        "opened",
        "refused",
    )

    def __init__(self) -> None:
        self.opened = 0
        self.open = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.failed_dials = 0
        self.last_byte: float | None = None
        self.last_dial: float | None = None
        self.refused = 0

    def snapshot(self) -> ForwardTraffic:
        """The figures at this moment."""
        return ForwardTraffic(
            open_channels=self.open,
            total_channels=self.opened,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            failed_dials=self.failed_dials,
            last_byte=_moment(self.last_byte),
            last_dial=_moment(self.last_dial),
        )


class TrafficCounters:
    """
    The counters of all forwards, by name, and those of the tunnel as a whole.

    @ivar refused: channels whose target is no configured forward.
    @ivar connects: sessions opened.
    @ivar carrier_bytes_in: bytes on the wire from the server, with everything around them.
    @ivar carrier_bytes_out: the same, to the server.
    """

    __slots__ = ("_forwards", "carrier_bytes_in", "carrier_bytes_out", "connects", "refused")

    def __init__(self) -> None:
        self._forwards: dict[str, ForwardCounters] = {}
        self.refused = 0
        self.connects = 0
        self.carrier_bytes_in = 0
        self.carrier_bytes_out = 0

    def forward(self, name: str) -> ForwardCounters:
        """The counters of the forward C{name}: always the same object, made when first asked for."""
        counters = self._forwards.get(name)
        if counters is None:
            counters = self._forwards[name] = ForwardCounters()
        return counters

    def know(self, names: Iterable[str]) -> None:
        """Let every forward of C{names} show, with zeros before its first byte."""
        for name in names:
            self.forward(name)

    def snapshot(self) -> TunnelTraffic:
        """The figures at this moment; what was refused adds up both kinds."""
        forwards = self._forwards
        return TunnelTraffic(
            forwards={name: counters.snapshot() for name, counters in forwards.items()},
            refused_channels=self.refused + sum(counters.refused for counters in forwards.values()),
            connects=self.connects,
            carrier_bytes_in=self.carrier_bytes_in,
            carrier_bytes_out=self.carrier_bytes_out,
        )
