"""
One record, one line: JSON for machines, aligned text for people.

Whatever a peer put into a value, it can't end the line, move the cursor or hide what follows: JSON is
written in ASCII alone, and text has every character that is not printable escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

from pipeops_agent.log.record import FIXED, Record
from pipeops_agent.log.redact import CUT

MAX_RECORD: Final = 16 * 1024
"""The longest line, in bytes."""

_CLIPS: Final = (4096, 1024, 256, 64)
"""What texts in a record that is too long are cut to, the first that suffices, in characters."""

_BARE: Final = re.compile(r"[^\s\"'=\\{}\[\]]+")

_TELLING: Final = 4
"""Characters from which on a value that stands in the message is no accident."""

Renderer = Callable[[Record], bytes]


def render_json(record: Record) -> bytes:
    """C{record} as a JSON object of at most L{MAX_RECORD} bytes, with its newline."""
    return _bounded(record, lambda shown: (json.dumps(shown, separators=(",", ":")) + "\n").encode("ascii"))


def render_text(record: Record) -> bytes:
    """C{record} for people, in UTF-8, with its newline; only a traceback takes lines of its own."""
    return _bounded(record, lambda shown: (_as_text(shown) + "\n").encode("utf-8", "backslashreplace"))


def printable(text: str) -> str:
    """C{text} with all characters escaped that could end a line or steer a terminal."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _bounded(record: Record, encode: Callable[[Record], bytes]) -> bytes:
    line = encode(record)
    if len(line) <= MAX_RECORD:
        return line
    said = {"cut_from_bytes": len(line)}
    for clip in _CLIPS:
        shorter = encode({**{key: _clipped(value, clip) for key, value in record.items()}, **said})
        if len(shorter) <= MAX_RECORD:
            return shorter
    # Too many fields, not too long ones: the four that every record has must do.
    return encode({key: _clipped(record[key], _CLIPS[-1]) for key in FIXED if key in record} | said)


def _clipped(value: Any, clip: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= clip else value[:clip] + CUT
    if isinstance(value, dict):
        return {_clipped(key, clip): _clipped(item, clip) for key, item in value.items()}
    if isinstance(value, list):
        return [_clipped(item, clip) for item in value]
    return value


def _as_text(record: Record) -> str:
    """Return C{record} on a line; a person need not read twice what the message says already."""
    where, message = printable(record["component"]), printable(record["msg"])
    head = f"{record['time']} {record['level']:<5} {where:<13} {message}"
    pairs = [
        f"{printable(name)}={_as_value(value)}"
        for name, value in record.items()
        if name not in FIXED and name != "traceback" and not _is_said(value, message)
    ]
    lines = [" ".join([head, *pairs])]
    lines += (f"    | {printable(line)}" for line in record.get("traceback", "").splitlines())
    return "\n".join(lines)


def _is_said(value: Any, message: str) -> bool:
    """Whether C{message} has C{value} in it; a number or a letter may be there by chance."""
    return isinstance(value, str) and len(value) >= _TELLING and printable(value) in message


def _as_value(value: Any) -> str:
    if isinstance(value, str) and value.isprintable() and _BARE.fullmatch(value):
        return value
    return printable(json.dumps(value, ensure_ascii=False))
