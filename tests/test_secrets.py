"""Tests for L{pipeops_agent.secrets}."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import traceback

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.caller import Caller
from pipeops_agent.secrets import Secret

TEXT = "hunter2-and-more"


class SecretTests(SynchronousTestCase):
    """A string that can't be shown by accident."""

    def test_reveal(self) -> None:
        """The text is there for those who ask for it by name."""
        self.assertEqual(Secret(TEXT).reveal(), TEXT)

    def test_shown(self) -> None:
        """Whatever shows it shows its length and a short hash."""
        secret = Secret(TEXT)
        short = hashlib.sha256(TEXT.encode()).hexdigest()[:8]
        expected = f"<secret, 16 characters, sha256 {short}>"
        for shown in (str(secret), repr(secret), f"{secret}", f"{secret!r}", f"{secret!s}", "%s" % secret):  # noqa: UP031 - what is tested
            self.assertEqual(shown, expected)
        self.assertEqual(f"{secret:>50}", expected.rjust(50))
        self.assertEqual(formatEvent({"log_format": "{token}", "token": secret}), expected)
        self.assertNotIn(TEXT, repr([secret]) + repr({"token": secret}))

    def test_inside(self) -> None:
        """What carries a secret doesn't show it either."""
        caller = Caller(subject="s", scopes=frozenset(), origin="o", kubernetes_token=Secret(TEXT))
        self.assertNotIn(TEXT, repr(caller))
        try:
            raise RuntimeError(Secret(TEXT))
        except RuntimeError as error:
            self.assertNotIn(TEXT, "".join(traceback.format_exception(error)))

    @given(st.text(min_size=9, alphabet=st.characters()))
    def test_any_text(self, text: str) -> None:
        """No text is found in what is shown of it."""
        secret = Secret(text)
        self.assertNotIn(text, repr(secret).removeprefix("<secret, "))
        self.assertEqual(secret, Secret(text))
        self.assertEqual(secret.reveal(), text)

    def test_undecodable(self) -> None:
        """Bytes of the environment that are no UTF-8 are no error: its message would hold the whole text."""
        secret = Secret(os.fsdecode(b"\xff" + TEXT.encode()))
        self.assertNotIn(TEXT, repr(secret))
        self.assertNotEqual(secret, Secret(TEXT))

    def test_not_encoded(self) -> None:
        """No encoder writes it by itself: that has to be said."""
        for encode in (
            json.dumps,
            msgspec.json.encode,
            msgspec.msgpack.encode,
            msgspec.to_builtins,
            pickle.dumps,
        ):
            with self.assertRaises(TypeError) as caught:
                encode(Secret(TEXT))
            self.assertNotIn(TEXT, str(caught.exception))
        for duplicate in (copy.copy, copy.deepcopy):
            with self.assertRaises(TypeError):
                duplicate(Secret(TEXT))

    def test_equality(self) -> None:
        """Two are equal when their texts are; no string equals a secret."""
        self.assertEqual(Secret(TEXT), Secret(TEXT))
        self.assertNotEqual(Secret(TEXT), Secret(TEXT + "x"))
        self.assertNotEqual(Secret(TEXT), TEXT)
        self.assertEqual(len({Secret(TEXT), Secret(TEXT), Secret("other")}), 2)
        self.assertNotEqual(hash(Secret(TEXT)), hash(TEXT))

    def test_truth(self) -> None:
        """An empty one is false."""
        self.assertFalse(Secret(""))
        self.assertTrue(Secret(" "))

    def test_fingerprint(self) -> None:
        """The short hash tells two apart, and is the beginning of what sha256sum says."""
        self.assertEqual(Secret("abc").fingerprint, "ba7816bf")
        self.assertNotEqual(Secret("abd").fingerprint, "ba7816bf")
