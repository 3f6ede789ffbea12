"""
What one caller sees of what happens in the cluster.

Who has the cluster's whole trust gets every event as it was encoded for all. A caller with a Kubernetes token
of its own gets the changes of those objects that it may list, kind by kind and namespace by namespace, and
events encoded for it alone. Whether it may is asked when something of the kind and namespace happens for the
first time; should it turn out that it may, the client is told that it has lost what happened meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.objects import KINDS
from pipeops_agent.realtime import Encoding, Entry, Missed
from pipeops_agent.scheduling import Tasks
from pipeops_agent.web.api.lists import Sight
from pipeops_agent.web.replies import Refusal

CHANNELS: Final = frozenset({"cluster", "events"})
"""The channels that tell of objects."""

HOLDS: Final = 60.0
"""Seconds after which an answer is asked for anew."""

MAX_PLACES: Final = 500
"""Kinds in namespaces that are asked about for one caller; what happens in more of them is not shown."""

_CHANGES: Final = "changes"
_RESOURCES: Final = {kind.name: kind.resource for kind in KINDS}

Place = tuple[str, str]
"""A kind and a namespace; of what has none, an empty one."""


class View:
    """
    One caller's.

    @param caller: who it is; asked each time.
    @param go: called where the cluster can't be asked.
    """

    def __init__(
        self,
        clock: IReactorTime,
        sight: Sight,
        caller: Callable[[], Caller],
        go: Callable[[Refusal], None],
    ) -> None:
        self._clock = clock
        self._sight = sight
        self._caller = caller
        self._go = go
        self._tasks = Tasks()
        self._whole: frozenset[str] = frozenset()
        self._shown: dict[Place, bool] = {}
        self._asked: dict[Place, float] = {}
        self._asking: set[Place] = set()
        self._lost: dict[Place, Missed] = {}
        self._missed: Callable[[Missed], None] = lambda missed: None

    async def look(self) -> None:
        """
        Find out which kinds are seen in all namespaces, and whether what was seen still is.

        @raise Refusal: that can't be found out now.
        """
        whole = [name for name in _RESOURCES if await self._allowed(name, "") is None]
        self._whole = frozenset(whole)
        for place, shown in tuple(self._shown.items()):
            if shown:
                await self._ask(place)
            elif self._asked[place] + HOLDS <= self._clock.seconds():
                del self._shown[place], self._asked[place]

    def narrow(self, encoding: Encoding, missed: Callable[[Missed], None]) -> Encoding:
        """
        C{encoding}, of what is seen alone.

        @param missed: told of what would have been, had it been known in time.
        """
        self._missed = missed

        def encode(entry: Entry) -> bytes:
            if entry.channel not in CHANNELS:
                return encoding(entry)
            text = self._cut(entry)
            return encoding(entry._replace(text=text)) if text else b""

        return encode

    def stop(self) -> Deferred[None]:
        """Ask no more."""
        return self._tasks.stop()

    def _cut(self, entry: Entry) -> bytes:
        """What is left of an event; empty: nothing."""
        event = msgspec.json.decode(entry.text)
        if event["event"] != _CHANGES:
            return entry.text
        data = event["data"]
        changes = [change for change in data["changes"] if self._shows(change, entry.seq)]
        # How much was left out, too, is told of what may be seen.
        left_out = {kind: count for kind, count in data["left_out"].items() if kind in self._whole}
        if len(changes) == len(data["changes"]) and len(left_out) == len(data["left_out"]):
            return entry.text
        if not changes and not left_out:
            return b""
        return msgspec.json.encode({**event, "data": {"changes": changes, "left_out": left_out}})

    def _shows(self, change: dict[str, Any], seq: int) -> bool:
        kind: str = change["kind"]
        if kind in self._whole:
            return True
        if not _RESOURCES[kind].namespaced:
            return False
        place = (kind, change["key"].partition("/")[0])
        if place not in self._shown and place not in self._asking:
            if len(self._shown) + len(self._asking) >= MAX_PLACES:
                return False
            self._asking.add(place)
            self._tasks.spawn(self._learn(place), "asking what a caller sees")
        if place in self._asking:  # it was not known already
            lost = self._lost.get(place, Missed(0, seq, seq))
            self._lost[place] = Missed(lost.count + 1, lost.first, seq)
        return self._shown.get(place, False)

    async def _learn(self, place: Place) -> None:
        try:
            await self._ask(place)
        except Refusal as refusal:
            self._go(refusal)
        finally:
            self._asking.discard(place)
            lost = self._lost.pop(place, None)
        if lost is not None and self._shown.get(place):
            self._missed(lost)

    async def _ask(self, place: Place) -> None:
        kind, namespace = place
        may = await self._allowed(kind, namespace)
        self._shown[place] = may is None or namespace in may
        self._asked[place] = self._clock.seconds()

    async def _allowed(self, kind: str, namespace: str) -> frozenset[str] | None:
        known = {namespace} if namespace else set()
        return await self._sight.namespaces(self._caller(), "list", _RESOURCES[kind], known)
