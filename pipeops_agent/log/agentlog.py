"""The log as a whole: an observer to be put in the place of twistd's own."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import ILogObserver, LogEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from pipeops_agent.clock import WallClock, utc_now
from pipeops_agent.log import libraries
from pipeops_agent.log.config import LogConfig
from pipeops_agent.log.levels import Levels, Severity, component_of, severity_of
from pipeops_agent.log.record import Record, build_record, is_empty, message_of, summary, timestamp
from pipeops_agent.log.redact import Redactor
from pipeops_agent.log.render import Renderer, render_json, render_text
from pipeops_agent.log.repeats import Repeats, normalized
from pipeops_agent.log.sink import Sink

_COMPONENT: Final = "log"
_ONLY_A_VALUE: Final = re.compile(r"\{[^{}]*\}")
"""Formats that say nothing of their own: old-style records, captured output, python's C{logging}."""

COUNTED: Final = "log_counted"
"""The field by which a sender says that it counts repetitions itself: such a record is always written."""

_RENDERERS: Final[Mapping[str, Renderer]] = {"json": render_json, "text": render_text}


@implementer(ILogObserver)
class _Observer:
    """What the publisher calls: never raises, since a publisher's answer to that is another event."""

    def __init__(self, observe: Callable[[LogEvent], None], broken: Callable[[Exception], None]) -> None:
        self._observe = observe
        self._broken = broken

    def __call__(self, event: LogEvent) -> None:
        try:
            self._observe(event)
        except Exception as error:
            self._broken(error)


class AgentLog:
    """
    Filters, counts, redacts and writes what L{observer} is handed, from any thread.

    Who says when a trouble begins and when it is over (a heartbeat, the tunnel) counts better than a window
    of time can, which would swallow the next beginning and let its end stand: such records have the field
    C{log_counted=True}.

    @ivar observer: the C{ILogObserver} to install on the application.
    @param clock: for the windows of repeated records; used from the constructing thread alone.
    @raise ValueError: a level has no such name.
    @raise OSError: the file can't be opened.
    """

    def __init__(
        self, config: LogConfig, clock: IReactorTime, redactor: Redactor, *, wall: WallClock = utc_now
    ) -> None:
        self.redactor = redactor
        self.observer: ILogObserver = _Observer(self._observe, self._broken)
        self._wall = wall
        self._levels = Levels(config.level, config.levels)
        self._render = _RENDERERS[config.format]
        self._sink = Sink(config.output)
        self._repeats = Repeats(clock, wall, self._emit)
        self._lost = 0
        self._thread = threading.get_ident()
        self._release: Callable[[], None] | None = None
        self._followers: tuple[Callable[[Record], None], ...] = ()

    def set_levels(self, level: str, levels: Mapping[str, str]) -> None:
        """
        Change the levels alone.

        @raise ValueError: a level has no such name; the old ones stay.
        """
        self._levels = Levels(level, levels)
        if self._release is not None:
            libraries.show_from(self._levels.lowest)

    def follow(self, follower: Callable[[Record], None]) -> Callable[[], None]:
        """
        Call C{follower} with each record that is written, redacted as it is, until the result is called.

        It is called from any thread, and from a signal's handler: it may do no more than take a note. It must
        not change the record.
        """
        self._followers = (*self._followers, follower)

        def unfollow() -> None:
            self._followers = tuple(each for each in self._followers if each is not follower)

        return unfollow

    def capture_libraries(self, publisher: ILogObserver) -> None:
        """Let python's own C{logging} enter at C{publisher}, until L{close}."""
        if self._release is None:
            self._release = libraries.capture(publisher)
            libraries.show_from(self._levels.lowest)

    def reopen(self) -> None:
        """Open the file anew (it was rotated); where that fails the old one is kept, and says so."""
        try:
            self._sink.reopen()
        except OSError as error:
            self._say("error", f"the log file can't be opened again: {error}")

    def close(self) -> None:
        """
        Say what was counted; leave no timer, no descriptor, no handler behind.

        The observer goes on working (twistd has a last word after all services have stopped).
        """
        if self._release is not None:
            self._release()
            self._release = None
        self._repeats.close()
        self._sink.close()

    def _observe(self, event: LogEvent) -> None:
        component, severity = component_of(event), severity_of(event)
        if not self._levels.allows(component, severity) or is_empty(event):
            return

        def make() -> Record:
            return build_record(event, self.redactor, self._wall())

        counted = COUNTED in event or threading.get_ident() != self._thread
        if severity >= Severity.WARN and not counted:
            text = message_of(event)
            failure = event.get("log_failure")
            if isinstance(failure, Failure):
                text += summary(failure)
            self._repeats.offer(_kind(event, component, text), text, make)
        else:
            self._emit(make())

    def _emit(self, record: Record) -> None:
        if self._lost and self._sink.write(self._render(self._lost_record())):
            self._lost = 0
        if not self._sink.write(self._render(record)):
            self._lost += 1
        for follower in self._followers:
            follower(record)

    def _lost_record(self) -> Record:
        return self._own("error", f"{self._lost} records could not be written") | {"lost": self._lost}

    def _say(self, level: str, message: str) -> None:
        self._emit(self._own(level, self.redactor.clean(message)))

    def _broken(self, error: Exception) -> None:
        # Its text may be what could not be formatted: the type must do.
        self._emit(self._own("error", f"a record could not be written down: {type(error).__name__}"))

    def _own(self, level: str, message: str) -> Record:
        return {"time": timestamp(self._wall()), "level": level, "msg": message, "component": _COMPONENT}


def _kind(event: LogEvent, component: str, text: str) -> Hashable:
    form = str(event.get("log_format") or "")
    if not form or _ONLY_A_VALUE.fullmatch(form):
        form = normalized(text)
    return component, severity_of(event), form
