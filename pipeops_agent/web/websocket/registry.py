"""Which messages there are: where commands, logs and the proxy move in, and extensions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from pipeops_agent.web.websocket.running import Call

Handler = Callable[["Call", Any], Awaitable[None] | None]
"""
Does what a message asks for: at once, or, where the type C{runs}, as a coroutine that runs until it returns
or is cancelled. What it raises as a L{MessageError} is told to the client, anything else is logged and told
as C{internal}.
"""


class MessageType(msgspec.Struct, frozen=True, kw_only=True):
    """
    One type of message to the agent.

    @ivar data: what its data must look like: a struct.
    @ivar runs: its handler takes its time: it is kept by the message's id, counted, and can be cancelled.
    @ivar most: handlers of this type that may run at one time, in all sessions together; None: no limit but
        that of the session.
    """

    name: str
    data: type[Any]
    handler: Handler
    runs: bool = False
    most: int | None = None


class Registry:
    """Message types by name."""

    def __init__(self) -> None:
        self._types: dict[str, MessageType] = {}

    def add(self, *types: MessageType) -> None:
        """@raise ValueError: a name is taken."""
        for each in types:
            if each.name in self._types:
                raise ValueError(f"the message type {each.name!r} is registered already")
            self._types[each.name] = each

    def find(self, name: str) -> MessageType | None:
        """The type of this name."""
        return self._types.get(name)

    def __iter__(self) -> Iterator[MessageType]:
        return iter(tuple(self._types.values()))
