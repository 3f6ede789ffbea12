"""What of an answer may be shown."""

from __future__ import annotations

import json
import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.controlplane.errors import EXCERPT_BYTES, REDACTED, excerpt, first_line, redact
from pipeops_agent.secrets import Secret


class ExcerptTests(SynchronousTestCase):
    """L{excerpt}."""

    def test_first_bytes(self) -> None:
        """No more than 2 KiB, cut between characters."""
        self.assertEqual(EXCERPT_BYTES, 2048)
        self.assertEqual(excerpt(b"x" * 5000), "x" * EXCERPT_BYTES)
        self.assertLessEqual(len(excerpt("€".encode() * 5000).encode()), EXCERPT_BYTES)
        self.assertNotIn("\ufffd", excerpt("€".encode() * 5000))

    def test_own_token(self) -> None:
        """The agent's token is taken out wherever it stands, also across the cut."""
        secret = Secret("very-secret-token")
        body = b"a" * (EXCERPT_BYTES - 5) + b"very-secret-token"
        self.assertNotIn("very", excerpt(body, [secret]))
        self.assertEqual(excerpt(b"you sent very-secret-token!", [secret, None]), f"you sent {REDACTED}!")

    def test_fields(self) -> None:
        """Fields that are named like secrets lose their values, in complete and in broken JSON."""
        body = json.dumps(
            {
                "cluster": {"token": "abc123", "name": "prod"},
                "Credentials": 'user:pa\\ss"word',
                "api_key": "k1",
                "tokens": ["t1", "t2"],
            }
        ).encode()
        shown = excerpt(body)
        for secret in ("abc123", "word", "pa", "k1", "t1", "t2"):
            self.assertNotIn(f'"{secret}', shown)
            self.assertNotIn(secret + '"', shown.replace('"password"', ""))
        self.assertIn('"name": "prod"', shown)
        self.assertNotIn("abc123", excerpt(b'{"cluster": {"token": "abc123'))

    def test_bearer_and_jwt(self) -> None:
        """Tokens are known by their form too."""
        shown = redact("Authorization: Bearer abc.def eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl end")
        self.assertNotIn("abc.def", shown)
        self.assertNotIn("eyJ", shown)
        self.assertTrue(shown.endswith("end"))

    def test_time(self) -> None:
        """No answer of 1 MiB makes this slow."""
        began = time.monotonic()
        for body in (
            b'"token' * 170_000,
            b'"' + b"token" * 200_000 + b"\\",
            b'"token": "' + b"\\" * 1_000_000,
        ):
            excerpt(body)
            first_line(body.decode())
        self.assertLess(time.monotonic() - began, 5)

    @given(st.text(min_size=1, max_size=40), st.text(max_size=3000))
    def test_never_shown(self, value: str, around: str) -> None:
        """Whatever stands around it, a field named token never shows its value."""
        value = "s3cr3t" + value
        shown = excerpt(json.dumps({"x": around, "token": value}).encode())
        self.assertNotIn("s3cr3t", shown.replace(around, ""))


class FirstLineTests(SynchronousTestCase):
    """L{first_line}."""

    def test_html(self) -> None:
        """Of a page the first text is taken, without tags, styles and scripts."""
        page = "<!doctype html>\n<html><style>p {color: red}</style><title>502 Bad\tGateway</title><body>no"
        self.assertEqual(first_line(page), "502 Bad Gateway")

    def test_bounded(self) -> None:
        """It is short, printable, and empty where there is nothing."""
        self.assertEqual(len(first_line("x" * 1000)), 200)
        self.assertEqual(first_line("a\x1b[31mb"), "a [31mb")
        self.assertEqual(first_line("<p>\n </p>"), "")
