"""
One journal and its readers.

A reader is a place in the journal, not a queue: while its connection takes nothing the place stays behind,
and what the journal gives up meanwhile is counted as missed. So a reader that never reads costs nothing, and
what all have in common (their place, their channels, the form) is encoded and put together once.

Readers are served in the reactor's next turn, all together: what is told in one turn leaves in one piece.
While much is told these turns are at least L{SPACING} apart: to send to each of a hundred readers takes half
of that, and for ten messages no longer than for one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pipeops_agent.realtime.journal import Entry, Journal

_log = Logger(namespace="realtime")

CHUNK: Final = 64 * 1024
"""Bytes from which on nothing is added to one piece: a reader has at most one more of these under way."""

SPACING: Final = 0.001
"""Seconds between two turns in which readers are served."""

Encoding = Callable[[Entry], bytes]
"""Makes of an entry what goes on the wire; the same object for all who want the same."""


class Missed(msgspec.Struct, frozen=True):
    """
    What a reader did not get.

    @ivar count: how many entries of its channels.
    @ivar first: the number of the first of them; C{last}: that of the last.
    """

    count: int
    first: int
    last: int


class Sink(Protocol):
    """Where a reader's entries go. Both may pause the reader, or close it."""

    def write(self, data: bytes) -> None:
        """Send C{data}, in which entries stand one after the other."""

    def missed(self, missed: Missed) -> None:
        """Say that entries are lost: what is written next comes after them."""


class Reader:
    """
    One subscriber's place in a feed; L{Feed.read} makes it.

    @ivar place: the number of the last entry that it has got, or has missed.
    @ivar channels: what it wants; may be replaced, for what has not been written yet.
    """

    def __init__(
        self, feed: Feed, sink: Sink, channels: frozenset[str], encoding: Encoding, place: int
    ) -> None:
        self._feed = feed
        self.sink = sink
        self.channels = channels
        self.encoding = encoding
        self.place = place
        self.paused = False
        self.closed = False
        self._missed: Missed | None = None

    def pause(self) -> None:
        """Write nothing for now: the connection takes no more."""
        self.paused = True
        self._feed.held(self)

    def resume(self) -> None:
        """The connection takes more: write now what waits, for as long as it does."""
        if self.paused and not self.closed:
            self.paused = False
            self._feed.released(self)

    def close(self) -> None:
        """No more entries, ever."""
        if not self.closed:
            self.closed = True
            self._feed.left(self)

    def miss(self, entry: Entry) -> None:
        """C{entry} is gone from the journal."""
        if entry.seq <= self.place:
            return
        self.place = entry.seq
        if entry.channel in self.channels:
            self.note_missed(Missed(1, entry.seq, entry.seq))

    def note_missed(self, missed: Missed) -> None:
        """Say, before anything else is written, that entries are lost."""
        before = self._missed
        if before is None:
            self._missed = missed
        else:
            self._missed = Missed(before.count + missed.count, before.first, missed.last)

    def take_missed(self) -> Missed | None:
        """What was lost since the last call."""
        missed, self._missed = self._missed, None
        return missed


class Feed:
    """
    Hands entries to readers.

    @ivar start: identifies this run of the agent.
    """

    def __init__(self, clock: IReactorTime, start: str, journal: Journal) -> None:
        self._clock = clock
        self.start = start
        self.journal = journal
        self._readers: dict[Reader, None] = {}
        self._held: dict[Reader, None] = {}
        self._turn: IDelayedCall | None = None
        self._serving = False
        self._served = -SPACING
        self._waiting = 0
        self._waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._readers)

    def read(
        self, sink: Sink, channels: frozenset[str], encoding: Encoding, *, after: int | None = None
    ) -> Reader:
        """
        Add a reader. It begins paused: C{resume} when it may be written to.

        @param after: the number of the last entry that it has; None: it wants new ones only. Where later
            ones are gone already, it is told how many (of any channel: which they were of is gone, too).
        """
        journal = self.journal
        place = journal.last if after is None else min(max(after, journal.first - 1), journal.last)
        reader = Reader(self, sink, channels, encoding, place)
        if after is not None and after < place:
            reader.note_missed(Missed(place - after, after + 1, place))
        self._readers[reader] = None
        reader.pause()
        return reader

    def append(self, entry: Entry) -> None:
        """Add an entry; it is written in the reactor's next turn, or L{SPACING} after the last one."""
        if not self._serving and (
            self._waiting_bytes >= CHUNK or self._waiting >= max(1, self.journal.most // 2)
        ):
            # So that nobody who would take it loses what comes in one turn.
            self.serve()
        for gone in self.journal.append(entry):
            for reader in self._held:
                reader.miss(gone)
        if self._readers:
            self._waiting += 1
            self._waiting_bytes += len(entry.text)
            if self._turn is None:
                wait = self._served + SPACING - self._clock.seconds()
                self._turn = self._clock.callLater(max(0.0, wait), self._next_turn)

    def serve(self) -> None:
        """Write everything that waits, to all whose connections take it."""
        self._waiting = self._waiting_bytes = 0
        self._serving = True
        chunks: dict[tuple[int, frozenset[str], Encoding], tuple[bytes, int]] = {}
        try:
            for reader in tuple(self._readers):
                self._serve_one(reader, chunks)
        finally:
            self._serving = False

    # -- what readers call

    def held(self, reader: Reader) -> None:
        """It is paused now."""
        if reader in self._readers:
            self._held[reader] = None

    def released(self, reader: Reader) -> None:
        """It is paused no more."""
        self._serve_one(reader, {})
        if not reader.paused:
            self._held.pop(reader, None)

    def left(self, reader: Reader) -> None:
        """It wants no more."""
        self._readers.pop(reader, None)
        self._held.pop(reader, None)
        if not self._readers and self._turn is not None:
            self._turn.cancel()
            self._turn = None
            self._waiting = self._waiting_bytes = 0

    def _next_turn(self) -> None:
        self._turn = None
        self._served = self._clock.seconds()
        self.serve()

    def _serve_one(
        self, reader: Reader, chunks: dict[tuple[int, frozenset[str], Encoding], tuple[bytes, int]]
    ) -> None:
        journal = self.journal
        try:
            while not (reader.paused or reader.closed):
                if reader.place < journal.first - 1:  # more came in one turn than the journal holds
                    lost = journal.first - 1 - reader.place
                    reader.note_missed(Missed(lost, reader.place + 1, journal.first - 1))
                    reader.place = journal.first - 1
                missed = reader.take_missed()
                if missed is not None:
                    reader.sink.missed(missed)
                elif reader.place < journal.last:
                    key = (reader.place, reader.channels, reader.encoding)
                    chunk = chunks.get(key)
                    if chunk is None:
                        chunk = chunks[key] = self._chunk(*key)
                    data, reader.place = chunk
                    if data:
                        reader.sink.write(data)
                else:
                    return
        except Exception:
            # One that fails must not keep entries from the others.
            _log.failure("a subscriber failed and was dropped")
            reader.close()

    def _chunk(self, place: int, channels: frozenset[str], encoding: Encoding) -> tuple[bytes, int]:
        """What comes after C{place}, encoded, and the number of the last entry in it."""
        parts: list[bytes] = []
        size = 0
        for entry in self.journal.after(place):
            place = entry.seq
            if entry.channel in channels:
                part = encoding(entry)
                parts.append(part)
                size += len(part)
                if size >= CHUNK:
                    break
        return b"".join(parts), place
