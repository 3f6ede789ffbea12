"""
One list kept like the server's: listed in pages, then watched, for ever.

States, which C{ListStatus} shows by name::

     pending --> listing --> live --(the watch ends: resumed from the last version)--> live
                   ^  ^        |
                   |  |        | history too short (410), or time for a whole look
                   |  +--------+
                   |           | connection lost, silence, bad answer
                   |           v
                   +------- broken --(resumed, or listed again)--> live
     denied: no right to list or watch it here     absent: the server has no such resource

A list that was complete once stays readable whatever happens after; its state and age say what it is worth.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final, Literal, Protocol

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pipeops_agent.backoff import Backoff
from pipeops_agent.clock import WallClock
from pipeops_agent.cluster.api import Api, Page
from pipeops_agent.cluster.errors import ClusterError, StatusError
from pipeops_agent.cluster.objects import Kind, Object
from pipeops_agent.cluster.stream import Cut
from pipeops_agent.cluster.watch import Silent, Watch
from pipeops_agent.scheduling import Tasks, sleep

_log = Logger(namespace="cluster")

ListState = Literal["pending", "listing", "live", "broken", "denied", "absent"]

WATCH_SECONDS: Final = (240, 480)
"""A watch is asked to end after a random time between these, so that many don't end together."""

PAGE: Final = 500
"""
Objects in a page. One takes 10 to 20 ms, in which nothing else can be done; two halves take a fifth longer.

A streaming list (C{sendInitialEvents}) was measured beside it: it holds up others for 5 ms at most, but costs
twice the processor time, since each object comes by itself and uncompressed.
"""

DENIED_RETRY: Final = 300.0
"""Seconds until what was denied or absent is asked for again; a right that was granted is found by then."""

SHORTEST_WATCH: Final = 1.0
"""Seconds from one watch to the next at least, where a server ends each at once."""

RETRY_FIRST: Final = 1.0
"""The longest wait, in seconds, after a first failure; it doubles with each further one."""

RETRY_CAP: Final = 60.0
"""The longest wait, in seconds, before a broken list is tried again."""


class ListStatus(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a list is worth.

    @ivar since: when it came to this state.
    @ivar synced: when it was last known to be the server's, where it is not C{live}; None: never yet.
    @ivar message: why, in a sentence; empty while all is well.
    """

    state: ListState = "pending"
    since: datetime
    synced: datetime | None = None
    message: str = ""


class Sink(Protocol):
    """Where a list goes."""

    def put(self, item: Object) -> None:
        """C{item} is there, new or changed."""

    def drop(self, key: str) -> None:
        """The object with this key is gone; it may not have been there."""

    def keys(self) -> Iterable[str]:
        """The keys of what this list has put and not dropped."""

    def status_changed(self, status: ListStatus) -> None:
        """The list's state is another one now."""


class Reflector(Service):
    """
    Keeps one kind's list, of one namespace or of all, in C{sink}.

    @param namespace: None: all of them.
    @param labels: a label selector; empty: everything.
    @param resync: seconds after which the whole list is looked at again, whatever the watch says; 0: never.

    @ivar watches: how many watches were begun.
    """

    def __init__(
        self,
        clock: IReactorTime,
        api: Api,
        kind: Kind[Any],
        sink: Sink,
        *,
        wall: WallClock,
        namespace: str | None = None,
        labels: str = "",
        resync: float = 0.0,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._clock = clock
        self._api = api
        self._kind = kind
        self._sink = sink
        self._wall = wall
        self._namespace = namespace
        self._labels = labels
        self._resync = resync
        self._random = random
        self._tasks = Tasks()
        self._waking: IDelayedCall | None = None
        self.watches = 0
        self._version: str | None = None
        self._listed_at = 0.0
        self._status = ListStatus(since=wall())
        self._backoff = Backoff(
            clock,
            interval=RETRY_FIRST,
            step=RETRY_FIRST,
            cap=RETRY_CAP,
            stable_after=30.0,
            random=self._jitter,
        )

    @property
    def kind(self) -> str:
        """What is kept."""
        return self._kind.name

    @property
    def status(self) -> ListStatus:
        """What the list is worth now."""
        return self._status

    def startService(self) -> None:
        super().startService()
        self._tasks.spawn(self._run(), f"keeping {self._place}")

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._tasks.stop()

    def wake(self) -> None:
        """
        The API server answers again: a list that is broken is looked at within a second, however long its
        wait has grown. One that is denied or absent has heard of the server already.
        """
        if self._waking is not None and self._status.state == "broken":
            self._waking.reset(min(self._random(), self._waking.getTime() - self._clock.seconds()))

    @property
    def _place(self) -> str:
        where = "" if self._namespace is None else f" of namespace {self._namespace}"
        return f"the {self._kind.name}{where}"

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except CancelledError:
                raise
            except Exception as error:
                await self._wait(self._after(error))

    async def _wait(self, seconds: float) -> None:
        """Wait for so long, or until L{wake}."""
        over: Deferred[None] = Deferred()
        self._waking = waking = self._clock.callLater(seconds, over.callback, None)
        try:
            await over
        finally:
            self._waking = None
            if waking.active():
                waking.cancel()

    async def _follow(self) -> None:
        """List if need be, then watch until the watch ends."""
        if self._version is None or self._resync_is_due:
            await self._list()
        assert self._version is not None
        low, high = WATCH_SECONDS
        seconds = low + int(self._random() * (high - low))
        stream = await self._api.watch(
            self._kind.resource,
            namespace=self._namespace,
            resource_version=self._version,
            labels=self._labels,
            seconds=seconds,
        )
        self.watches += 1
        watch = Watch(self._clock, self._kind, stream, seconds=seconds)
        began = self._clock.seconds()
        try:
            self._enter("live")
            self._backoff.succeeded()
            while events := await watch.read():
                for event in events:
                    self._apply(event.type, event.object)
        finally:
            watch.close()
        await sleep(self._clock, began + SHORTEST_WATCH - self._clock.seconds())

    @property
    def _resync_is_due(self) -> bool:
        return self._resync > 0 and self._clock.seconds() - self._listed_at >= self._resync

    async def _list(self) -> None:
        """
        Read all pages into the sink, and drop what was not among them.

        The sink is changed page by page, so that there are never two whole lists.
        """
        if self._status.state in ("pending", "broken"):  # what was denied stays so until it is not
            self._enter("listing")
        gone, continue_ = set(self._sink.keys()), ""
        while True:
            page: Page[Any] = await self._api.page(
                self._kind.wire,
                self._kind.resource,
                namespace=self._namespace,
                limit=PAGE,
                continue_=continue_,
                labels=self._labels,
            )
            for found in page.items:
                item = self._kind.read(found)
                gone.discard(item.key)
                self._sink.put(item)
            continue_ = page.metadata.continue_
            if not continue_:
                break
        for key in gone:
            self._sink.drop(key)
        self._version = page.metadata.resource_version
        self._listed_at = self._clock.seconds()

    def _apply(self, kind: str, found: Any) -> None:
        """Do what one event of the watch says."""
        self._version = found.metadata.resource_version or self._version
        if kind == "BOOKMARK":
            return
        item = self._kind.read(found)
        if kind == "DELETED":
            self._sink.drop(item.key)
        else:  # ADDED and MODIFIED: after a resumed watch they may tell of what is known
            self._sink.put(item)

    def _after(self, error: Exception) -> float:
        """Draw the conclusions from C{error}; return the seconds until the next attempt."""
        state: ListState = "broken"
        wait = self._backoff.failed()
        message = str(error)
        if isinstance(error, StatusError):
            if error.expired:
                # The watch's history, or the pages' snapshot, is gone: a whole look, soon.
                self._version = None
                return wait if self._status.state == "broken" else self._random()
            if error.forbidden:
                state, wait = "denied", DENIED_RETRY
            elif error.not_found:
                state, wait = "absent", DENIED_RETRY
        elif not isinstance(error, ClusterError | Cut | Silent):
            _log.failure("keeping {place} failed unexpectedly", place=self._place)
            message, self._version = "an unexpected error; the log has the details", None
        elif isinstance(error, ClusterError) and not error.retryable:
            self._version = None  # an answer that can't be read: what was missed with it is not known
        self._enter(state, message)
        return wait

    def _enter(self, state: ListState, message: str = "") -> None:
        before, now = self._status, self._wall()
        synced = now if state == "live" or before.state == "live" else before.synced
        if (state, message) != (before.state, before.message):
            since = before.since if state == before.state else now
            self._status = ListStatus(state=state, since=since, synced=synced, message=message)
            self._sink.status_changed(self._status)

    def _jitter(self) -> float:
        """Half of the bound at least: a server that is in trouble is not asked again at once."""
        return 0.5 + self._random() / 2
