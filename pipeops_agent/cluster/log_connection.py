"""One answer of the API server that carries a log."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.call import Call
from pipeops_agent.cluster.stream import BodyStream
from pipeops_agent.scheduling import bounded


class LogConnection:
    """
    Makes a call and hands out its answer's body as it comes.

    The API server sends no head before a log's first byte, so a call that waits for its answer and an
    answer that waits for bytes are the same here: silence. One portion at most is read ahead.
    """

    def __init__(self, clock: IReactorTime, api: Api, call: Call) -> None:
        self._clock = clock
        self._api = api
        self._call = call
        self._stream: BodyStream | None = None
        self._reading: Deferred[None] | None = None
        self._outcome: bytes | Failure | None = None
        self._waiting: Deferred[None] | None = None
        self._closed = False

    @property
    def begun(self) -> bool:
        """Whether the answer has."""
        return self._stream is not None

    async def ready(self, seconds: float) -> None:
        """
        Wait until L{read} has something to say. Cancelling loses nothing.

        @raise DeadlineExceeded: nothing came for so long.
        """
        if self._reading is None:
            self._reading = Deferred.fromCoroutine(self._next()).addBoth(self._note)
        if self._outcome is None:
            self._waiting = Deferred()
            try:
                await bounded(self._clock, seconds, self._waiting, "a log's next line")
            finally:
                self._waiting = None
        if isinstance(self._outcome, Failure):
            self._outcome.raiseException()

    async def read(self, seconds: float) -> bytes:
        """
        The bytes that have come; none: the answer has ended.

        @raise DeadlineExceeded: as L{ready}.
        @raise ClusterError: there is no such answer.
        @raise Cut: the connection was lost.
        """
        await self.ready(seconds)
        assert isinstance(self._outcome, bytes)
        data, self._outcome, self._reading = self._outcome, None, None
        return data

    def close(self) -> None:
        """Read no more."""
        self._closed = True
        if self._stream is not None:
            self._stream.abort()
        if self._reading is not None:
            self._reading.cancel()

    async def _next(self) -> bytes:
        if self._stream is None:
            self._stream = await self._api.stream(self._call)
            if self._closed:
                self._stream.abort()
        return await self._stream.read()

    def _note(self, outcome: bytes | Failure) -> None:
        self._outcome = outcome
        if self._waiting is not None:
            self._waiting.callback(None)
