"""
Quantities of the Kubernetes API (C{resource.Quantity}): C{250m}, C{1.5Gi}, C{2e3}.

The official client has a parser too; importing it costs 20 MB. A test compares the two.
"""

from __future__ import annotations

import re
from typing import Final

_FORM: Final = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?[0-9]{1,2}))?"
)

_SUFFIXES: Final = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
    "Pi": 2.0**50,
    "Ei": 2.0**60,
}


def parse_quantity(text: str) -> float:
    """
    The number that C{text} stands for: cores for processors, bytes for memory.

    @raise ValueError: it is no quantity.
    """
    found = _FORM.fullmatch(text) if len(text) <= 64 else None
    if found is None:
        raise ValueError(f"{text[:64]!r} is no quantity")
    number, suffix, exponent = found.groups()
    value = float(number)
    if suffix:
        return value * _SUFFIXES[suffix]
    return value * 10.0 ** int(exponent) if exponent else value
