"""
An event of C{twisted.logger} becomes a record: plain values, without secrets, with a fixed beginning.

The keys C{time}, C{level}, C{msg}, C{component} come first and are always there; then the event's own
fields. A field that has the name of one of these four gets an underscore at its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

import msgspec
from twisted.logger import LogEvent, formatEvent
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

from pipeops_agent.log.levels import component_of, severity_of
from pipeops_agent.log.redact import MASK, Redactor, is_sensitive
from pipeops_agent.secrets import Secret

Record = dict[str, Any]
"""What is written: values that JSON has, keys in the order in which they are shown."""

FIXED: Final = ("time", "level", "msg", "component")

MAX_DEPTH: Final = 6
"""How deep nested fields are shown."""
MAX_ITEMS: Final = 100
"""How many items of one nested field are shown."""

MAX_INT_BITS: Final = 64
"""Greater integers are shown in hexadecimal: JSON's readers lose digits, python refuses to print them."""

_MIN_ECHO: Final = 4
"""Values masked for their name are looked for in the message too, from this length on."""


def build_record(event: LogEvent, redactor: Redactor, now: datetime) -> Record:
    """
    The record of C{event}.

    @param now: the time of an event that has none of its own.
    """
    failure = event.get("log_failure")
    plain = _Plain(redactor)
    fields: Record = {}
    for name, value in event.items():
        if not _is_internal(name, value, event) and not (callable(value) and not isinstance(value, type)):
            fields[f"{name}_" if name in FIXED else redactor.clean(name)] = plain.named(name, value)
    if isinstance(failure, Failure):
        fields.setdefault("error", redactor.clean(summary(failure)))
        fields["traceback"] = redactor.clean(failure.getTraceback())
    return {
        "time": timestamp(_moment(event, now)),
        "level": severity_of(event).label,
        "msg": plain.echoless(redactor.clean(message_of(event))),
        "component": redactor.clean(component_of(event)),
        **{name: plain.echoless(value) for name, value in fields.items()},
    }


def message_of(event: LogEvent) -> str:
    """The event's text; where it has none, that of its failure."""
    message = formatEvent(event)
    if not message and isinstance(event.get("log_failure"), Failure):
        return summary(event["log_failure"])
    return message


def is_empty(event: LogEvent) -> bool:
    """Whether there is nothing to say: no field, no failure, no text (a blank line on a captured stdout)."""
    if "log_failure" in event or not all(_is_internal(name, value, event) for name, value in event.items()):
        return False
    return not formatEvent(event)


def summary(failure: Failure) -> str:
    """A failure in one line: C{ConnectionRefusedError: ...}."""
    name = getattr(failure.type, "__name__", "Exception")
    message = failure.getErrorMessage()
    return f"{name}: {message}" if message else str(name)


def timestamp(moment: datetime) -> str:
    """C{moment} as RFC 3339 in UTC, to the millisecond: C{2024-01-15T10:30:00.123Z}."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment(event: LogEvent, now: datetime) -> datetime:
    try:
        return datetime.fromtimestamp(event["log_time"], UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return now


def _number(value: int | float | None) -> Any:
    """A number, truth value or nothing as JSON has it."""
    if isinstance(value, int):
        return value if value.bit_length() <= MAX_INT_BITS else f"{value:#x}"
    return value if value is None or math.isfinite(value) else str(value)


def _text(value: object) -> str:
    """Any value that is no number and no container, as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, datetime) and value.tzinfo is not None:
        return timestamp(value)
    if isinstance(value, Failure):
        return summary(value)
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {safe_str(value)}"
    return safe_str(value)


def _is_internal(name: str, value: object, event: LogEvent) -> bool:
    """
    Whether a field belongs to the log system and not to the event.

    Old-style records are made of such fields alone, and an old-style observer elsewhere in the process
    (trial's, for one) adds them to new events too: those are told from our own by their values.
    """
    if name.startswith("log_") or name == "isError":
        return True
    if event.get("log_namespace") == "log_legacy":
        return name in ("message", "time", "system", "format", "failure", "why", "logLevel")
    if name == "message":
        return isinstance(value, tuple)
    if name == "time":
        return value == event.get("log_time")
    if name == "format":
        return value == "%(log_legacy)s"
    if name == "failure":
        return value is event.get("log_failure")
    return name in ("system", "why") and "log_legacy" in event


class _Plain:
    """Turns values into what JSON has, masks them, and remembers what was masked for its name."""

    def __init__(self, redactor: Redactor) -> None:
        self._clean = redactor.clean
        self._knows = redactor.knows
        self._echoes: set[str] = set()

    def named(self, name: str, value: object, depth: int = 0) -> Any:
        """C{value} of the field C{name}: masked altogether where the name says that it is secret."""
        if is_sensitive(name):
            return self._mask(value)
        return self.value(value, depth)

    def value(self, value: object, depth: int = 0) -> Any:
        """C{value} as JSON has it, without secrets."""
        if isinstance(value, Enum):
            value = value.value
        if value is None or isinstance(value, bool | int | float):
            number = _number(value)
            return self._clean(str(number)) if self._knows(str(number)) else number
        if depth < MAX_DEPTH:
            if isinstance(value, msgspec.Struct):
                value = msgspec.structs.asdict(value)
            if isinstance(value, Mapping):
                return self._mapping(value, depth)
            if isinstance(value, list | tuple | set | frozenset):
                return self._sequence(value, len(value), depth)
        return self._clean(_text(value))

    def echoless(self, value: Any) -> Any:
        """C{value} without what was masked in a field for its name: the message quotes fields."""
        if isinstance(value, str):
            for echo in self._echoes:
                value = value.replace(echo, MASK)
        elif isinstance(value, dict):
            return {key: self.echoless(item) for key, item in value.items()}
        elif isinstance(value, list):
            return [self.echoless(item) for item in value]
        return value

    def _mapping(self, mapping: Mapping[Any, Any], depth: int) -> Record:
        plain: Record = {}
        for number, (key, item) in enumerate(mapping.items()):
            if number == MAX_ITEMS:
                plain["…"] = f"{len(mapping) - MAX_ITEMS} more"
                break
            name = _text(key)
            plain[self._clean(name)] = self.named(name, item, depth + 1)
        return plain

    def _sequence(self, items: Iterable[object], count: int, depth: int) -> list[Any]:
        plain: list[Any] = []
        for number, item in enumerate(items):
            if number == MAX_ITEMS:
                plain.append(f"… {count - MAX_ITEMS} more")
                break
            plain.append(self.value(item, depth + 1))
        return plain

    def _mask(self, value: object) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Secret):
            return repr(value)
        if isinstance(value, list | tuple):
            return [self._mask(item) for item in value[:MAX_ITEMS]]
        echo = _text(value)
        if len(echo) >= _MIN_ECHO:
            self._echoes.add(echo)
        return MASK
