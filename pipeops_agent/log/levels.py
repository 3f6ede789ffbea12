"""Which component an event comes from, and whether its level is to be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from twisted.logger import LogEvent, LogLevel

from pipeops_agent.log.components import AUDIT

OWN_PREFIX: Final = "pipeops_agent."
_LIBRARY: Final = "twisted"


class Severity(IntEnum):
    """How much a record matters; C{label} is the C{level} that is written."""

    DEBUG = 0
    INFO = 1
    WARN = 2
    ERROR = 3

    @property
    def label(self) -> str:
        return self.name.lower()


_NAMES: Final[Mapping[str, Severity]] = {
    "debug": Severity.DEBUG,
    "info": Severity.INFO,
    "warn": Severity.WARN,
    "warning": Severity.WARN,
    "error": Severity.ERROR,
    "critical": Severity.ERROR,
}

_OF_TWISTED: Final = {
    LogLevel.debug: Severity.DEBUG,
    LogLevel.info: Severity.INFO,
    LogLevel.warn: Severity.WARN,
    LogLevel.error: Severity.ERROR,
    LogLevel.critical: Severity.ERROR,
}

_PORT: Final = re.compile(r"\(\w+ Port \d+ Closed\)|\S.* starting on \S+")

_CACHE_LIMIT: Final = 1024
"""Components whose threshold is remembered: libraries may name loggers after what peers send."""


def parse_severity(name: str) -> Severity:
    """@raise ValueError: no level has this name."""
    severity = _NAMES.get(name.lower())
    if severity is None:
        raise ValueError(f"expected debug, info, warn or error, got {name!r}")
    return severity


def severity_of(event: LogEvent) -> Severity:
    """The event's severity; C{INFO} where it has none, C{DEBUG} for Twisted's word on each connection."""
    severity = _OF_TWISTED.get(event.get("log_level"), Severity.INFO)
    return Severity.DEBUG if severity is Severity.INFO and _is_chatter(event) else severity


def _is_chatter(event: LogEvent) -> bool:
    """Whether Twisted says that a factory or a port starts or stops; our own records say why."""
    if str(event.get("log_format", "")).startswith(("Starting factory", "Stopping factory")):
        return True
    said = event.get("message") or ("",)
    return bool(_PORT.fullmatch(str(said[0])))


def component_of(event: LogEvent) -> str:
    """The namespace without our own prefix; C{twisted} for all of Twisted, old-style records included."""
    namespace = str(event.get("log_namespace") or _LIBRARY)
    if namespace.startswith(OWN_PREFIX):
        return namespace[len(OWN_PREFIX) :]
    if namespace == "log_legacy" or namespace.startswith("twisted."):
        return _LIBRARY
    return namespace


class Levels:
    """
    The least level shown, per component: the longest dotted prefix that is named decides. Audit records are
    shown whatever the level, unless C{levels} names them.

    @ivar lowest: the least level that any other component shows.
    """

    def __init__(self, level: str, levels: Mapping[str, str]) -> None:
        self._default = parse_severity(level)
        self._named = {component: parse_severity(name) for component, name in levels.items()}
        self.lowest = min([self._default, *self._named.values()])
        # Who wants less of the log does not want fewer of the books, unless that is said.
        self._named.setdefault(AUDIT, min(self._default, Severity.INFO))
        self._cache: dict[str, Severity] = {}

    def allows(self, component: str, severity: Severity) -> bool:
        """Whether an event of C{component} at C{severity} is shown."""
        threshold = self._cache.get(component)
        if threshold is None:
            if len(self._cache) >= _CACHE_LIMIT:
                self._cache.clear()
            threshold = self._cache[component] = self._find(component)
        return severity >= threshold

    def _find(self, component: str) -> Severity:
        name = component
        while name:
            if name in self._named:
                return self._named[name]
            name = name.rpartition(".")[0]
        return self._default
