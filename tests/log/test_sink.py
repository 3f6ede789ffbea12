"""Tests for L{pipeops_agent.log.sink}: real files and pipes in a temporary directory."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.log.sink import Sink


class FileTests(SynchronousTestCase):
    """Lines go into a file."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def open(self) -> Sink:
        sink = Sink(str(self.path))
        self.addCleanup(sink.close)
        return sink

    def test_mode(self) -> None:
        """A new file is for its owner alone."""
        self.open()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_appends(self) -> None:
        """What is there stays."""
        self.path.write_bytes(b"before\n")
        self.assertTrue(self.open().write(b"after\n"))
        self.assertEqual(self.path.read_bytes(), b"before\nafter\n")

    def test_reopen(self) -> None:
        """A file that was moved away keeps its lines; new ones go into a new file of its name."""
        sink = self.open()
        sink.write(b"one\n")
        moved = self.path.rename(self.path.with_suffix(".1"))
        sink.write(b"two\n")
        sink.reopen()
        sink.write(b"three\n")
        self.assertEqual(moved.read_bytes(), b"one\ntwo\n")
        self.assertEqual(self.path.read_bytes(), b"three\n")

    def test_reopen_gives_the_descriptor_back(self) -> None:
        """However often the log is rotated, one descriptor is open."""
        sink = self.open()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            sink.reopen()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_write_within_a_write(self) -> None:
        """A signal's handler logs in the middle of a write: its line comes after the one under way, whole."""
        sink = self.open()
        write = os.write

        def interrupted(fd: int, data: bytes) -> int:
            self.patch(os, "write", write)
            written = write(fd, data[:2])
            self.assertTrue(sink.write(b"from the handler\n"))
            return written

        self.patch(os, "write", interrupted)
        self.assertTrue(sink.write(b"one\n"))
        self.assertTrue(sink.write(b"two\n"))
        self.assertEqual(self.path.read_bytes(), b"one\nfrom the handler\ntwo\n")

    def test_reopen_fails(self) -> None:
        """Where the file can't be opened again the old one is kept."""
        sink = self.open()
        moved = self.path.rename(self.path.with_suffix(".1"))
        self.path.mkdir()
        self.assertRaises(OSError, sink.reopen)
        self.assertTrue(sink.write(b"still\n"))
        self.assertEqual(moved.read_bytes(), b"still\n")

    def test_closed(self) -> None:
        """After the close no descriptor is held, and a last line is written all the same."""
        before = len(os.listdir("/proc/self/fd"))
        sink = self.open()
        sink.close()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.assertTrue(sink.write(b"last\n"))
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.assertEqual(self.path.read_bytes(), b"last\n")

    def test_closed_and_gone(self) -> None:
        """A line that comes after the close, into a directory that is gone, is lost without an error."""
        self.path = self.path / "log"
        self.path.parent.mkdir()
        sink = self.open()
        sink.close()
        self.path.unlink()
        self.path.parent.rmdir()
        self.assertFalse(sink.write(b"last\n"))

    def test_directory_missing(self) -> None:
        """A file that can't be opened is an error at once, which names it."""
        error = self.assertRaises(FileNotFoundError, Sink, str(self.path / "no" / "log"))
        self.assertIn(str(self.path), str(error))

    def test_relative_path(self) -> None:
        """A relative path is meant from where the process started, not from where twistd goes later."""
        sink = self.open()
        start = os.getcwd()
        self.addCleanup(os.chdir, start)
        os.chdir("/")
        sink.reopen()
        sink.write(b"x\n")
        self.assertEqual((Path(start) / self.path).read_bytes(), b"x\n")

    def test_full_disk(self) -> None:
        """A disk that is full loses lines, no more."""
        sink = Sink("/dev/full")
        self.addCleanup(sink.close)
        self.assertFalse(sink.write(b"x\n"))

    def test_pipe_without_reader(self) -> None:
        """A named pipe that nobody reads is an error, not a wait."""
        os.mkfifo(self.path)
        self.assertRaises(OSError, Sink, str(self.path))

    def test_torn_line(self) -> None:
        """A line that was cut short by a full pipe does not run into the next."""
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        sink = self.open()
        self.assertFalse(sink.write(b"a" * 1_000_000 + b"\n"))
        self.assertFalse(sink.write(b"lost\n"))
        with contextlib.suppress(BlockingIOError):
            while True:
                os.read(reader, 65536)
        self.assertTrue(sink.write(b"whole\n"))
        self.assertTrue(sink.write(b"next\n"))
        self.assertEqual(os.read(reader, 65536), b"\nwhole\nnext\n")


class StreamTests(SynchronousTestCase):
    """Lines go to the process's own streams."""

    def pipe(self, stream: str) -> int:
        """Let C{sys.__stdout__} or C{sys.__stderr__} be a pipe; return the end to read from."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        opened = os.fdopen(writer, "w")
        self.addCleanup(opened.close)
        self.patch(sys, f"__{stream}__", opened)
        return reader

    def test_past_a_redirection(self) -> None:
        """Under twistd C{sys.stdout} leads into the log: the line goes past it."""
        for stream in ("stdout", "stderr"):
            reader = self.pipe(stream)
            self.patch(sys, stream, None)
            self.assertTrue(Sink(stream).write(b"line\n"))
            self.assertEqual(os.read(reader, 100), b"line\n")

    def test_after_what_was_printed(self) -> None:
        """What was printed before the log began comes before it."""
        reader = self.pipe("stdout")
        assert sys.__stdout__ is not None
        sys.__stdout__.write("usage\n")
        Sink("stdout").write(b"line\n")
        self.assertEqual(os.read(reader, 100), b"usage\nline\n")

    def test_broken_pipe(self) -> None:
        """A reader that went away is no error."""
        reader, writer = os.pipe()
        os.close(reader)
        opened = os.fdopen(writer, "w")
        self.addCleanup(opened.close)
        self.patch(sys, "__stdout__", opened)
        self.assertFalse(Sink("stdout").write(b"x\n"))

    def test_no_stream(self) -> None:
        """A process without the stream, or whose stream was closed, loses lines, no more."""
        self.patch(sys, "__stdout__", None)
        self.assertFalse(Sink("stdout").write(b"x\n"))
        closed = os.fdopen(os.dup(1), "w")
        closed.close()
        self.patch(sys, "__stdout__", closed)
        self.assertFalse(Sink("stdout").write(b"x\n"))

    def test_stays_open(self) -> None:
        """Closing and reopening leave the process's streams alone."""
        reader = self.pipe("stdout")
        sink = Sink("stdout")
        sink.reopen()
        sink.close()
        self.assertTrue(sink.write(b"x\n"))
        self.assertEqual(os.read(reader, 100), b"x\n")
