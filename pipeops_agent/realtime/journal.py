"""The ring of what was told last: numbered without a gap, bounded in number and in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Entry(NamedTuple):
    """
    One thing that was told.

    @ivar seq: its number; each is one more than the one before.
    @ivar time: when, as JSON: RFC 3339, in quotes.
    @ivar text: all of it as JSON, encoded once for everybody.
    """

    seq: int
    channel: str
    time: bytes
    text: bytes


class Journal:
    """
    The last entries. The oldest gives way; of one that is larger than the limit at least itself is kept.

    @ivar first: the number of the oldest entry that is kept; where there is none, that of the next.
    @ivar last: the number of the newest, kept or not.
    @ivar size: bytes of all texts together.
    @param most: entries.
    @param most_bytes: bytes of all texts together.
    """

    def __init__(self, most: int, most_bytes: int, *, last: int = 0) -> None:
        self.most = most
        self._most_bytes = most_bytes
        self._slots: list[Entry | None] = [None] * most
        self.first = last + 1
        self.last = last
        self.size = 0

    def __len__(self) -> int:
        return self.last - self.first + 1

    def append(self, entry: Entry) -> list[Entry]:
        """
        Add C{entry}, and return what has given way to it.

        @raise ValueError: its number does not follow the last one.
        """
        if entry.seq != self.last + 1:
            raise ValueError(f"entry {entry.seq} does not follow {self.last}")
        gone: list[Entry] = []
        size = self.size + len(entry.text)
        while len(self) and (len(self) >= self.most or size > self._most_bytes):
            oldest = self._take_oldest()
            size -= len(oldest.text)
            gone.append(oldest)
        self._slots[entry.seq % self.most] = entry
        self.last = entry.seq
        self.size = size
        return gone

    def after(self, seq: int) -> Iterator[Entry]:
        """What is kept of everything that came after number C{seq}."""
        for number in range(max(seq + 1, self.first), self.last + 1):
            entry = self._slots[number % self.most]
            assert entry is not None
            yield entry

    def restart(self, last: int) -> None:
        """Forget everything; go on after number C{last}."""
        self._slots = [None] * self.most
        self.first = last + 1
        self.last = last
        self.size = 0

    def _take_oldest(self) -> Entry:
        slot = self.first % self.most
        oldest = self._slots[slot]
        assert oldest is not None
        self._slots[slot] = None
        self.first += 1
        return oldest
