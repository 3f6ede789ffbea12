"""Tests for L{pipeops_agent.web.api.query}: each way in which a query can be wrong, and what is said."""

from __future__ import annotations

from typing import Annotated

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.web.api.query import MAX_PARAMETERS, read_query
from pipeops_agent.web.replies import Refusal


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Two parameters, one of which can't be a Python name."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=9, extra={"expected": "an integer from 1 to 9"})] = 5
    after: Annotated[str, msgspec.Meta(min_length=1, extra={"expected": "some text"})] = msgspec.field(
        default="", name="continue"
    )


class ReadQueryTests(SynchronousTestCase):
    """A query into a struct."""

    def refusal(self, raw: bytes) -> str:
        error = self.assertRaises(Refusal, read_query, raw, Wanted)
        self.assertEqual(error.reply.code, 400)
        body = msgspec.json.decode(error.reply.body)["error"]
        self.assertEqual(body["code"], "bad_parameter")
        return str(body["message"])

    def test_nothing(self) -> None:
        """Without a query, and with an empty one, everything has its default."""
        self.assertEqual(read_query(b"", Wanted), Wanted())

    def test_values(self) -> None:
        """Values are converted and percent-decoded; a field's other name is its parameter's."""
        self.assertEqual(read_query(b"limit=9&continue=a%2Fb+%C3%A4", Wanted), Wanted(limit=9, after="a/b ä"))

    def test_unknown(self) -> None:
        """A name that is not known is named, with those that are."""
        self.assertEqual(self.refusal(b"limt=3"), "unknown parameter 'limt'; known here: limit, continue")

    def test_field_is_no_parameter(self) -> None:
        """Only the name in the query counts, not the one in the code."""
        self.assertIn("unknown parameter 'after'", self.refusal(b"after=3"))

    def test_wrong_values(self) -> None:
        """A value out of its range, of another type, or empty: what is expected, and what came."""
        for raw, shown in (
            (b"limit=0", "0"),
            (b"limit=10", "10"),
            (b"limit=x", "x"),
            (b"limit=", ""),
            (b"limit", ""),
            (b"limit=-1", "-1"),
            (b"limit=1_0", "1_0"),
        ):
            self.assertEqual(self.refusal(raw), f"limit: expected an integer from 1 to 9, got {shown!r}")
        self.assertEqual(self.refusal(b"continue="), "continue: expected some text, got ''")

    def test_twice(self) -> None:
        """A parameter that is there twice: nobody guesses which one was meant."""
        self.assertEqual(self.refusal(b"limit=1&limit=1"), "limit: given twice")

    def test_long_value(self) -> None:
        """A long value is not repeated whole."""
        self.assertLess(len(self.refusal(b"limit=" + b"9" * 5000)), 200)

    def test_not_utf8(self) -> None:
        """Bytes that are no UTF-8, encoded or bare."""
        for raw in (b"limit=%ff", b"limit=\xc3\xa4", b"%ff=1"):
            self.assertEqual(self.refusal(raw), "the query is not percent-encoded UTF-8")

    def test_too_many(self) -> None:
        """A query with more parameters than any operation has."""
        raw = b"&".join(b"a%d=1" % number for number in range(MAX_PARAMETERS + 1))
        self.assertIn("more than 20 parameters", self.refusal(raw))

    @given(st.binary(max_size=60))
    def test_anything(self, raw: bytes) -> None:
        """Whatever comes is a query or refused with 400."""
        try:
            read = read_query(raw, Wanted)
        except Refusal as refusal:
            self.assertEqual(refusal.reply.code, 400)
        else:
            self.assertTrue(1 <= read.limit <= 9)
