"""A relay that looks at how its channel begins: the agent's own canary is no activity."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from pipeops_agent.tunnel.relay import Relay
from pipeops_agent.tunnel.traffic import ChannelTally


class WatchedRelay(Relay):
    """
    Compares the first bytes from the far side with the beginnings of the canaries' requests.

    As long as they may still become one, they count as bytes, but not as activity; the first that differs,
    or one from the local target before that, makes it anybody's channel, for good.

    @param heads: how the requests begin that are awaited; not empty.
    """

    def __init__(
        self,
        clock: IReactorTime,
        tally: ChannelTally,
        ended: Callable[[Relay], None],
        heads: tuple[bytes, ...],
    ) -> None:
        super().__init__(clock, tally, ended)
        self._heads = heads
        self._begun = b""

    def data_received(self, data: bytes) -> None:
        undecided = bool(self._heads) and self._look(data)
        super().data_received(data)
        if undecided:
            self.tally.last_in = None

    def dataReceived(self, data: bytes) -> None:
        self._heads = ()
        super().dataReceived(data)

    def _look(self, data: bytes) -> bool:
        """Compare what has come so far; return whether it is still open what it is."""
        longest = max(map(len, self._heads))
        self._begun += data[: longest - len(self._begun)]
        if any(self._begun.startswith(head) for head in self._heads):
            self.tally.canary = True
            self._heads = ()
        else:
            self._heads = tuple(head for head in self._heads if head.startswith(self._begun))
        return bool(self._heads)
