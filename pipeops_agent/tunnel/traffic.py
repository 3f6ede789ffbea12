"""
The tunnel's counters: since the agent's start, whatever sessions come and go.

What is counted with every piece of data is a plain number in the L{ChannelTally} of one channel; everything
else (totals, rates, who waits) is worked out when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

from pipeops_agent.figures import CanaryResult, DialTimes, ForwardTraffic, TunnelTraffic
from pipeops_agent.tunnel.denials import Denials

DIAL_PROBLEMS: Final = ("refused", "timeout", "unreachable", "name", "limit", "other")
"""
The kinds of reasons for which a channel to a configured forward comes to nothing. C{name}: its host name
has no address. C{limit}: there are too many connections, so that its target was not dialled.
"""

DIAL_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper ends, in seconds, of the histogram of dials."""


LEAST_MEAN: Final = 1.0
"""Seconds that a rate is taken over at least: two who look at once see the same."""


def moment(seconds: float | None) -> datetime | None:
    """The reactor's C{seconds} as a time of day."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


class Wait:
    """
    How long something has had to wait.

    @ivar since: since when it waits now, in the reactor's seconds; None: it does not.
    @ivar before: seconds that it has waited before.
    """

    __slots__ = ("before", "since")

    def __init__(self) -> None:
        self.since: float | None = None
        self.before = 0.0

    def begin(self, now: float) -> None:
        """It has to wait from now on."""
        if self.since is None:
            self.since = now

    def end(self, now: float) -> None:
        """It has to wait no longer."""
        if self.since is not None:
            self.before += now - self.since
            self.since = None

    def present(self, now: float) -> float:
        """Seconds that it has been waiting; 0 where it does not."""
        return 0.0 if self.since is None else max(0.0, now - self.since)

    def total(self, now: float) -> float:
        """All seconds so far."""
        return self.before + self.present(now)


class Rate:
    """
    Bytes per second each way, as the mean since it was last looked at: nothing runs in between.

    @param since: when there were so many bytes.
    @ivar value: in and out.
    @ivar seconds: what the mean is taken over; 0: nothing is known yet.
    """

    __slots__ = ("_at", "_bytes", "seconds", "value")

    def __init__(self, since: float, bytes_in: int, bytes_out: int) -> None:
        self._at = since
        self._bytes = (bytes_in, bytes_out)
        self.value = (0.0, 0.0)
        self.seconds = 0.0

    def look(self, now: float, bytes_in: int, bytes_out: int) -> None:
        """Take the mean since the last look, unless that was just now."""
        passed = now - self._at
        if passed < LEAST_MEAN and self.seconds:
            return
        if passed > 0:
            before_in, before_out = self._bytes
            self.value = ((bytes_in - before_in) / passed, (bytes_out - before_out) / passed)
            self.seconds = passed
            self._at, self._bytes = now, (bytes_in, bytes_out)


class ChannelTally:
    """
    What one channel has carried. Plain numbers, added to with every write: the hot path.

    Times are the reactor's seconds, since the epoch; C{in} is from the control plane to the local target.

    @ivar canary: it is the agent's own canary (L{pipeops_agent.canary}): it counts for nothing.
    @ivar wait_in: the local socket takes no more.
    @ivar wait_out: the peer's window is shut, the carrier is full, or keys are changed.
    @ivar rate: None until somebody looks.
    """

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "canary",
        "dial_seconds",
        "last_in",
        "last_out",
        "opened_at",
        "rate",
        "wait_in",
        "wait_out",
    )

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.last_in: float | None = None
        self.last_out: float | None = None
        self.opened_at = 0.0
        self.dial_seconds = 0.0
        self.canary = False
        self.wait_in = Wait()
        self.wait_out = Wait()
        self.rate: Rate | None = None


class Tallied(Protocol):
    """An open channel, as the counters know it."""

    @property
    def tally(self) -> ChannelTally:
        """What it has carried."""

    @property
    def send_window(self) -> int:
        """How many bytes more the peer takes."""


class ForwardCounters:
    """
    What one forward has carried, in channels that are over and in those that are open.

    @ivar live: the open channels.
    @ivar confirmed: when the server last proved to be there, that listens for it (the configuration, a ping).
    @ivar last_dial: when the local target was last reached.
    @ivar problems: how many channels came to nothing, by kind (L{DIAL_PROBLEMS}).
    @ivar last_problem: why the last of them did; C{last_problem_at}: when.
    @ivar canary: what became of the last canary; None: there was none.
    @ivar canary_heads: how the requests of its last few canaries begin that have not come yet.
    """

    def __init__(self) -> None:
        self.live: dict[Tallied, None] = {}
        self.confirmed: float | None = None
        self.last_dial: float | None = None
        self.problems: dict[str, int] = {}
        self.last_problem: str | None = None
        self.last_problem_at: float | None = None
        self.canary: CanaryResult | None = None
        self.canary_heads: tuple[bytes, ...] = ()
        self.rate: Rate | None = None
        self._over = ChannelTally()
        self._opened_and_over = 0
        self._dial_counts = [0] * (len(DIAL_BUCKETS) + 1)
        self._dial_seconds = 0.0

    # -- what happens

    def enter(self, channel: Tallied, now: float, dial_seconds: float) -> None:
        """C{channel} has been opened, after its target was reached in C{dial_seconds}."""
        channel.tally.opened_at = now
        channel.tally.dial_seconds = dial_seconds
        self.live[channel] = None
        self.last_dial = now
        self._dial_counts[bisect_left(DIAL_BUCKETS, dial_seconds)] += 1
        self._dial_seconds += dial_seconds

    def leave(self, channel: Tallied) -> None:
        """C{channel} is over."""
        del self.live[channel]
        tally, over = channel.tally, self._over
        if tally.canary:
            return
        self._opened_and_over += 1
        over.bytes_in += tally.bytes_in
        over.bytes_out += tally.bytes_out
        over.last_in = _later(over.last_in, tally.last_in)
        over.last_out = _later(over.last_out, tally.last_out)

    def fail(self, kind: str, sentence: str, now: float) -> None:
        """A channel came to nothing, for a reason of L{DIAL_PROBLEMS}."""
        self.problems[kind] = self.problems.get(kind, 0) + 1
        self.last_problem, self.last_problem_at = sentence, now

    def claim_canary(self, head: bytes) -> bool:
        """A channel begins with C{head}; return whether it is the canary: the first that does."""
        first = head in self.canary_heads
        self.canary_heads = tuple(each for each in self.canary_heads if each != head)
        return first

    # -- what there is

    def _counted(self) -> list[ChannelTally]:
        """The tallies of the open channels that count, and of all that are over."""
        return [self._over, *(channel.tally for channel in self.live if not channel.tally.canary)]

    @property
    def open(self) -> int:
        """Channels now."""
        return len(self._counted()) - 1

    @property
    def opened(self) -> int:
        """Channels so far."""
        return self._opened_and_over + self.open

    @property
    def bytes_in(self) -> int:
        """From the control plane to the local target."""
        return sum(tally.bytes_in for tally in self._counted())

    @property
    def bytes_out(self) -> int:
        """From the local target to the control plane."""
        return sum(tally.bytes_out for tally in self._counted())

    @property
    def last_in(self) -> float | None:
        """When a byte last came from the control plane."""
        return _latest(tally.last_in for tally in self._counted())

    @property
    def last_out(self) -> float | None:
        """When a byte last came from the local target."""
        return _latest(tally.last_out for tally in self._counted())

    @property
    def last_byte(self) -> float | None:
        """When a byte last passed, either way, other than a canary's: this is activity."""
        return _later(self.last_in, self.last_out)

    @property
    def refused(self) -> int:
        """Channels that were not let in (too many)."""
        return self.problems.get("limit", 0)

    @property
    def failed_dials(self) -> int:
        """How often the local target could not be reached."""
        return sum(self.problems.values()) - self.refused

    def snapshot(self) -> ForwardTraffic:
        """The figures at this moment."""
        return ForwardTraffic(
            open_channels=self.open,
            total_channels=self.opened,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            confirmed=moment(self.confirmed),
            last_dial=moment(self.last_dial),
            last_in=moment(self.last_in),
            last_out=moment(self.last_out),
            failed_dials=self.failed_dials,
            refused_channels=self.refused,
            problems=dict(self.problems),
            last_problem=self.last_problem,
            last_problem_at=moment(self.last_problem_at),
            dials=self._dial_times(),
            canary=self.canary,
        )

    def _dial_times(self) -> DialTimes:
        total, buckets = 0, []
        for upper, count in zip((*DIAL_BUCKETS, float("inf")), self._dial_counts, strict=True):
            total += count
            buckets.append((upper, total))
        return DialTimes(buckets=tuple(buckets), seconds=self._dial_seconds)


class TrafficCounters:
    """
    The counters of all forwards, by name, and those of the tunnel as a whole.

    @ivar denials: channels whose target is no configured forward.
    @ivar connects: sessions opened.
    @ivar carrier_bytes_in: bytes on the wire from the server, with everything around them.
    @ivar carrier_bytes_out: the same, to the server.
    """

    def __init__(self) -> None:
        self._forwards: dict[str, ForwardCounters] = {}
        self.denials = Denials()
        self.connects = 0
        self.carrier_bytes_in = 0
        self.carrier_bytes_out = 0

    @property
    def forwards(self) -> Mapping[str, ForwardCounters]:
        """The counters that there are, by the forwards' names."""
        return self._forwards

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
            refused_channels=self.denials.total + sum(counters.refused for counters in forwards.values()),
            denied_channels=self.denials.total,
            denied=self.denials.names,
            connects=self.connects,
            carrier_bytes_in=self.carrier_bytes_in,
            carrier_bytes_out=self.carrier_bytes_out,
        )


def _later(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def _latest(times: Iterable[float | None]) -> float | None:
    return max((time for time in times if time is not None), default=None)
