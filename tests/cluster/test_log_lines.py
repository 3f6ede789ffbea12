"""Tests of L{pipeops_agent.cluster.log_lines}: lines, pieces, and the place in a log."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.cluster.log_lines import MAX_PIECE, LineSplitter, Piece, Place, Seeker, nanoseconds
from tests.cluster.fakeapi.logs import Line, stamp, written

NOON = 1_772_625_600 * 1_000_000_000


def joined(pieces: list[Piece]) -> list[tuple[bytes, bytes]]:
    """Stamps and texts of the whole lines in C{pieces}."""
    lines: list[tuple[bytes, bytes]] = []
    for piece in pieces:
        if piece.begins:
            lines.append((piece.stamp, piece.data))
        else:
            lines[-1] = (lines[-1][0], lines[-1][1] + piece.data)
    return lines


def log(*lines: tuple[float, bytes]) -> bytes:
    """Lines, each so many seconds after noon."""
    return b"".join(written(Line(NOON + round(at * 1e9), text)) for at, text in lines)


class LineSplitterTests(SynchronousTestCase):
    """Bytes into pieces."""

    def test_split_anywhere(self) -> None:
        """Lines are the same wherever the bytes were cut, whatever bytes they are."""
        data = log((0, b"one"), (0.5, b""), (1, b"\xff\xfe \x00"), (2, "naïve".encode()))
        whole = LineSplitter().feed(data)
        self.assertEqual([piece.data for piece in whole], [b"one", b"", b"\xff\xfe \x00", "naïve".encode()])
        for cut in range(len(data) + 1):
            splitter = LineSplitter()
            self.assertEqual(splitter.feed(data[:cut]) + splitter.feed(data[cut:]), whole, cut)
            self.assertEqual(splitter.finish(), [])

    def test_long_line(self) -> None:
        """A line of 1 MiB comes in pieces of bounded size, as it comes, and nothing more is kept of it."""
        text = bytes(range(1, 10)) * (1024 * 1024 // 9)
        data, splitter, pieces = log((0, text), (1, b"next")), LineSplitter(), list[Piece]()
        for start in range(0, len(data), 10_000):
            pieces += splitter.feed(data[start : start + 10_000])
            self.assertLessEqual(len(splitter._rest), 2 * MAX_PIECE)
        self.assertLessEqual(max(len(piece.data) for piece in pieces), MAX_PIECE)
        self.assertEqual([text for _, text in joined(pieces)], [text, b"next"])
        self.assertEqual({piece.stamp for piece in pieces[:-1]}, {stamp(NOON).encode()})

    def test_long_line_at_once(self) -> None:
        """So it does where it comes in one portion."""
        pieces = LineSplitter().feed(log((0, bytes(3 * MAX_PIECE))))
        self.assertEqual([(len(each.data), each.begins, each.ends) for each in pieces], [
            (MAX_PIECE, True, False),
            (MAX_PIECE, False, False),
            (MAX_PIECE, False, True),
        ])  # fmt: skip

    def test_no_stamp(self) -> None:
        """What has no time stamp is a line all the same: the kubelet's own words."""
        (piece,) = LineSplitter().feed(b"failed to watch file: too many open files\n")
        self.assertEqual(piece.stamp, b"")

    def test_end_without_line_end(self) -> None:
        """What is left at the end is a line when it is asked for."""
        splitter = LineSplitter()
        self.assertEqual(splitter.feed(log((0, b"last"))[:-1]), [])
        self.assertEqual([(piece.data, piece.ends) for piece in splitter.finish()], [(b"last", True)])


class NanosecondsTests(SynchronousTestCase):
    """Time stamps."""

    def test_forms(self) -> None:
        """Any fraction, and the node's own offset."""
        for text, after in (
            (b"2026-03-04T12:00:00Z", 0),
            (b"2026-03-04T12:00:00.5Z", 500_000_000),
            (b"2026-03-04T13:00:00.000000001+01:00", 1),
        ):
            self.assertEqual(nanoseconds(text), NOON + after)

    def test_none(self) -> None:
        """What is no time is 0."""
        for text in (b"", b"yesterday", b"2026-02-31T00:00:00Z"):
            self.assertEqual(nanoseconds(text), 0)


class SeekerTests(SynchronousTestCase):
    """The place found again, wherever it was cut."""

    def resumed(self, before: bytes, again: bytes, size: int = 1 << 30) -> tuple[list[bytes], bool]:
        """What is handed out after C{before} when C{again} comes, and whether there is a gap."""
        first, place = LineSplitter(), Place()
        place.advance(first.feed(before))
        if place.known:
            place = Place.parse(place.text)  # whoever goes on may be another
        seeker, splitter, found = Seeker(place), LineSplitter(), list[Piece]()
        for start in range(0, len(again), size):
            found += seeker.feed(splitter.feed(again[start : start + size]))
        if not seeker.over:
            seeker.give_up()
        return [piece.data for piece in found], seeker.gap

    def test_every_line(self) -> None:
        """After each line all later ones pass, once, without a gap: identical stamps and texts included."""
        lines = [
            (0.1, b"a"), (0.1, b"a"), (0.1, b"b"), (0.1, b"a"), (0.2, b""), (0.2, b""),
            (1.001, b"later"), (0.999, b"out of order"), (1.001, b"later"), (1.5, b"a"), (2, b"end"),
        ]  # fmt: skip
        for count in range(1, len(lines)):
            rest = [text for _, text in lines[count:]]
            self.assertEqual(self.resumed(log(*lines[:count]), log(*lines)), (rest, False), count)

    def test_every_byte_of_a_long_line(self) -> None:
        """Cut within a line that was handed out in part, exactly the rest follows."""
        text = bytes(range(97, 123)) * 15_000
        data = log((0, b"first"), (1, text), (2, b"next"))
        for cut in range(60, len(data), 9_973):
            splitter, place = LineSplitter(), Place()
            before = splitter.feed(data[:cut])
            place.advance(before)
            for size in (1 << 30, 50_000):
                seeker, again, after = Seeker(place), LineSplitter(), list[Piece]()
                for start in range(0, len(data), size):
                    after += seeker.feed(again.feed(data[start : start + size]))
                self.assertFalse(seeker.gap)
                self.assertEqual([line for _, line in joined(before + after)], [b"first", text, b"next"], cut)

    def test_half_a_line_that_was_not_handed_out(self) -> None:
        """The half line that had come is dropped, and comes again as a whole."""
        data = log((0, b"one"), (1, b"two"))
        for cut in range(len(log((0, b"one"))), len(data)):
            self.assertEqual(self.resumed(data[:cut], data), ([b"two"], False))

    def test_rotated(self) -> None:
        """Where the place is in no line that comes, the first that is newer passes, and the gap is told."""
        self.assertEqual(self.resumed(log((0, b"a"), (1, b"b")), log((2, b"d"))), ([b"d"], True))

    def test_other_text(self) -> None:
        """The same time with another text is another line."""
        self.assertEqual(self.resumed(log((1, b"b")), log((1, b"c"), (2, b"d"))), ([b"d"], True))

    def test_tail(self) -> None:
        """What was never handed out, because it was before the tail, stays away."""
        data = log((0, b"a"), (0.1, b"b"), (0.2, b"c"), (0.3, b"d"))
        self.assertEqual(self.resumed(log((0.2, b"c")), data), ([b"d"], False))

    def test_headless(self) -> None:
        """A line whose begin the kubelet has filtered out is no line of ours."""
        data = log((1, b"b"), (2, b"c"))
        self.assertEqual(self.resumed(log((1, b"b")), b"the end of a long line\n" + data), ([b"c"], False))

    def test_since(self) -> None:
        """It is asked from a second before the place's: whole seconds, in UTC."""
        place = Place()
        place.advance(LineSplitter().feed(b"2026-03-04T14:00:05.123456789+02:00 text\n"))
        self.assertEqual(place.since, "2026-03-04T12:00:04Z")
