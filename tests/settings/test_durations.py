"""Tests for L{pipeops_agent.settings.durations}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.settings.durations import format_duration, parse_duration


class ParseTests(SynchronousTestCase):
    """What is read."""

    def test_units(self) -> None:
        """Every unit of Go's, alone and together."""
        for text, seconds in {
            "0": 0.0,
            "0.0": 0.0,
            "0s": 0.0,
            "5s": 5.0,
            "1m30s": 90.0,
            "2h45m": 9900.0,
            "1.5h": 5400.0,
            ".5s": 0.5,
            "1.s": 1.0,
            "500ms": 0.5,
            "250us": 0.00025,
            "250µs": 0.00025,
            "250\u03bcs": 0.00025,
            "1ns": 1e-9,
            "1h1h": 7200.0,
            "1m500ms": 60.5,
        }.items():
            self.assertEqual(parse_duration(text), seconds, text)

    def test_not_a_duration(self) -> None:
        """Other spellings, other digits, spaces and signs are refused."""
        for text in ("", " ", "s", "5 s", "5s ", "+5s", "1e3s", "5d", "5S", "\u0665s", "5s\n", "five", ".s"):
            error = self.assertRaises(ValueError, parse_duration, text)
            self.assertIn("expected a duration", str(error), repr(text))

    def test_not_a_number(self) -> None:
        """YAML's infinities and its "not a number" are no durations."""
        for text in ("nan", ".nan", "inf", ".inf", "NaN", "-.inf"):
            self.assertRaises(ValueError, parse_duration, text)

    def test_bare_number(self) -> None:
        """A number without a unit is refused with a suggestion."""
        for text in ("5", "1.5", "300"):
            error = self.assertRaises(ValueError, parse_duration, text)
            self.assertEqual(str(error), f"a duration needs a unit, such as {text}s")

    def test_negative(self) -> None:
        """A negative duration is named as what it is."""
        for text in ("-5s", "-1m", "-3"):
            error = self.assertRaises(ValueError, parse_duration, text)
            self.assertIn("negative", str(error))

    def test_longest(self) -> None:
        """Go's limit holds, however many digits try to pass it."""
        self.assertEqual(parse_duration("2562047h47m16.854775807s"), (2**63 - 1) / 10**9)
        for text in ("2562048h", "9" * 60 + "h", "9" * 10_000 + "h"):
            self.assertRaises(ValueError, parse_duration, text)


class FormatTests(SynchronousTestCase):
    """What is written."""

    def test_format(self) -> None:
        """The shortest text, in the largest fitting units."""
        for seconds, text in {
            0.0: "0s",
            5.0: "5s",
            90.0: "1m30s",
            3600.0: "1h",
            9900.0: "2h45m",
            3601.5: "1h1.5s",
            0.5: "500ms",
            0.0015: "1.5ms",
            0.00025: "250µs",
            1e-9: "1ns",
        }.items():
            self.assertEqual(format_duration(seconds), text)

    def test_nothing_else(self) -> None:
        """What is no duration has no text."""
        for value in (-1.0, float("inf"), float("nan")):
            self.assertRaises(ValueError, format_duration, value)

    @given(st.integers(0, 2**62))
    @hypothesis_settings(deadline=None)
    def test_round_trip(self, nanoseconds: int) -> None:
        """What is written reads as the same seconds, to the nanosecond."""
        seconds = nanoseconds / 10**9
        self.assertEqual(parse_duration(format_duration(seconds)), seconds)

    @given(st.text(max_size=80))
    @hypothesis_settings(deadline=None)
    def test_any_text(self, text: str) -> None:
        """Whatever comes is a finite duration or a ValueError."""
        try:
            seconds = parse_duration(text)
        except ValueError:
            return
        self.assertTrue(0 <= seconds < 1e11)
