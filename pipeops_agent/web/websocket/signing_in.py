"""
A page's connection, before it is anybody's.

A browser sends the session's cookie along, and lets no page add a header of its own. So the session's key
comes in the first message, C{{"type": "session", "data": {"key": "..."}}}; until it is known to be the right
one nothing else is answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.scheduling import Tasks
from pipeops_agent.web.presence import Presence
from pipeops_agent.web.replies import Refusal
from pipeops_agent.web.websocket.messages import MessageError, SessionKey, decode, decode_data

KEY_TIMEOUT: Final = 10.0
"""Seconds within which the key must come."""

MAX_EARLY: Final = 16
"""Messages that may come before it is known whether the key is the right one; they are handled afterwards."""

NAME: Final = "session"
"""The message's type."""


class SigningIn:
    """
    Waits for the key, and finds out whether it is the right one.

    @ivar early: what has come after the key.
    @param entered: called when it is.
    @param dismiss: called when it is not, or does not come.
    """

    def __init__(
        self,
        clock: IReactorTime,
        presence: Presence,
        entered: Callable[[], None],
        dismiss: Callable[[Refusal], None],
    ) -> None:
        self._presence = presence
        self._entered = entered
        self._dismiss = dismiss
        self._tasks = Tasks()
        self._asked = False
        self._deadline = clock.callLater(KEY_TIMEOUT, self._refuse, "the session's key has not come in time")
        self.early: list[bytes] = []

    def message(self, payload: bytes) -> None:
        """A message has come."""
        if not self._asked:
            self._asked = True
            self._take(payload)
        elif len(self.early) < MAX_EARLY:
            self.early.append(payload)
        else:
            self._refuse("too many messages before it is known whose they are")

    def stop(self) -> Deferred[None]:
        """The connection is gone."""
        self._stop_waiting()
        return self._tasks.stop()

    def _take(self, payload: bytes) -> None:
        try:
            message = decode(payload)
            if message.type != NAME:
                raise MessageError("unauthorized", f"expected a message {NAME} with the session's key first")
            shown: SessionKey = decode_data(message.data, SessionKey)
        except MessageError as error:
            self._refuse(str(error))
            return
        self._stop_waiting()
        self._tasks.spawn(self._enter(shown.key), "finding out whose a WebSocket is")

    async def _enter(self, key: str) -> None:
        try:
            await self._presence.show_key(key)
        except Refusal as refusal:
            self._dismiss(refusal)
        else:
            self._entered()

    def _refuse(self, message: str) -> None:
        self._stop_waiting()
        self._dismiss(Refusal(401, "unauthorized", message))

    def _stop_waiting(self) -> None:
        if self._deadline.active():
            self._deadline.cancel()
