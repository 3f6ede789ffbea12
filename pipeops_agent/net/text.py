"""What a peer says, made fit for one line of a log."""

from __future__ import annotations

import re
from typing import Final

MOST_SHOWN: Final = 300
"""Characters of a peer's text that a sentence repeats."""


def printable(text: str, most: int = MOST_SHOWN) -> str:
    """C{text}, its start, with C{?} for whatever is not printable ASCII."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:most] or "(empty)"
