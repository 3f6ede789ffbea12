"""A relay that looks at how its channel begins: the agent's own canary is no activity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime

from pipeops_agent.tunnel.reading import Reading
from pipeops_agent.tunnel.relay import Relay
from pipeops_agent.tunnel.traffic import ChannelTally, ForwardCounters

MAX_CANARY: Final = 16 * 1024
"""Bytes, both ways, that a canary's channel may carry; with more it is anybody's, from its first byte on."""


class WatchedRelay(Relay):
    """
    Compares the first bytes from the far side with the beginnings of the canaries' requests.

    As long as they may still become one, they count as bytes, but not as activity; the first that differs,
    or one from the local target before that, makes it anybody's channel, for good. Each canary has one
    channel: who has seen its request pass can't hide behind it, in a second one or for long in the first.

    @param counters: know how the requests begin that are awaited.
    """

    def __init__(
        self,
        clock: IReactorTime,
        tally: ChannelTally,
        reading: Reading,
        ended: Callable[[Relay], None],
        counters: ForwardCounters,
        reached: Callable[[Relay], None] | None = None,
    ) -> None:
        super().__init__(clock, tally, reading, ended, reached)
        self._counters = counters
        self._heads = counters.canary_heads
        self._begun = b""

    def data_received(self, data: bytes | memoryview) -> None:
        undecided = bool(self._heads) and self._look(data)
        super().data_received(data)
        if undecided:
            self.tally.last_in = None
        self._bound()

    def dataReceived(self, data: bytes) -> None:
        self._heads = ()
        super().dataReceived(data)
        self._bound()

    def _look(self, data: bytes | memoryview) -> bool:
        """Compare what has come so far; return whether it is still open what it is."""
        longest = max(map(len, self._heads))
        self._begun += data[: longest - len(self._begun)]
        head = next((head for head in self._heads if self._begun.startswith(head)), None)
        if head is None:
            self._heads = tuple(head for head in self._heads if head.startswith(self._begun))
        else:
            self._heads = ()
            self.tally.canary = self._counters.claim_canary(head)
        return bool(self._heads)

    def _bound(self) -> None:
        tally = self.tally
        if tally.canary and tally.bytes_in + tally.bytes_out > MAX_CANARY:
            tally.canary = False
