"""Tests for static tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.access.tokens import CONTROL_PLANE, Known, StaticTokens
from pipeops_agent.caller import Grant
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_server import ServerToken
from pipeops_agent.tokens import SettingsToken

OWN = "own-9f8E7d6C5b4A3z2Y1x"
CI = "ci-5f2c6a1d9e8b7c4f3a"
READER = "reader-77aa88bb99cc00dd"

OPERATE = (Grant("operate"),)
READ = (Grant("read"),)


class StaticTokensTests(SynchronousTestCase):
    """Whose a token is."""

    def setUp(self) -> None:
        self.own = SettingsToken(Secret(OWN))
        self.kept: list[Sequence[Secret]] = []
        self.tokens = StaticTokens(self.own, self.kept.append)
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def owner(self, token: str) -> str | None:
        known = self.tokens.find(Secret(token))
        return None if known is None else known.subject

    def test_control_plane(self) -> None:
        """Without any the control plane's own is known, for reading alone."""
        self.assertEqual(
            self.tokens.find(Secret(OWN)), Known(subject=CONTROL_PLANE, scopes=frozenset({Grant("read")}))
        )
        for wrong in (OWN[:-1], OWN + "x", OWN.upper(), "", "\udc80"):
            self.assertIsNone(self.owner(wrong))

    def test_no_control_plane(self) -> None:
        """With others the control plane's is not known any more; nor one that is empty, ever."""
        self.tokens.configure([ServerToken(name="ci", token=Secret(CI), scopes=OPERATE)])
        self.assertIsNone(self.owner(OWN))
        self.assertTrue(self.tokens.is_control_planes(Secret(OWN)))
        self.assertEqual(self.owner(CI), "ci")
        self.tokens.configure([])
        self.own.replace(Secret(""))
        self.assertIsNone(self.owner(""))
        self.assertFalse(self.tokens.is_control_planes(Secret("")))

    def test_several(self) -> None:
        """Each has its own name and scopes."""
        self.tokens.configure(
            [
                ServerToken(name="ci", token=Secret(CI), scopes=OPERATE),
                ServerToken(name="reader", token=Secret(READER), scopes=READ),
            ]
        )
        self.assertEqual(self.tokens.find(Secret(READER)), Known(subject="reader", scopes=frozenset(READ)))
        self.assertEqual(self.tokens.find(Secret(CI)), Known(subject="ci", scopes=frozenset(OPERATE)))
        self.assertIsNone(self.owner("another-token-altogether"))

    def test_taken_away(self) -> None:
        """A token that is not configured any more is not known any more."""
        self.tokens.configure([ServerToken(name="ci", token=Secret(CI), scopes=OPERATE)])
        self.tokens.configure([ServerToken(name="reader", token=Secret(READER), scopes=READ)])
        self.assertIsNone(self.owner(CI))

    def test_file(self) -> None:
        """A file is read again when it is replaced; while it can't be read the last one holds."""
        path = self.directory / "token"
        path.write_text(f"{CI}\n")
        self.tokens.configure([ServerToken(name="ci", file=str(path), scopes=OPERATE)])
        self.assertEqual(self.owner(CI), "ci")
        fresh = self.directory / "fresh"
        fresh.write_text(READER)
        fresh.rename(path)
        self.assertEqual(self.owner(READER), "ci")
        self.assertIsNone(self.owner(CI))
        path.unlink()
        self.assertEqual(self.owner(READER), "ci")
        self.tokens.configure([ServerToken(name="other", file=str(path), scopes=READ)])
        self.assertEqual(self.owner(READER), "other")

    def test_file_that_is_not_there(self) -> None:
        """A token whose file is missing is nobody's, and the control plane's does not come back for it."""
        self.tokens.configure([ServerToken(name="ci", file=str(self.directory / "none"), scopes=READ)])
        for token in (OWN, "", "None"):
            self.assertIsNone(self.owner(token))

    def test_weak_file(self) -> None:
        """A token in a file that could be guessed is not used, which is said once, and not what it is."""
        events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)  # type: ignore[arg-type]  # any case
        path = self.directory / "token"
        path.write_text("s3cret-word")
        self.tokens.configure([ServerToken(name="ci", file=str(path), scopes=OPERATE)])
        for _ in range(3):
            self.assertIsNone(self.owner("s3cret-word"))
        said = [event for event in events if "can be guessed" in str(event.get("log_format"))]
        self.assertEqual(len(said), 1)
        self.assertNotIn("s3cret-word", str(said))

    def test_kept(self) -> None:
        """The log is told of all tokens as soon as one has changed, and only then."""
        path = self.directory / "token"
        path.write_text(CI)
        self.tokens.configure(
            [
                ServerToken(name="ci", file=str(path), scopes=OPERATE),
                ServerToken(name="reader", token=Secret(READER), scopes=READ),
            ]
        )
        self.assertEqual(self.kept[-1], [Secret(CI), Secret(READER)])
        told = len(self.kept)
        self.owner(CI)
        self.assertEqual(len(self.kept), told)
        path.write_text("another-token-of-this-file")
        self.owner(CI)
        self.assertEqual(self.kept[told:], [[Secret("another-token-of-this-file"), Secret(READER)]])
