"""Tests for L{pipeops_agent.tokens}."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent import tokens
from pipeops_agent.secrets import Secret
from pipeops_agent.tokens import FILE_LIMIT, FileToken, LiveToken, SettingsToken, TokenSource


class ListenerTestCase(SynchronousTestCase):
    """Counts how often a source tells of a change."""

    def listen(self, source: TokenSource) -> list[str | None]:
        """The tokens that C{source} has when it tells of a change, as they come."""
        heard: list[str | None] = []

        def note() -> None:
            token = source.current()
            heard.append(None if token is None else token.reveal())

        source.on_change(note)
        return heard


class SettingsTokenTests(ListenerTestCase):
    """The token of the settings."""

    def test_same(self) -> None:
        """It is the token that the settings had; asking again finds no other."""
        source = SettingsToken(Secret("one"))
        self.assertEqual(source.current(), Secret("one"))
        self.assertFalse(source.refresh())

    def test_none(self) -> None:
        """No token and an empty one are the same: none."""
        self.assertIsNone(SettingsToken(None).current())
        self.assertIsNone(SettingsToken(Secret("")).current())

    def test_replace(self) -> None:
        """Another token is told, the same one is not."""
        source = SettingsToken(Secret("one"))
        heard = self.listen(source)
        source.replace(Secret("one"))
        source.replace(Secret("two"))
        source.replace(None)
        source.replace(Secret(""))
        self.assertEqual(heard, ["two", None])

    def test_listeners(self) -> None:
        """A listener that fails is logged and keeps nothing from others; a removed one hears nothing."""
        source = SettingsToken(None)
        heard: list[str] = []
        removers: list[Callable[[], None]] = []

        def fail() -> None:
            removers[2]()
            raise RuntimeError("listener")

        removers.append(source.on_change(fail))
        removers.append(source.on_change(lambda: heard.append("a")))
        removers.append(source.on_change(lambda: heard.append("b")))
        source.replace(Secret("one"))
        self.assertEqual(heard, ["a"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        removers[0]()
        removers[1]()
        removers[1]()
        source.replace(Secret("two"))
        self.assertEqual(heard, ["a"])


class FileTokenTests(ListenerTestCase):
    """The token in a file."""

    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        self.path = directory / "token"
        self.tick = 0

    def write(self, content: bytes) -> None:
        """Write the file in place, at a later time than before: the clock of a file system is coarse."""
        self.path.write_bytes(content)
        self.tick += 1
        os.utime(self.path, ns=(self.tick, self.tick))

    def source(self, content: bytes) -> FileToken:
        self.write(content)
        return FileToken(self.path)

    def assert_token(self, source: FileToken, expected: str | None) -> None:
        token = source.current()
        self.assertEqual(None if token is None else token.reveal(), expected)

    def test_whitespace(self) -> None:
        """White space around the token does not belong to it, nor does a byte order mark before it."""
        for content in (b"one", b"one\n", b"  one\r\n\r\n", b"\xef\xbb\xbfone\n"):
            self.assert_token(self.source(content), "one")

    def test_written_in_place(self) -> None:
        """A file that was written again is read again at the next use, and told of once."""
        source = self.source(b"one")
        heard = self.listen(source)
        self.write(b"two")
        self.assert_token(source, "two")
        self.assert_token(source, "two")
        self.assertEqual(heard, ["two"])

    def test_renamed_over(self) -> None:
        """A file that was replaced is noticed, though size and time are the same."""
        source = self.source(b"one")
        other = self.path.with_name("other")
        other.write_bytes(b"two")
        os.utime(other, ns=(self.tick, self.tick))
        other.rename(self.path)
        self.assert_token(source, "two")

    def test_kubernetes_swap(self) -> None:
        """A link in the path that is turned to another directory is noticed, as in a mounted Secret."""
        mount = self.path.parent
        for name, content in (("..1", b"one"), ("..2", b"two")):
            (mount / name).mkdir()
            (mount / name / "token").write_bytes(content)
            os.utime(mount / name / "token", ns=(1, 1))
        (mount / "..data").symlink_to("..1")
        self.path.symlink_to("..data/token")
        source = FileToken(self.path)
        self.assert_token(source, "one")
        (mount / "..data_tmp").symlink_to("..2")
        (mount / "..data_tmp").rename(mount / "..data")
        self.assert_token(source, "two")

    def test_touched(self) -> None:
        """A file that is read again and holds the same token is no change."""
        source = self.source(b"one")
        heard = self.listen(source)
        self.write(b"one\n")
        self.assert_token(source, "one")
        self.assertFalse(source.refresh())
        self.assertEqual(heard, [])

    def test_refresh(self) -> None:
        """After a refusal the file is read though it looks the same, and a new token is told."""
        # As on a file system with coarse times: nothing about the file shows that it was written.
        self.patch(tokens, "_identity", lambda found: ())
        source = self.source(b"one")
        heard = self.listen(source)
        self.write(b"two")
        self.assert_token(source, "one")
        self.assertTrue(source.refresh())
        self.assertEqual(heard, ["two"])
        self.assertFalse(source.refresh())

    def test_missing_at_first(self) -> None:
        """A file that is not there yet is no token and one error; when it comes it is used, and told."""
        with capturedLogs() as records:
            source = FileToken(self.path)
            self.assert_token(source, None)
            self.assertFalse(source.refresh())
        self.assertEqual([record["log_level"] for record in records], [LogLevel.error])
        self.assertEqual(source.problem, "No such file or directory")
        heard = self.listen(source)
        self.write(b"one")
        self.assert_token(source, "one")
        self.assertEqual(heard, ["one"])
        self.assertIsNone(source.problem)

    def test_unusable_later(self) -> None:
        """Whatever comes of the file, the last good token stays; each reason is reported once."""
        source = self.source(b"one")
        heard = self.listen(source)
        unusable = {
            b"": "empty",
            b" \n\t ": "empty",
            b"two\nthree": "more than a token",
            b"two three": "more than a token",
            b"two\0": "more than a token",
            b"two\x7f": "more than a token",
            "zwöi".encode(): "more than a token",
            b"x" * (FILE_LIMIT + 1): "longer than",
        }
        for content, reason in unusable.items():
            self.write(b"one")
            self.assert_token(source, "one")
            self.write(content)
            with capturedLogs() as records:
                for _ in range(3):
                    self.assert_token(source, "one")
                    self.assertFalse(source.refresh())
            self.assertEqual([record["log_level"] for record in records], [LogLevel.warn], content[:20])
            self.assertIn(reason, records[0]["problem"])
            self.assertEqual(source.problem, records[0]["problem"])
        self.assertEqual(heard, [])

    def test_largest(self) -> None:
        """A file of just the limit is read."""
        self.assert_token(self.source(b"x" * FILE_LIMIT), "x" * FILE_LIMIT)

    def test_removed(self) -> None:
        """A file that was removed leaves the token in use; restored as it was, it is well again."""
        source = self.source(b"one")
        aside = self.path.with_name("aside")
        self.path.rename(aside)
        self.assert_token(source, "one")
        self.assertEqual(source.problem, "No such file or directory")
        aside.rename(self.path)
        with capturedLogs() as records:
            self.assert_token(source, "one")
        self.assertIsNone(source.problem)
        self.assertEqual([record["log_level"] for record in records], [LogLevel.info])

    def test_same_identity_after_a_problem(self) -> None:
        """A path that could not be followed for a while is well again when it can: the same file."""
        source = self.source(b"one")
        away = self.path.parent.with_name(self.path.parent.name + "-away")
        self.path.parent.rename(away)
        self.assert_token(source, "one")
        self.assertIsNotNone(source.problem)
        away.rename(self.path.parent)
        self.assert_token(source, "one")
        self.assertIsNone(source.problem)

    def test_not_a_regular_file(self) -> None:
        """A directory or a named pipe is refused, and does not hang the agent."""
        self.path.mkdir()
        self.assertIsNotNone(FileToken(self.path).problem)
        self.path.rmdir()
        os.mkfifo(self.path)
        self.assertEqual(FileToken(self.path).problem, "it is not a regular file")

    def test_never_logged(self) -> None:
        """No record holds the token, whatever happens to the file."""
        with capturedLogs() as records:
            source = self.source(b"first-secret")
            for content in (b"second-secret", b"third-secret\nthird-secret", b"", b"fourth-secret"):
                self.write(content)
                source.current()
            SettingsToken(Secret("fifth-secret")).replace(Secret("sixth-secret"))
        self.assertGreater(len(records), 3)
        for record in records:
            self.assertNotIn("-secret", self.shown(record))

    def shown(self, record: LogEvent) -> str:
        return formatEvent(record) + repr(record)


class LiveTokenTests(ListenerTestCase):
    """A source that is exchanged while the agent runs."""

    def test_passes_on(self) -> None:
        """It has the token of its source, and tells what its source tells."""
        inner = SettingsToken(Secret("one"))
        source = LiveToken(inner)
        heard = self.listen(source)
        self.assertEqual(source.current(), Secret("one"))
        inner.replace(Secret("two"))
        self.assertEqual(heard, ["two"])

    def test_replace(self) -> None:
        """Another source is another token, told if it differs; the source before is heard no more."""
        before, same, after = SettingsToken(Secret("one")), SettingsToken(Secret("one")), SettingsToken(None)
        source = LiveToken(before)
        heard = self.listen(source)
        source.replace(same)
        self.assertEqual(heard, [])
        source.replace(after)
        before.replace(Secret("old"))
        after.replace(Secret("new"))
        self.assertEqual(heard, [None, "new"])

    def test_refresh(self) -> None:
        """After a refusal its source is asked to look again."""
        path = Path(self.mktemp())
        path.write_bytes(b"one")
        source = LiveToken(FileToken(path))
        self.assertFalse(source.refresh())
        path.write_bytes(b"another")
        self.assertTrue(source.refresh())
        self.assertEqual(source.current(), Secret("another"))

    def test_unsubscribe(self) -> None:
        """Who has left is not told."""
        inner = SettingsToken(None)
        source = LiveToken(inner)
        heard: list[None] = []
        leave = source.on_change(lambda: heard.append(None))
        leave()
        inner.replace(Secret("one"))
        self.assertEqual(heard, [])
