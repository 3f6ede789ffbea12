"""Durations as Go writes them (C{1m30s}, C{500ms}), to and from seconds."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_NANOSECOND: Final = Fraction(1, 10**9)
_UNITS: Final = {
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 10**3),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),  # U+00B5, the micro sign
    "\u03bcs": Fraction(1, 10**6),  # the Greek letter mu, which Go takes too
    "ns": _NANOSECOND,
}
_MAX_TEXT: Final = 64
"""Characters of a duration's text: more is no duration that anyone means."""
_LONGEST: Final = (2**63 - 1) * _NANOSECOND
"""Go's own limit, about 292 years."""

_PART = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?P<unit>h|ms|m|s|us|µs|\u03bcs|ns)")
_BARE = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_ZERO = re.compile(r"0+(?:\.0*)?")


def parse_duration(text: str) -> float:
    """
    Return the seconds that C{text} means: C{1m30s}, C{1.5h}, C{500ms}, C{250µs} or C{0}.

    @raise ValueError: it means none; the message says why and does not repeat C{text}.
    """
    if len(text) > _MAX_TEXT:
        raise ValueError("too long for a duration")
    if text.startswith("-"):
        raise ValueError("a duration can't be negative")
    if _ZERO.fullmatch(text):
        return 0.0
    if _BARE.fullmatch(text):
        raise ValueError(f"a duration needs a unit, such as {text}s")
    total, position = Fraction(0), 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            raise ValueError("expected a duration such as 1m30s or 500ms")
        total += Fraction(part["number"].rstrip(".")) * _UNITS[part["unit"]]
        position = part.end()
    if not text:
        raise ValueError("expected a duration such as 1m30s or 500ms")
    if total > _LONGEST:
        raise ValueError("longer than the longest duration, 292 years")
    return float(total)


def format_duration(seconds: float) -> str:
    """
    Return the shortest text that L{parse_duration} reads as C{seconds}, to the nanosecond.

    @raise ValueError: C{seconds} is negative, infinite or no number.
    """
    if not 0 <= seconds < float("inf"):
        raise ValueError("not a duration")
    nanoseconds = round(Fraction(seconds) / _NANOSECOND)
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < 10**9:
        unit, scale = next(u for u in (("ms", 6), ("µs", 3), ("ns", 0)) if nanoseconds >= 10 ** u[1])
        return _decimal(nanoseconds, scale) + unit
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else ""]
    parts.append(_decimal(rest, 9) + "s" if rest else "")
    return "".join(parts)


def _decimal(number: int, scale: int) -> str:
    """C{number / 10**scale}, exactly, without trailing zeros."""
    whole, fraction = divmod(number, 10**scale)
    if not fraction:
        return str(whole)
    return f"{whole}.{fraction:0{scale}d}".rstrip("0")
