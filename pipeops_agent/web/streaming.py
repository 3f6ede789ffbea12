"""Answers that are no whole replies: a body written over time, a connection that changes its protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec
from twisted.internet.interfaces import IPushProducer, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from pipeops_agent.web.request import AgentRequest


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """
    An answer whose body is written over time.

    @ivar begin: called with the body once the header is sent.
    @ivar unused: called instead where nothing is streamed: for HEAD, or when the client has gone.
    """

    begin: Callable[[Body], None]
    unused: Callable[[], None]
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()


class Upgraded(Protocol):
    """What a connection's bytes go to once it has been upgraded."""

    def makeConnection(self, transport: ITransport) -> None:  # noqa: N802 (IProtocol's name)
        """The connection is yours; what has come comes with L{dataReceived}."""

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come."""

    def connectionLost(self, reason: Failure) -> None:
        """The connection is gone."""

    def wind_up(self) -> None:
        """The agent stops: say so, and close."""


class Upgrade(msgspec.Struct, frozen=True):
    """
    An answer by which the connection becomes another protocol's (RFC 9110, 7.8).

    @ivar opening: handed to it before anything else: the request, as C{protocol} wants to see it. It answers
        with 101 itself.
    """

    protocol: Upgraded
    opening: bytes


class BodyOwner(Protocol):
    """Who writes a body."""

    def body_full(self) -> None:
        """The client does not read: write nothing for now."""

    def body_free(self) -> None:
        """It reads again."""

    def body_gone(self) -> None:
        """The client has gone away; said once, and not after L{Body.finish}."""


@implementer(IPushProducer)
class Body:
    """
    The body of a L{Stream}. What is written while it is full is kept in memory: don't.

    @ivar full: the client does not read.
    """

    def __init__(self, request: AgentRequest) -> None:
        self._request = request
        self._owner: BodyOwner | None = None
        self._ended = False
        self.full = False

    def open(self, owner: BodyOwner) -> None:
        """Tell C{owner} from now on."""
        self._owner = owner
        self._request.notifyFinish().addBoth(self._gone)
        self._request.registerProducer(self, True)

    def write(self, data: bytes) -> None:
        """Send C{data}."""
        if not self._ended:
            self._request.write(data)

    def finish(self) -> None:
        """The end: the client can tell it from a cut."""
        if not self._ended:
            self._ended = True
            self._request.unregisterProducer()
            self._request.finish()

    def abort(self) -> None:
        """Cut the connection."""
        self._request.channel.abort()

    def pauseProducing(self) -> None:
        self.full = True
        if self._owner is not None:
            self._owner.body_full()

    def resumeProducing(self) -> None:
        self.full = False
        if self._owner is not None:
            self._owner.body_free()

    def stopProducing(self) -> None:
        """The connection is gone; the request says so too."""

    def _gone(self, _: object) -> None:
        if not self._ended:
            self._ended = True
            if self._owner is not None:
                self._owner.body_gone()
