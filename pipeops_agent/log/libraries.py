"""Records of python's own C{logging}, which some libraries use, enter Twisted's log by this door."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from twisted.logger import ILogObserver, LogLevel
from twisted.python.failure import Failure

from pipeops_agent.log.levels import Severity

_TO_STDLIB: Final = {
    Severity.DEBUG: logging.DEBUG,
    Severity.INFO: logging.INFO,
    Severity.WARN: logging.WARNING,
    Severity.ERROR: logging.ERROR,
}

_FROM_STDLIB: Final = (
    (logging.ERROR, LogLevel.error),
    (logging.WARNING, LogLevel.warn),
    (logging.INFO, LogLevel.info),
)

_STANDARD_ATTRIBUTES: Final = frozenset(
    {*logging.LogRecord("", 0, "", 0, "", None, None).__dict__, "message", "asctime", "taskName"}
)


class LibraryHandler(logging.Handler):
    """Hands each record to C{publisher} as an event: name, level, text, failure, and the C{extra} fields."""

    def __init__(self, publisher: ILogObserver) -> None:
        super().__init__()
        self._publisher = publisher

    def emit(self, record: logging.LogRecord) -> None:
        event: dict[str, Any] = {
            name: value for name, value in record.__dict__.items() if name not in _STANDARD_ATTRIBUTES
        }
        event.update(
            log_namespace=record.name,
            log_level=next(
                (level for least, level in _FROM_STDLIB if record.levelno >= least), LogLevel.debug
            ),
            log_time=record.created,
            log_format="{log_text}",
            log_text=_text(record),
        )
        if record.exc_info and record.exc_info[1] is not None:
            kind, error, traceback = record.exc_info
            event["log_failure"] = Failure(error, kind, traceback)
        self._publisher(event)


def capture(publisher: ILogObserver) -> Callable[[], None]:
    """Let C{publisher} have all that python's C{logging} gets, and nobody else; the result undoes it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = [LibraryHandler(publisher)]

    def release() -> None:
        root.handlers = handlers
        root.setLevel(level)

    return release


def show_from(severity: Severity) -> None:
    """Let libraries spare themselves the records below C{severity}: nobody would show them."""
    logging.getLogger().setLevel(_TO_STDLIB[severity])


def _text(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # a library's mistake in its arguments must not cost the record
        return f"{record.msg!s} (its arguments don't fit: {type(error).__name__})"
