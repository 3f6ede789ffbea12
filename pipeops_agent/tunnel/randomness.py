"""Random bytes in small portions: a system call for each would cost more than encrypting a packet."""

from __future__ import annotations

import os
from typing import Final

_POOL: Final = 4096


class RandomPool:
    """Hands out bytes of the system's random source, each once."""

    def __init__(self) -> None:
        self._pool = b""
        self._used = 0

    def take(self, count: int) -> bytes:
        """Return C{count} fresh bytes."""
        begin, end = self._used, self._used + count
        if end > len(self._pool):
            self._pool = os.urandom(max(_POOL, count))
            begin, end = 0, count
        self._used = end
        return self._pool[begin:end]


random_bytes: Final = RandomPool().take
"""The process's pool; the agent has one thread that uses it."""
