"""The state in memory: for tests, and for the sandbox, whose agents are new each time."""

from __future__ import annotations

from twisted.logger import Logger

from pipeops_agent.state.codec import Damaged, NewerFormat, content_version, decode_state, encode_state
from pipeops_agent.state.model import Conflict, State, Stored, Unavailable

_log = Logger(namespace="state")


class MemoryStateStore:
    """
    Keeps the state for the life of the object (L{StateStore}), and passes the same contract as the real ones.

    @ivar content: the stored form, as L{encode_state} makes it; None: empty. A test may put anything here.
    @ivar set_aside: what was found damaged or was reset, in that order.
    @ivar broken: a sentence while the store can't be read or written; None: it can.
    """

    def __init__(self, state: State | None = None) -> None:
        self.content = None if state is None else encode_state(state)
        self.set_aside: list[bytes] = []
        self.broken: str | None = None

    def describe(self) -> str:
        return "memory, until the process ends"

    async def load(self) -> Stored:
        self._check()
        if self.content is None:
            return Stored(None, self._version)
        try:
            return Stored(decode_state(self.content), self._version)
        except NewerFormat as newer:
            raise Unavailable(f"the state was written by a newer agent ({newer})") from None
        except Damaged as damage:
            _log.error("the state in memory was damaged and is set aside", reason=str(damage))
            self._put_aside(self.content)
            return Stored(None, self._version, f"the state in memory was damaged ({damage})")

    async def save(self, state: State, version: str) -> Stored:
        self._check()
        content = encode_state(state)
        if version != self._version:
            raise Conflict("the state in memory has changed since it was read")
        self.content = content
        return Stored(state, self._version)

    async def reset(self) -> None:
        self._check()
        if self.content is not None:
            self._put_aside(self.content)

    @property
    def _version(self) -> str:
        return content_version(self.content)

    def _put_aside(self, content: bytes) -> None:
        self.set_aside.append(content)
        self.content = None

    def _check(self) -> None:
        if self.broken is not None:
            raise Unavailable(self.broken)
