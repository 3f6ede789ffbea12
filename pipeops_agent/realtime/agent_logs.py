"""The agent's own log records as a feed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from pipeops_agent.log.render import render_json
from pipeops_agent.realtime.feed import Feed
from pipeops_agent.realtime.journal import Entry, Journal

LOG: Final = "log"
"""The one channel of this feed."""

RECORDS: Final = 1000
"""Records that are kept."""
RECORD_BYTES: Final = 512 * 1024
"""Bytes of all of them as JSON."""

HANDOVER: Final = 1000
"""Records that may wait for the reactor to turn: threads and signals log as well, and it may be busy."""


class Records(Protocol):
    """What log records come from: L{pipeops_agent.log.AgentLog}."""

    def follow(self, follower: Callable[[Mapping[str, Any]], None]) -> Callable[[], None]:
        """Call C{follower} with each record, from whatever thread it comes; the result ends that."""


class LogFeed(Feed):
    """
    Keeps the last records, from L{begin} on.

    They are numbered as they come in: C{start} is the same as that of the events.
    """

    def __init__(self, reactor: Any, start: str, records: Records) -> None:
        super().__init__(reactor, start, Journal(RECORDS, RECORD_BYTES))
        self._reactor = reactor
        self._records = records
        self._queue: deque[Mapping[str, Any]] = deque()
        self._lost = 0
        self._called = False
        self._unfollow: Callable[[], None] | None = None

    def begin(self) -> None:
        """Listen to the log."""
        if self._unfollow is None:
            self._unfollow = self._records.follow(self._logged)

    def stop(self) -> None:
        """Listen no more."""
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None

    def _logged(self, record: Mapping[str, Any]) -> None:
        # From any thread, and from a signal's handler in the middle of anything: the reactor does the rest.
        self._queue.append(record)
        if len(self._queue) > HANDOVER:
            self._queue.popleft()
            self._lost += 1
        if not self._called:
            self._called = True
            self._reactor.callFromThread(self._take)

    def _take(self) -> None:
        self._called = False
        lost, self._lost = self._lost, 0
        if lost:
            self._keep(
                {
                    "time": self._queue[0]["time"],
                    "level": "warn",
                    "msg": f"{lost} records came faster than they could be kept",
                    "component": "log",
                    "lost": lost,
                }
            )
        for _ in range(len(self._queue)):
            self._keep(self._queue.popleft())

    def _keep(self, record: Mapping[str, Any]) -> None:
        text = render_json(dict(record)).rstrip()
        self.append(Entry(self.journal.last + 1, LOG, msgspec.json.encode(record["time"]), text))
