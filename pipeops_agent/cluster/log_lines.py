"""Log bytes into lines, and the place in a log from which reading goes on after a cut."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from zlib import crc32

MAX_PIECE: Final = 64 * 1024
"""Bytes of a line that are handed out at once: a longer one comes in pieces."""

MARGIN: Final = 1
"""
Seconds that are asked for again before the second of the last line. The kubelet takes C{sinceTime} in whole
seconds and looks at each line for itself; lines of stdout and stderr may be out of order across a second.
"""

RECENT: Final = 64
"""Different time stamps whose lines are counted; lines of one stamp that stand further apart are not."""

FIRST: Final = 1_000_000_000 * 86_400
"""The earliest time stamp that a place may have, in nanoseconds since 1970."""

MAX_DIGITS: Final = 15
"""Digits of a number in a place's text."""

_STAMP: Final = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")


class Piece(NamedTuple):
    """
    A line, or a part of one that is long.

    @ivar stamp: when the line was written, as the kubelet says it; empty: it does not say. That is so for
        the kubelet's own words, and for what is left of a line whose begin was filtered out.
    @ivar begins: nothing of the line came before; C{ends}: nothing of it follows.
    """

    stamp: bytes
    data: bytes
    begins: bool
    ends: bool


class LineSplitter:
    """Cuts what comes into pieces; each line is expected to begin with its time stamp."""

    def __init__(self) -> None:
        self._rest = b""
        self._stamp = b""
        self._inside = False

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that are complete now."""
        *lines, rest = (self._rest + data).split(b"\n")
        pieces: list[Piece] = []
        for line in lines:
            self._cut(pieces, line, ends=True)
        while len(rest) > 2 * MAX_PIECE or (self._inside and len(rest) > MAX_PIECE):
            head, rest = rest[:MAX_PIECE], rest[MAX_PIECE:]
            self._cut(pieces, head, ends=False)
        self._rest = rest
        return pieces

    def finish(self) -> list[Piece]:
        """What is left when the log has ended without a line end."""
        pieces: list[Piece] = []
        rest, self._rest = self._rest, b""
        if rest or self._inside:
            self._cut(pieces, rest, ends=True)
        return pieces

    def _cut(self, pieces: list[Piece], line: bytes, *, ends: bool) -> None:
        begins = not self._inside
        if begins:
            found = _STAMP.match(line)
            self._stamp = b"" if found is None else line[: found.end() - 1]
            line = line if found is None else line[found.end() :]
        while len(line) > MAX_PIECE:
            pieces.append(Piece(self._stamp, line[:MAX_PIECE], begins, False))
            line, begins = line[MAX_PIECE:], False
        pieces.append(Piece(self._stamp, line, begins, ends))
        self._inside = not ends


class Place:
    """
    How far a log has been read: up to and with so many bytes of the n-th line with this time stamp.

    That identifies a line without keeping any: the kubelet's stamps have nanoseconds, lines that share one
    are counted, and a checksum of the text is compared. A count of all lines since some second would not
    do: what a log was asked for first (C{tailLines}), and what has been rotated away, is not counted.
    """

    def __init__(self) -> None:
        self.stamp = b""
        self.nth = 0
        self._recent: dict[bytes, int] = {}
        self.size = 0
        self.check = 0
        self.ended = False
        self.highest = b""

    def advance(self, pieces: list[Piece]) -> None:
        """C{pieces} have been handed out."""
        for stamp, data, begins, ends in pieces:
            if not stamp:
                continue
            if not begins:
                self.size += len(data)
                self.check = crc32(data, self.check)
            else:
                if stamp != self.stamp:
                    self.stamp = stamp
                    self.highest = max(self.highest, stamp)
                self.nth = self._count(stamp)
                self.size, self.check = len(data), crc32(data)
            self.ended = ends

    def _count(self, stamp: bytes) -> int:
        """How many lines have had C{stamp}: they may stand apart, since two writers share a log."""
        count = self._recent.pop(stamp, 0) + 1
        self._recent[stamp] = count
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        return count

    @classmethod
    def parse(cls, text: str) -> Place:
        """
        The place that L{text} tells of.

        @raise ValueError: it is none.
        """
        stamp, nth, size, check, ended, highest = text.split("/")
        place = cls()
        place.stamp, place.highest = stamp.encode("ascii"), highest.encode("ascii")
        place.nth, place.size, place.check = (_count_of(each) for each in (nth, size, check))
        place.ended = ended == "1"
        if not (nanoseconds(place.stamp) >= FIRST and nanoseconds(place.highest) >= FIRST and place.nth):
            raise ValueError("no place in a log")
        place._recent[place.stamp] = place.nth
        return place

    @property
    def text(self) -> str:
        """The place as text, with which another reader goes on; see L{parse}."""
        stamp, highest = self.stamp.decode(), self.highest.decode()
        return f"{stamp}/{self.nth}/{self.size}/{self.check}/{int(self.ended)}/{highest}"

    @property
    def known(self) -> bool:
        """Whether anything has been read."""
        return bool(self.stamp)

    @property
    def since(self) -> str:
        """C{sinceTime} with which the place is found again."""
        moment = datetime.fromtimestamp(nanoseconds(self.stamp) // 1_000_000_000 - MARGIN, UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Seeker:
    """
    Finds a place again in a log that is read anew from L{Place.since}: lets pass only what follows it.

    @ivar over: nothing is sought any more: what comes passes.
    @ivar gap: the place is not in this log (rotated away, or another log): lines may be missing between the
        place and what passed first.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._highest = nanoseconds(place.highest)
        self._count = 0
        self._size = self._check = 0
        self._candidate = False
        self.over = False
        self.gap = False

    def feed(self, pieces: list[Piece]) -> list[Piece]:
        """Those of C{pieces} that have not been handed out yet."""
        for index, piece in enumerate(pieces):
            if self.over:
                return pieces[index:]
            rest = self._look(piece)
            if rest is not None:
                return [rest, *pieces[index + 1 :]]
        return []

    def give_up(self) -> None:
        """All that there is has come, and the place was not in it."""
        if not self.over:
            self.over = self.gap = True

    def _look(self, piece: Piece) -> Piece | None:
        """Look at one piece; return what of it passes."""
        place = self._place
        if piece.begins:
            self._candidate = piece.stamp == place.stamp
            self._size = self._check = 0
            if self._candidate:
                self._count += 1
            elif piece.stamp and self._is_newer(piece.stamp):
                self.give_up()
                return piece
        if not self._candidate:
            return None
        part = piece.data[: place.size - self._size]
        self._size += len(part)
        self._check = crc32(part, self._check)
        if self._size < place.size:
            return None
        over = piece.data[len(part) :]
        if place.ended and not piece.ends and not over:
            return None  # a line's end may come on its own
        self._candidate = False
        if self._check != place.check or self._count < place.nth:
            return None
        if not place.ended:
            self.over = True
            return Piece(piece.stamp, over, False, piece.ends)
        self.over = piece.ends and not over
        return None

    def _is_newer(self, stamp: bytes) -> bool:
        """Whether C{stamp} is later than all that was handed out."""
        highest = self._place.highest
        if stamp[-1:] == highest[-1:] == b"Z" and len(stamp) == len(highest):
            return stamp > highest
        return nanoseconds(stamp) > self._highest


def _count_of(text: str) -> int:
    """@raise ValueError: it is none."""
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise ValueError("no number")
    return int(text)


def nanoseconds(stamp: bytes) -> int:
    """A time stamp as nanoseconds since 1970; 0 for none."""
    found = _STAMP.match(stamp + b" ")
    if found is None:
        return 0
    try:
        moment = datetime.fromisoformat((found[1] + found[3].replace(b"Z", b"+00:00")).decode())
    except ValueError:  # the 31st of February
        return 0
    whole = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    return whole * 1_000_000_000 + int((found[2] or b"0").ljust(9, b"0"))
