"""Tests for L{pipeops_agent.watch.sse}: the format, however it is cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.watch.sse import MAX_EVENT, EventParser, EventTooLong, ServerEvent

WHOLE = (
    b"retry: 3000\n\n"
    b":\n\n"
    b"id: ab-1\nevent: log\ndata: {}\n\n"
    b"event: two\r\ndata: a\r\ndata: b\r\n\r\n"
    b"data\rid: ab-3\r\r"
    b"unknown: x\ndata:no space\n\n"
    b"event: nothing\n\n"
    b"data: \xff\xc3\xa4\n\n"
)
EVENTS = [
    ServerEvent("log", "{}", "ab-1"),
    ServerEvent("two", "a\nb", "ab-1"),
    ServerEvent("message", "", "ab-3"),
    ServerEvent("message", "no space", "ab-3"),
    ServerEvent("message", "\ufffd\u00e4", "ab-3"),
]


class ParserTests(SynchronousTestCase):
    """Bytes into events."""

    def test_whole(self) -> None:
        """Names, ids that stay, several lines of data, each kind of line end, comments, what is no UTF-8."""
        parser = EventParser()
        self.assertEqual(list(parser.feed(WHOLE)), EVENTS)
        self.assertEqual((parser.last_id, parser.retry), ("ab-3", 3000))

    @given(st.lists(st.integers(0, len(WHOLE)), max_size=20))
    def test_in_pieces(self, cuts: list[int]) -> None:
        """However it is cut, the events are the same."""
        parser = EventParser()
        places = [0, *sorted(cuts), len(WHOLE)]
        found = [event for start, end in pairwise(places) for event in parser.feed(WHOLE[start:end])]
        self.assertEqual(found, EVENTS)

    def test_unfinished(self) -> None:
        """An event that was cut is none; its id is, as it is the one to go on from, not known from it."""
        parser = EventParser()
        self.assertEqual(list(parser.feed(b"data: a\n")), [])
        parser.cut()
        self.assertEqual(list(parser.feed(b"data: b\n\n")), [ServerEvent("message", "b", "")])

    def test_bad_fields(self) -> None:
        """An id with a NUL and a retry that is no number are not taken."""
        parser = EventParser()
        list(parser.feed(b"id: a\x00b\nretry: 1e9\nretry: -1\nretry: 99999999999\n\n"))
        self.assertEqual((parser.last_id, parser.retry), ("", None))

    def test_too_long(self) -> None:
        """An event without end, in one line or in many, is given up."""
        for piece in (b"data: " + b"x" * 65536, b"data: " + b"x" * 65536 + b"\n"):
            parser = EventParser()

            def flood(parser: EventParser = parser, piece: bytes = piece) -> None:
                for _ in range(MAX_EVENT // 65536 + 1):
                    list(parser.feed(piece))

            self.assertRaises(EventTooLong, flood)
