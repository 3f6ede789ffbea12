"""The agent's events as a feed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pipeops_agent.events import Event, EventHub
from pipeops_agent.realtime.feed import Encoding, Feed, Reader, Sink
from pipeops_agent.realtime.journal import Entry, Journal

_log = Logger(namespace="realtime")

EVENTS: Final = 2048
"""Events that are kept for who comes again, or is slow."""
EVENT_BYTES: Final = 1024 * 1024
"""Bytes of all of them as JSON."""

LINGER: Final = 120.0
"""Seconds for which events are kept after the last reader has left: it may only have been cut."""

_encoder: Final = msgspec.json.Encoder()


class EventFeed(Feed):
    """
    Listens to C{hub} while there is a reader, and L{LINGER} longer: changes of the cluster are put together
    for the hub only while somebody listens.
    """

    def __init__(
        self, clock: IReactorTime, hub: EventHub, *, most: int = EVENTS, most_bytes: int = EVENT_BYTES
    ) -> None:
        super().__init__(clock, hub.start, Journal(most, most_bytes, last=hub.seq))
        self._hub = hub
        self._unsubscribe: Callable[[], None] | None = None
        self._ending: IDelayedCall | None = None

    def read(
        self, sink: Sink, channels: frozenset[str], encoding: Encoding, *, after: int | None = None
    ) -> Reader:
        self._listen()
        return super().read(sink, channels, encoding, after=after)

    def left(self, reader: Reader) -> None:
        super().left(reader)
        if not len(self) and self._unsubscribe is not None and self._ending is None:
            self._ending = self._clock.callLater(LINGER, self.stop)

    def stop(self) -> None:
        """Listen no more."""
        if self._ending is not None and self._ending.active():
            self._ending.cancel()
        self._ending = None
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _listen(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        if self._unsubscribe is None:
            if self.journal.last != self._hub.seq:  # something was told that nobody has kept
                self.journal.restart(self._hub.seq)
            self._unsubscribe = self._hub.subscribe(self._told)

    def _told(self, event: Event) -> None:
        try:
            text = _encoder.encode(event)
        except Exception:
            # A defect of whoever told it: its number must stand there all the same.
            _log.failure("an event can't be written as JSON", event_name=f"{event.channel}.{event.event}")
            text = _encoder.encode(msgspec.structs.replace(event, data={}))
        self.append(Entry(event.seq, event.channel, _encoder.encode(event.time), text))
