"""The one event hub: what happened, numbered, to whoever asked to be told."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from twisted.logger import Logger

from pipeops_agent.clock import WallClock

_log = Logger(namespace="events")

CHANNELS: Final = ("health", "metrics", "tunnel", "cluster", "events", "agent", "audit")
"""The channels of ``/ws`` and ``/api/realtime/events``."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """
    One thing that happened.

    ``start`` identifies this run of the agent and ``seq`` counts within it from 1, so that a
    reader can tell a gap from silence and a restart from a gap.
    """

    start: str
    seq: int
    time: datetime
    channel: str
    event: str
    data: Mapping[str, Any]


class _Subscription:
    """One subscriber, and the last event that came before it."""

    def __init__(self, subscriber: Callable[[Event], None], after: int) -> None:
        self.subscriber = subscriber
        self.after = after


class EventHub:
    """
    Gives every event its number and hands it to all subscribers, in order, at once.

    What a subscriber publishes while it is told of an event is handed out after that event has reached
    everybody, so that all see the same order.

    A subscriber must not block and must bound what it keeps: a slow reader is the subscriber's
    affair (L{pipeops_agent.scheduling.BoundedQueue}). One that raises is logged and dropped, so
    that it can't keep an event from the others.
    """

    def __init__(self, wall: WallClock) -> None:
        self._wall = wall
        self.start = secrets.token_hex(4)
        self._seq = 0
        # A dictionary for its order and its cheap removal.
        self._subscriptions: dict[_Subscription, None] = {}
        self._waiting: deque[Event] = deque()
        self._delivering = False

    @property
    def watched(self) -> bool:
        """Whether there is anybody to tell: what is costly to say need not be made else."""
        return bool(self._subscriptions)

    @property
    def seq(self) -> int:
        """The number of the last event published; 0 before the first."""
        return self._seq

    def publish(self, channel: str, event: str, data: Mapping[str, Any]) -> Event:
        """
        Number an event, hand it to every subscriber, and return it.

        @raise ValueError: C{channel} is none of L{CHANNELS}.
        """
        if channel not in CHANNELS:
            raise ValueError(f"{channel!r} is not a channel")
        self._seq += 1
        record = Event(
            start=self.start,
            seq=self._seq,
            time=self._wall(),
            channel=channel,
            event=event,
            data=data,
        )
        self._waiting.append(record)
        if not self._delivering:
            self._delivering = True
            try:
                while self._waiting:
                    self._deliver(self._waiting.popleft())
            finally:
                self._delivering = False
        return record

    def _deliver(self, record: Event) -> None:
        for subscription in tuple(self._subscriptions):
            if subscription not in self._subscriptions or record.seq <= subscription.after:
                continue  # it has left while this was handed round, or has come after it was published
            try:
                subscription.subscriber(record)
            except Exception:
                self._subscriptions.pop(subscription, None)
                _log.failure(
                    "an event subscriber failed and was dropped",
                    event_name=f"{record.channel}.{record.event}",
                )

    def subscribe(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Call C{subscriber} with each event from now on; the result, called, ends that."""
        subscription = _Subscription(subscriber, self._seq)
        self._subscriptions[subscription] = None

        def unsubscribe() -> None:
            self._subscriptions.pop(subscription, None)

        return unsubscribe
