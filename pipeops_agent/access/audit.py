"""
What was done through the agent, by whom: one record for each command and each proxied request.

It is written when that ends, however it ends, to the log (component C{audit}, which C{logging.level} does not
silence) and to the channel C{audit}.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.caller import Caller
from pipeops_agent.events import EventHub
from pipeops_agent.net.text import printable

Verdict = Literal["done", "failed", "refused", "cancelled"]
"""
C{refused}: it was not allowed, by scope, right or the owner, and nothing was done. C{failed}, C{cancelled}:
some of it may have been done.
"""

CHANNEL: Final = "audit"

_log = Logger(namespace="audit")


class Audit:
    """
    Keeps the books.

    @param clean: takes secrets out of a text.
    """

    def __init__(self, clock: IReactorTime, hub: EventHub, clean: Callable[[str], str]) -> None:
        self._clock = clock
        self._hub = hub
        self._clean = clean

    def begin(self, caller: Caller, action: str, target: str) -> Entry:
        """
        Something begins.

        @param action: C{scale}, C{exec}, C{proxy GET}; the caller's word for it, so it may be anything.
        @param target: C{deployments.apps web/shop}, or a path.
        """
        return Entry(self._clock, self._write, caller, action, target)

    def _write(self, entry: Entry, verdict: Verdict, reason: str, seconds: float) -> None:
        record = {
            "subject": self._text(entry.caller.subject),
            "origin": self._text(entry.caller.origin),
            "action": self._text(entry.action),
            "target": self._text(entry.target),
            "verdict": verdict,
            "reason": self._text(reason),
            "seconds": round(seconds, 6),
            "bytes_in": entry.bytes_in,
            "bytes_out": entry.bytes_out,
        }
        _log.info("{subject} from {origin}: {action} {target}: {verdict}", **record)
        self._hub.publish(CHANNEL, verdict, record)

    def _text(self, text: str) -> str:
        """C{text}, which a peer may have chosen, bounded and on one line, without secrets."""
        return printable(self._clean(text)) if text else ""


class Entry:
    """
    One thing that is being done: a context manager, which ends with what its block ends with unless L{end}
    was called before.

    @ivar bytes_in: what the caller has sent for it; C{bytes_out} what it got. To be added to.
    """

    def __init__(
        self,
        clock: IReactorTime,
        write: Callable[[Entry, Verdict, str, float], None],
        caller: Caller,
        action: str,
        target: str,
    ) -> None:
        self._clock = clock
        self._write = write
        self._began = clock.seconds()
        self._ended = False
        self.caller = caller
        self.action = action
        self.target = target
        self.bytes_in = 0
        self.bytes_out = 0

    def end(self, verdict: Verdict, reason: str = "") -> None:
        """
        It has ended, so; only the first end counts.

        @param reason: a sentence, for what did not go as it was asked.
        """
        if not self._ended:
            self._ended = True
            self._write(self, verdict, reason, self._clock.seconds() - self._began)

    def __enter__(self) -> Entry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is None:
            self.end("done")
        elif isinstance(error, CancelledError | GeneratorExit):
            self.end("cancelled")
        else:
            # Its type alone: what an unexpected error says is nobody's choice.
            self.end("failed", str(getattr(error, "sentence", type(error).__name__)))
