"""Changes of the inventory, told on the event hub: in batches, bounded, only while somebody listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pipeops_agent.cluster.inventory import Change, Inventory
from pipeops_agent.events import EventHub

BATCH: Final = 0.25
"""Seconds that changes are collected before they are told."""

MOST: Final = 500
"""Objects told in one batch; of more only the number is: whoever shows them asks for them anew."""

_EVENTS: Final = "events"


class ChangeTeller(Service):
    """
    Publishes C{changes} on the channel C{cluster}, and Kubernetes' own events on C{events}.

    The data of both is C{{"changes": [{"kind", "key", "gone", "object"}], "left_out": {kind: number}}}; of an
    object that changed twice only the last state is told, and of one that is gone no C{object}. While a list
    is read for the first time nothing of it is told: its state is (L{ClusterStatus
    <pipeops_agent.status.ClusterStatus>}), and then the whole list can be asked for. Without a subscriber
    nothing is collected.
    """

    def __init__(self, clock: IReactorTime, inventory: Inventory, hub: EventHub) -> None:
        self._clock = clock
        self._inventory = inventory
        self._hub = hub
        self._batches = {"cluster": _Batch(), "events": _Batch()}
        self._timer: IDelayedCall | None = None
        self._stop: Callable[[], None] = lambda: None

    def startService(self) -> None:
        super().startService()
        self._stop = self._inventory.on_change(self._changed)

    def stopService(self) -> None:
        """What was collected and is not told yet is dropped."""
        super().stopService()
        self._stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for batch in self._batches.values():
            batch.take()

    def _changed(self, change: Change) -> None:
        if not self._hub.watched or not self._is_kept(change):
            return
        self._batches["events" if change.kind == _EVENTS else "cluster"].add(change)
        if self._timer is None:
            self._timer = self._clock.callLater(BATCH, self._tell)

    def _is_kept(self, change: Change) -> bool:
        """Whether the list that this belongs to was whole before."""
        statuses = self._inventory[change.kind].statuses
        status = statuses.get(change.item.namespace) or statuses.get(None)
        return status is not None and status.synced is not None

    def _tell(self) -> None:
        self._timer = None
        for channel, batch in self._batches.items():
            data = batch.take()
            if data is not None:
                self._hub.publish(channel, "changes", data)


class _Batch:
    """Changes by kind and key, the last of each."""

    def __init__(self) -> None:
        self._changes: dict[tuple[str, str], Change] = {}
        self._left_out: dict[str, int] = {}

    def add(self, change: Change) -> None:
        """Collect one."""
        place = (change.kind, change.item.key)
        if place in self._changes or len(self._changes) < MOST:
            self._changes[place] = change
        else:
            self._left_out[change.kind] = self._left_out.get(change.kind, 0) + 1

    def take(self) -> dict[str, Any] | None:
        """The event's data, and begin anew; None: there is nothing."""
        changes, left_out = self._changes, self._left_out
        self._changes, self._left_out = {}, {}
        if not changes:
            return None
        return {"changes": [_told(change) for change in changes.values()], "left_out": left_out}


def _told(change: Change) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": change.kind, "key": change.item.key, "gone": change.gone}
    if not change.gone:
        told["object"] = msgspec.to_builtins(change.item)
    return told
