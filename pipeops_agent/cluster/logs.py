"""Logs of containers: one, several, or those of all pods with certain labels, merged as they come."""

from __future__ import annotations

import random as _random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.errors import ClusterError
from pipeops_agent.cluster.log_items import Item, LogOptions
from pipeops_agent.cluster.log_lines import Place
from pipeops_agent.cluster.log_source import LogSource
from pipeops_agent.cluster.pod_state import PodState
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.resources import PODS

MAX_STREAMS: Final = 20
"""Containers whose logs one stream merges at most; each may hold some hundred KiB back for a slow reader."""

BEGIN: Final = 2.0
"""Seconds that a single log has to say why it can't be read; one that is empty says nothing."""


class BadLogRequest(ClusterError):
    """There are no such logs, or too many."""


class LogRequest(msgspec.Struct, frozen=True, kw_only=True):
    """
    Which logs, and how.

    @ivar pod: one pod's; empty: those of the pods that C{labels} (a label selector) selects now.
    @ivar containers: which of their containers; empty: all, without those that prepare or debug a pod.
    @ivar places: of C{pod/container}: how far its log was read before (L{Place.text}), where that goes on.
    """

    namespace: str
    pod: str = ""
    labels: str = ""
    containers: tuple[str, ...] = ()
    options: LogOptions = LogOptions()
    places: Mapping[str, str] = {}


class Logs:
    """Opens log streams."""

    def __init__(
        self, clock: IReactorTime, api: Api, reach: Reach, *, random: Callable[[], float] = _random.random
    ) -> None:
        self._random = random
        self._clock = clock
        self._api = api
        self._reach = reach.asking("logs")

    async def open(self, caller: Caller, request: LogRequest) -> LogStream:
        """
        Begin to read.

        Where it is one container's log, an error says at once why it can't be read; of several, a marker
        does.

        @raise OutOfReach: the owner does not allow it, or no scope of the caller's does.
        @raise ClusterError: the pods can't be read, a container is not there, or there are too many.
        """
        self._reach.check(caller, ("logs",), PODS, request.namespace, name=request.pod)
        api = self._api.acting_with(caller.kubernetes_token)
        sources = [
            LogSource(
                self._clock,
                api,
                request.namespace,
                pod,
                container,
                request.options,
                random=self._random,
                place=_place(request, pod, container),
            )
            for pod, container in await self._targets(api, request)
        ]
        if len(sources) == 1:
            try:
                await sources[0].opened(BEGIN)
            except BaseException:
                sources[0].close()
                raise
        return LogStream(sources)

    async def _targets(self, api: Api, request: LogRequest) -> list[tuple[PodState, str]]:
        if bool(request.pod) == bool(request.labels):
            raise BadLogRequest("logs: either a pod or a label selector is needed")
        if request.pod:
            pods = [await api.get(PodState, PODS, request.pod, namespace=request.namespace)]
        else:
            page = await api.page(
                PodState, PODS, namespace=request.namespace, labels=request.labels, limit=MAX_STREAMS + 1
            )
            pods = page.items
        found = [
            (pod, container)
            for pod in pods
            for container in request.containers or pod.container_names
            if request.pod or pod.has(container)
        ]
        for pod, container in found:
            if not pod.has(container):
                has = ", ".join(pod.container_names)
                raise BadLogRequest(
                    f"logs: pod {pod.metadata.name} has no container {container!r}, but {has}"
                )
        if not found:
            raise BadLogRequest(
                f"logs: no container in {request.namespace} is selected by {request.labels!r}"
            )
        if len(found) > MAX_STREAMS:
            raise BadLogRequest(f"logs: more than {MAX_STREAMS} containers are selected; select fewer")
        return found


def _place(request: LogRequest, pod: PodState, container: str) -> Place | None:
    """@raise BadLogRequest: there is a text that is none."""
    text = request.places.get(f"{pod.metadata.name}/{container}")
    try:
        return None if text is None else Place.parse(text)
    except ValueError:
        raise BadLogRequest("logs: what was read last is not known here") from None


class LogStream:
    """
    Logs, merged.

    It is pulled: what is not read stays with the API server. Each source hands out one portion at a time,
    in turn, so that none starves the others. Whoever stops before the end calls L{close}.

    @ivar several: they are of more than one container.
    """

    def __init__(self, sources: list[LogSource]) -> None:
        self.several = len(sources) > 1
        self._idle = deque(sources)
        self._reads: dict[LogSource, Deferred[list[Item]]] = {}
        self._ready: deque[list[Item] | Failure] = deque()
        self._waiting: Deferred[None] | None = None
        self._closed = False

    async def read(self) -> list[Item]:
        """
        Lines and markers, at least one; none: all logs have ended, or were closed.

        One read at a time. Cancelling one loses nothing.
        """
        assert self._waiting is None, "one read at a time"
        for _ in range(len(self._idle)):  # each once: one that always has something must not fill the memory
            source = self._idle.popleft()
            reading = Deferred.fromCoroutine(source.read())
            self._reads[source] = reading
            reading.addBoth(self._done, source)
        while not self._ready:
            if self._closed or not self._reads:
                return []
            self._waiting = Deferred()
            try:
                await self._waiting
            finally:
                self._waiting = None
        found = self._ready.popleft()
        if isinstance(found, Failure):
            self.close()
            found.raiseException()
        return found

    def close(self) -> None:
        """Read no more, and leave nothing behind."""
        self._closed = True
        self._ready.clear()
        sources, reads = (*self._idle, *self._reads), tuple(self._reads.values())
        self._idle.clear()
        for source in sources:
            source.close()
        for reading in reads:
            reading.cancel()
        self._tell()

    def _done(self, result: list[Item] | Failure, source: LogSource) -> None:
        """One source has something, is over, or has failed by a mistake of ours."""
        self._reads.pop(source, None)
        if self._closed:
            return
        if result:
            self._ready.append(result)
        if result and not isinstance(result, Failure):
            self._idle.append(source)
        self._tell()

    def _tell(self) -> None:
        if self._waiting is not None and not self._waiting.called:
            self._waiting.callback(None)
