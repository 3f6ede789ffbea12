"""What was logged during a test."""

from __future__ import annotations

from typing import Any

from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer


@implementer(ILogObserver)
class Records:
    """The records from now on until the test ends."""

    def __init__(self, case: SynchronousTestCase) -> None:
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self)
        case.addCleanup(globalLogPublisher.removeObserver, self)

    def __call__(self, event: Any) -> None:
        self.events.append(event)

    def at(self, level: str) -> list[str]:
        """The texts of a level, in order."""
        wanted = LogLevel.levelWithName(level)
        return [formatEvent(event) for event in self.events if event.get("log_level") is wanted]
