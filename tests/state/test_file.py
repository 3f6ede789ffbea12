"""Tests for L{pipeops_agent.state.FileStateStore}: what is the file's own."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from twisted.logger import capturedLogs

from pipeops_agent.state import (
    Conflict,
    Disk,
    FileStateStore,
    Stored,
    Unavailable,
    decode_state,
)
from tests.contracts.state_store import OTHER, STATE
from tests.state.support import FileTestCase, wall


class PrivacyTests(FileTestCase):
    """The state is its owner's alone."""

    def test_modes(self) -> None:
        """Whatever the umask, the file is 0600; every directory made for it is 0700."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.path = self.home / "state" / "pipeops" / "state.json"
        self.save(STATE, "")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(self.path.parent.stat().st_mode), 0o700)
        self.assertEqual(stat.S_IMODE(self.path.parent.parent.stat().st_mode), 0o700)
        self.assertEqual(self.names(), ["state.json", "state.json.lock"])

    def test_directory_that_is_there(self) -> None:
        """A directory that was there keeps its mode: it is not ours to change."""
        self.path.parent.mkdir(0o755)
        self.path.parent.chmod(0o755)
        self.save(STATE, "")
        self.assertEqual(stat.S_IMODE(self.path.parent.stat().st_mode), 0o755)

    def test_open_to_others(self) -> None:
        """A file that others may read or write is refused, with the remedy; once that is done, it is read."""
        saved = self.save(STATE, "")
        for mode in (0o640, 0o620, 0o604, 0o602):
            self.path.chmod(mode)
            sentence = self.unavailable()
            self.assertIn(f"{mode:04o}", sentence)
            self.assertIn(f"chmod 600 {self.path}", sentence)
            self.failureResultOf(self.store().save(OTHER, saved.version), Unavailable)
        self.path.chmod(0o600)
        self.assertEqual(self.load(), saved)

    def test_symbolic_link(self) -> None:
        """A symbolic link is not followed, neither to read nor to write."""
        self.save(STATE, "")
        real = self.path.rename(self.path.with_name("elsewhere"))
        self.path.symlink_to(real)
        self.assertIn("symbolic link", self.unavailable())
        self.failureResultOf(self.store().save(OTHER, ""), Unavailable)
        self.assertEqual(decode_state(real.read_bytes()), STATE)

    def test_lock_is_a_symbolic_link(self) -> None:
        """The lock is no way to make a file elsewhere."""
        self.path.parent.mkdir()
        elsewhere = self.home / "victim"
        self.path.with_name("state.json.lock").symlink_to(elsewhere)
        self.failureResultOf(self.store().save(STATE, ""), Unavailable)
        self.assertFalse(elsewhere.exists())

    def test_foreign(self) -> None:
        """Another user's file is refused, for reset too; the sentence names both."""

        class Foreign(Disk):
            def euid(self) -> int:
                return super().euid() + 1

        self.save(STATE, "")
        disk = Foreign()
        sentence = self.unavailable(disk)
        self.assertIn(f"user {os.geteuid()}", sentence)
        self.assertIn(f"runs as {disk.euid()}", sentence)
        self.failureResultOf(self.store(disk).reset(), Unavailable)
        self.assertEqual(self.load().state, STATE)

    def test_not_a_regular_file(self) -> None:
        """A directory or a named pipe in its place is refused, and does not hang the agent."""
        self.path.parent.mkdir()
        os.mkfifo(self.path, 0o600)
        self.assertIn("not a regular file", self.unavailable())
        self.path.unlink()
        self.path.mkdir(0o700)
        self.assertIn("not a regular file", self.unavailable())


class FileTests(FileTestCase):
    """What is the file store's own."""

    def test_loading_leaves_nothing(self) -> None:
        """To look for a state makes no directory and no file."""
        self.assertEqual(self.load(), Stored(None, ""))
        self.assertFalse(self.path.parent.exists())

    def test_relative_path(self) -> None:
        """A relative path, as a setting may have it, works from the working directory."""
        directory = self.mktemp()
        store = FileStateStore(Path(directory) / "state.json", wall=wall)
        self.successResultOf(store.save(STATE, ""))
        self.assertEqual(self.successResultOf(store.load()).state, STATE)

    def test_found_when_asked(self) -> None:
        """The file is looked for at the first call, again until it is found, and not after that."""
        answers: list[Path | Unavailable] = [Unavailable("nowhere"), self.path]

        def find() -> Path:
            answer = answers.pop(0)
            if isinstance(answer, Unavailable):
                raise answer
            return answer

        store = FileStateStore(find, wall=wall)
        self.assertNotIn("state.json", store.describe())
        self.failureResultOf(store.load(), Unavailable)
        self.assertIsNone(self.successResultOf(store.load()).state)
        self.successResultOf(store.save(STATE, ""))
        self.assertIn(str(self.path), store.describe())

    def test_parent_is_a_file(self) -> None:
        """A file where a directory should be makes the store unavailable, not empty."""
        self.path.parent.write_text("")
        self.assertIn("Not a directory", self.unavailable())
        self.failureResultOf(self.store().save(STATE, ""), Unavailable)

    def test_locked(self) -> None:
        """While another process writes, a save is a conflict; to reset, or to set damage aside, must wait."""
        saved = self.save(STATE, "")

        class Locked(Disk):
            def lock(self, fd: int) -> None:
                raise BlockingIOError(errno.EWOULDBLOCK, "busy")

        self.failureResultOf(self.store(Locked()).save(OTHER, saved.version), Conflict)
        self.failureResultOf(self.store(Locked()).reset(), Unavailable)
        self.assertEqual(self.load(Locked()), saved)
        self.path.write_bytes(b"{")
        self.assertIn("another process", self.unavailable(Locked()))
        self.assertEqual(self.path.read_bytes(), b"{")

    def test_real_lock(self) -> None:
        """The lock that is asked for excludes others, and ends with the file that holds it."""
        self.save(STATE, "")
        disk = Disk()
        lock = self.path.with_name("state.json.lock")
        fd = disk.open(lock, os.O_RDWR)
        disk.lock(fd)
        self.failureResultOf(self.store().reset(), Unavailable)
        disk.close(fd)
        self.successResultOf(self.store().reset())
        self.assertIsNone(self.load().state)

    def test_lock_can_not_be_had(self) -> None:
        """A file system without locks is a reason that is said, not a race that is risked."""

        class NoLocks(Disk):
            def lock(self, fd: int) -> None:
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        sentence = str(self.failureResultOf(self.store(NoLocks()).save(STATE, ""), Unavailable).value)
        self.assertIn("No locks available", sentence)
        self.assertFalse(self.path.exists())

    def test_repaired_meanwhile(self) -> None:
        """What looked damaged while somebody was still writing it, and is whole under the lock, is used."""
        path = self.path
        self.save(STATE, "")
        whole = path.read_bytes()
        path.write_bytes(whole[:10])

        class Repairs(Disk):
            def lock(self, fd: int) -> None:
                super().lock(fd)
                path.write_bytes(whole)

        self.assertEqual(self.load(Repairs()).state, STATE)
        self.assertEqual(self.names(), ["state.json", "state.json.lock"])

    def test_damage_that_stays(self) -> None:
        """Where damage can't be set aside (a read-only disk) the store is unavailable, and it stays."""
        self.save(STATE, "")
        self.path.write_bytes(b"{")

        class ReadOnly(Disk):
            def rename(self, source: Path, target: Path) -> None:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        sentence = self.unavailable(ReadOnly())
        self.assertIn("damaged", sentence)
        self.assertIn("Read-only file system", sentence)
        self.assertEqual(self.path.read_bytes(), b"{")

    def test_names_of_what_is_set_aside(self) -> None:
        """What is set aside carries the reason and the time, and never replaces what was set aside before."""
        self.path.parent.mkdir()
        for number in range(3):
            self.path.write_bytes(b"%d" % number)
            self.path.chmod(0o600)
            with capturedLogs() as records:
                self.load()
            self.assertEqual(records[0]["log_namespace"], "state")
            self.assertIn("state.json.damaged-", records[0]["kept"])
        self.assertEqual(
            {name: (self.path.parent / name).read_bytes() for name in self.names() if "damaged" in name},
            {
                "state.json.damaged-20251015T080000Z": b"0",
                "state.json.damaged-20251015T080000Z-1": b"1",
                "state.json.damaged-20251015T080000Z-2": b"2",
            },
        )

    def test_errors_on_the_way(self) -> None:
        """A call that fails while writing leaves the old state, no rubbish, and says the system's reason."""
        saved = self.save(STATE, "")
        for step in ("write", "fsync", "rename"):

            class Full(Disk):
                pass

            def fail(*_: object) -> int:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            setattr(Full, step, fail)
            failure = self.failureResultOf(self.store(Full()).save(OTHER, saved.version), Unavailable)
            self.assertIn("No space left on device", str(failure.value))
            self.assertEqual(self.load(), saved)
            self.assertEqual(self.names(), ["state.json", "state.json.lock"])

    def test_directory_that_can_not_be_synced(self) -> None:
        """A file system that can't sync a directory is no obstacle; any other error in doing so is one."""

        class Odd(Disk):
            error = errno.EINVAL

            def fsync(self, fd: int) -> None:
                if stat.S_ISDIR(os.fstat(fd).st_mode):
                    raise OSError(self.error, os.strerror(self.error))
                super().fsync(fd)

        disk = Odd()
        saved = self.save(STATE, "", disk)
        disk.error = errno.EIO
        self.failureResultOf(self.store(disk).save(OTHER, saved.version), Unavailable)
