"""
The log of one container, followed through restarts of the container and cuts of the stream.

What ends is told apart: a clean end may be the container's, or that of a connection between the API server
and the node, which looks the same from here; so the pod is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from pipeops_agent.backoff import Backoff
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.call import Call
from pipeops_agent.cluster.errors import ClusterError, StatusError, printable
from pipeops_agent.cluster.log_connection import LogConnection
from pipeops_agent.cluster.log_items import Item, LogLine, LogMarker, LogOptions, What
from pipeops_agent.cluster.log_lines import LineSplitter, Piece, Place, Seeker
from pipeops_agent.cluster.pod_state import PodState, Status, Terminated
from pipeops_agent.cluster.resources import PODS
from pipeops_agent.cluster.stream import Cut
from pipeops_agent.scheduling import DeadlineExceeded, sleep

RENEW: Final = 900.0
"""
Seconds of silence after which a followed log is asked for again: its connection may be dead, and nothing
else would tell.
"""

CAUGHT_UP: Final = 5.0
"""Seconds of silence after which everything that a log holds has come."""

SETTLE: Final = 1.0
SETTLES: Final = 4
"""A container's end is in its log before it is in its pod: how often that is read, and how long after."""

NEXT_RUN: Final = 2.0
"""Seconds between two looks whether the next run of a container has begun."""

ATTEMPTS: Final = 5
"""How often in a row a log that is not followed is asked for again after a cut."""


class LogSource:
    """
    Reads one container's log.

    It is always asked for with time stamps, which are taken off again: with them L{Place} finds the way back.

    @param pod: as it is at the start.
    @param place: how far the log was read before, by whoever goes on with it here; what C{options} say of the
        start does then not count.
    """

    def __init__(
        self,
        clock: IReactorTime,
        api: Api,
        namespace: str,
        pod: PodState,
        container: str,
        options: LogOptions,
        *,
        random: Callable[[], float],
        place: Place | None = None,
    ) -> None:
        self._clock = clock
        self._api = api
        self._namespace = namespace
        self._pod = pod.metadata.name
        self._uid = pod.metadata.uid
        self._container = container
        self._run = pod.container(container).restart_count
        self._options = options
        self._follow = options.follow and not options.previous
        self._backoff = Backoff(clock, interval=0.5, step=0.5, cap=30.0, random=random)
        self._began = self._heard = self._told = clock.seconds()
        self._connection: LogConnection | None = None
        self._splitter = LineSplitter()
        self._place = place or Place()
        self._seeker: Seeker | None = None
        self._step = self._read
        self._wait = 0.0
        self._settles = 0
        self._tail: list[Piece] = []
        self._words = ""
        self._lost = self._place.known
        self._fresh = self._over = False

    # -- what the reader calls

    async def opened(self, seconds: float) -> None:
        """
        Wait until the log has begun, at most so long: one that is empty does not begin.

        @raise ClusterError: it can't be read.
        """
        try:
            await self._connected().ready(seconds)
        except DeadlineExceeded:
            return
        except Cut:
            return  # as any later cut: the first read deals with it

    async def read(self) -> list[Item]:
        """
        Lines and markers, at least one; none: nothing more comes.

        One read at a time. Cancelling one loses nothing.
        """
        while not self._over:
            try:
                items = await self._step()
            except Cut as cut:
                items = self._cut(str(cut))
            except ClusterError as error:
                items = self._refused(error)
            if items:
                self._told = self._clock.seconds()
                return items
        return []

    def close(self) -> None:
        """Read no more."""
        self._over = True
        self._drop()

    # -- reading

    async def _read(self) -> list[Item]:
        """The next lines of the answer that there is, or is asked for."""
        if self._wait:
            await sleep(self._clock, self._wait)
            self._wait = 0.0
        connection = self._connected()
        patience = self._options.idle if self._seeker is None else min(self._options.idle, CAUGHT_UP)
        try:
            data = await connection.read(patience)
        except DeadlineExceeded:
            return self._silence(connection)
        self._heard = self._clock.seconds()
        if data:
            return self._take(self._splitter.feed(data))
        self._tail = self._splitter.finish()
        self._drop()
        if not self._follow:
            return self._complete()
        self._step, self._settles = self._settle, SETTLES
        return []

    def _connected(self) -> LogConnection:
        if self._connection is None:
            self._splitter = LineSplitter()
            self._seeker = Seeker(self._place) if self._place.known else None
            self._connection = LogConnection(self._clock, self._api, self._call())
        return self._connection

    def _call(self) -> Call:
        options, query = self._options, [("container", self._container), ("timestamps", "true")]
        if self._follow:
            query.append(("follow", "true"))
        if options.previous:
            query.append(("previous", "true"))
        elapsed = int(self._clock.seconds() - self._began)
        if self._place.known:
            query.append(("sinceTime", self._place.since))
        elif options.tail == 0 and elapsed:
            query.append(("sinceSeconds", str(elapsed + 1)))  # nothing was there then: now something may be
        else:
            if options.since_seconds is not None:
                query.append(("sinceSeconds", str(max(1, options.since_seconds + elapsed))))
            elif options.since_time:
                query.append(("sinceTime", options.since_time))
            if options.tail is not None:
                query.append(("tailLines", str(options.tail)))
        path = PODS.path(namespace=self._namespace, name=self._pod, subresource="log")
        return Call(
            method="GET",
            verb="get",
            resource="pods/log",
            path=path,
            query=tuple(query),
            accept="*/*",
            timeout=RENEW * 2 if self._follow else 60.0,
        )

    def _take(self, pieces: list[Piece]) -> list[Item]:
        items: list[Item] = []
        if self._seeker is not None:
            self._listen(pieces)
            pieces = self._seeker.feed(pieces)
            if self._seeker.over:
                items += self._found(pieces[0].stamp if pieces else b"")
        elif self._lost and pieces:
            items += self._found(b"")
        if pieces:
            self._backoff.succeeded()
            self._place.advance(pieces)
        pod, container, timestamps = self._pod, self._container, self._options.timestamps
        items += [
            LogLine(pod, container, data, stamp.decode() if timestamps else "", not ends)
            for stamp, data, _, ends in pieces
        ]
        return items

    def _listen(self, pieces: list[Piece]) -> None:
        """Keep what the kubelet says of itself, where lines should be: it may be why they are not there."""
        for piece in pieces:
            if piece.begins and not piece.stamp:
                self._words = printable(piece.data[:300].decode("utf-8", "replace"))

    def _found(self, first: bytes) -> list[Item]:
        """The place was found again, or is nowhere; C{first}: the stamp of the first line after it."""
        gap = self._seeker is not None and self._seeker.gap and not self._fresh
        lost, self._lost, self._fresh, self._seeker = self._lost, False, False, None
        if gap:
            since, until = self._place.stamp.decode(), first.decode()
            sentence = f"lines may be missing since {since}" + (f" until {until}" if until else "")
            return [self._marker("gap", sentence, since=since, until=until)]
        return [self._marker("resumed", "the stream goes on where it was cut")] if lost else []

    def _silence(self, connection: LogConnection) -> list[Item]:
        now = self._clock.seconds()
        if now - self._heard >= RENEW and self._follow:
            self._heard = now
            self._drop()
        elif self._seeker is not None and connection.begun and now - self._heard >= CAUGHT_UP:
            self._seeker.give_up()
            items = self._found(b"")
            if items:
                return items
        return self._idle()

    def _idle(self) -> list[Item]:
        """A marker, where it is time for one."""
        quiet = self._clock.seconds() - self._told
        if quiet < self._options.idle:
            return []
        return [self._marker("idle", f"nothing came for {self._clock.seconds() - self._heard:.0f} s")]

    # -- ends

    def _complete(self) -> list[Item]:
        """All of a log that is not followed has come."""
        items = self._take(self._rest())
        if self._seeker is not None:
            self._seeker.give_up()
            items += self._found(b"")
        self._over = True
        return [*items, self._marker("complete", "that is all that the log holds")]

    async def _settle(self) -> list[Item]:
        """The answer has ended: find out whether the container has."""
        pod = await self._read_pod()
        if pod is None:
            return self._gone()
        status = pod.container(self._container)
        if status.state.running is not None and status.restart_count == self._run:
            self._settles -= 1
            if self._settles > 0:
                await sleep(self._clock, SETTLE)
                return []
            said = f" ({self._words})" if self._words else ""
            return self._cut(f"the API server ended the stream while the container runs on{said}")
        ended = status.ended or Terminated()
        items = self._take(self._rest())
        items.append(self._ended(ended))
        self._step = self._await_run
        self._over = not self._has_next(pod, status, ended)
        return items

    def _ended(self, ended: Terminated) -> LogMarker:
        how = f"signal {ended.signal}" if ended.signal else f"exit code {ended.exit_code}"
        sentence = f"the container has ended with {how}" + (f": {ended.reason}" if ended.reason else "")
        return self._marker("ended", sentence, exit_code=ended.exit_code, reason=ended.reason)

    def _has_next(self, pod: PodState, status: Status, ended: Terminated) -> bool:
        return status.restart_count > self._run or pod.restarts(self._container, ended)

    async def _await_run(self) -> list[Item]:
        """The container has ended and is to be started again: go on with its next run."""
        await sleep(self._clock, NEXT_RUN)
        pod = await self._read_pod()
        if pod is None:
            return self._gone()
        status = pod.container(self._container)
        if status.restart_count > self._run:
            self._fresh = True
            return self._next(status)
        if not self._has_next(pod, status, status.ended or Terminated()):
            self._over = True
            return [self._marker("complete", "the container is not started again")]
        return self._idle()

    def _next(self, status: Status) -> list[Item]:
        """Read the present run, which is a later one."""
        missed = status.restart_count - self._run - 1
        self._run, self._step = status.restart_count, self._read
        sentence = f"the container has started again (run {self._run + 1})"
        items: list[Item] = [self._marker("restarted", sentence)]
        if missed:
            since = self._place.stamp.decode()
            items.append(
                self._marker("gap", f"{missed} runs before it were too short to be seen", since=since)
            )
        return items

    # -- cuts

    def _cut(self, why: str) -> list[Item]:
        """The stream was lost: look at the pod, and read on."""
        self._drop()
        if not self._follow and self._backoff.failures + 1 >= ATTEMPTS:
            return self._failed(why)
        self._lost = True
        self._words = ""
        self._tail = []  # it comes again
        self._wait = self._backoff.failed()
        self._step = self._check
        return [self._marker("cut", why)]

    async def _check(self) -> list[Item]:
        """Whether what is read on is still the same."""
        if self._wait:
            await sleep(self._clock, self._wait)
            self._wait = 0.0
        pod = await self._read_pod()
        if pod is None:
            return self._gone()
        self._step = self._read
        status = pod.container(self._container)
        return self._next(status) if status.restart_count > self._run and self._follow else []

    def _refused(self, error: ClusterError) -> list[Item]:
        if isinstance(error, StatusError) and error.not_found:
            return self._gone()
        return self._cut(error.sentence) if error.retryable else self._failed(error.sentence)

    def _gone(self) -> list[Item]:
        items = self._take(self._rest())
        self.close()
        return [*items, self._marker("gone", f"pod {self._pod} is gone")]

    def _failed(self, why: str) -> list[Item]:
        self.close()
        return [self._marker("failed", why)]

    async def _read_pod(self) -> PodState | None:
        """The pod as it is now; None: it is gone, and perhaps another has its name."""
        try:
            pod = await self._api.get(PodState, PODS, self._pod, namespace=self._namespace)
        except StatusError as error:
            if error.not_found:
                return None
            raise
        return pod if pod.metadata.uid == self._uid else None

    def _rest(self) -> list[Piece]:
        """What has come after the last line end, once it is known to be a line."""
        tail, self._tail = self._tail, []
        return tail

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _marker(self, what: What, sentence: str, **more: Any) -> LogMarker:
        return LogMarker(pod=self._pod, container=self._container, what=what, sentence=sentence, **more)
