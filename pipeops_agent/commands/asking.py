"""Who asks, whichever way it asks by, and how it is told what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred

from pipeops_agent.access.limits import Kind, Place
from pipeops_agent.caller import Caller

MAX_PIECE: Final = 64 * 1024
"""Bytes of something streamed that one message holds."""


class Asker(Protocol):
    """
    One request of a caller, which takes its time.

    @ivar receiver: takes what the caller sends for it meanwhile (C{Input}, C{Resize}); None: nothing is.
    """

    receiver: Callable[[Any], None] | None

    @property
    def caller(self) -> Caller:
        """Who asks."""

    @property
    def talks(self) -> bool:
        """Whether the caller can send more for it."""

    def reply(self, name: str, data: Any) -> None:
        """Send a message. It is never lost: who has much to say waits for L{ready}."""

    def ready(self) -> Deferred[None]:
        """Fire when the caller takes more."""

    def hold(self, kind: Kind) -> Place:
        """
        A place for what is asked for.

        @raise TooMany: there is none.
        """
