"""The handlers that run for a client: by id, counted, cancelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from pipeops_agent.access.limits import Kind, Place
from pipeops_agent.caller import Caller
from pipeops_agent.scheduling import as_deferred
from pipeops_agent.web.websocket.messages import MessageError
from pipeops_agent.web.websocket.registry import MessageType

if TYPE_CHECKING:
    from pipeops_agent.web.websocket.session import Session

_log = Logger(namespace="web")

MAX_RUNNING: Final = 16
"""Handlers that may run for one client at one time."""


class Call:
    """
    One message, and what is done for it.

    @ivar id: the client's own; its further messages name it.
    @ivar receiver: takes the data of later messages that have the same id (C{Input}, C{Resize}), which come
        while it runs; None: it takes none.
    """

    def __init__(self, session: Session, kind: MessageType, request: str | None) -> None:
        self.session = session
        self.kind = kind
        self.id = request
        self.receiver: Callable[[Any], None] | None = None
        self.work: Deferred[None] | None = None
        self._waiters: list[Deferred[None]] = []

    @property
    def caller(self) -> Caller:
        """Who asks."""
        return self.session.caller

    talks: Final = True
    """More can be sent for it, see L{receiver}."""

    def hold(self, kind: Kind) -> Place:
        """
        A place for what is asked for, to be released at its end.

        @raise TooMany: there is none.
        """
        return self.session.hold(kind)

    def reply(self, name: str, data: Any) -> None:
        """Send a message that answers this one. It is never lost: who has much to say waits for L{ready}."""
        self.session.send(name, data, self.id)

    def ready(self) -> Deferred[None]:
        """Fire when the client has read enough of what was sent to it."""
        return self.session.ready()

    def cancel(self) -> Deferred[None]:
        """End it; fires when it has ended."""
        if self.work is None:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        first = not self._waiters
        self._waiters.append(waiter)
        if first:  # once only, so that its cleanup is not cut short
            self.work.cancel()
        return waiter

    def ended(self) -> None:
        """Tell who waits for the end."""
        self.work = None
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)


class Running:
    """
    What runs for one session.

    @param total: how many of each type run in all sessions; shared by all.
    """

    def __init__(self, total: Counter[str]) -> None:
        self._total = total
        self._calls: dict[Call, None] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def find(self, request: str) -> Call:
        """
        What runs by this id.

        @raise MessageError: nothing does.
        """
        for call in self._calls:
            if call.id == request:
                return call
        raise MessageError("unknown_id", "nothing runs by this id")

    def start(self, call: Call, data: Any) -> None:
        """
        Let the handler of C{call} do its work.

        @raise MessageError: something runs by its id already, or too much runs.
        """
        if call.kind.runs:
            self._check_room(call)
        answer = call.kind.handler(call, data)
        if answer is not None:
            self._keep(call, answer)

    def cancel_all(self) -> Deferred[None]:
        """Cancel everything; fires when all have ended."""
        ending = DeferredList([call.cancel() for call in tuple(self._calls)], consumeErrors=True)
        return ending.addCallback(lambda _: None)

    def _check_room(self, call: Call) -> None:
        kind = call.kind
        if call.id is not None and any(each.id == call.id for each in self._calls):
            raise MessageError("duplicate_id", "something runs by this id already")
        if len(self._calls) >= MAX_RUNNING:
            raise MessageError("too_many_requests", f"{MAX_RUNNING} messages are being worked on already")
        if kind.most is not None and self._total[kind.name] >= kind.most:
            message = f"{kind.most} of {kind.name} run already, for all clients together"
            raise MessageError("too_many_requests", message)

    def _keep(self, call: Call, answer: Awaitable[None]) -> None:
        self._calls[call] = None
        self._total[call.kind.name] += 1
        call.work = work = as_deferred(answer)
        work.addBoth(self._ended, call)

    def _ended(self, result: object, call: Call) -> None:
        self._calls.pop(call, None)
        self._total[call.kind.name] -= 1
        if isinstance(result, Failure):
            self._tell(result, call)
        call.ended()

    def _tell(self, failure: Failure, call: Call) -> None:
        if failure.check(CancelledError):
            call.reply("cancelled", {})
        else:
            call.session.tell_failure(failure, call.id)
