"""Tests for L{pipeops_agent.state.find_state_file}."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.state import (
    Disk,
    FileStateStore,
    Unavailable,
    encode_state,
    find_state_file,
    kept_state_files,
    state_places,
)
from tests.contracts.state_store import STATE
from tests.state.support import BrokenDisk, wall


class ClosedDisk(Disk):
    """
    A disk as another user sees it: some directories can't be searched, some not be written.

    The tests run as root too, whom no mode keeps out, so this says what the system would.
    """

    def __init__(self, *, closed: tuple[Path, ...] = (), read_only: tuple[Path, ...] = ()) -> None:
        self._closed = closed
        self._read_only = read_only

    def _search(self, path: Path) -> None:
        if any(directory in path.parents for directory in self._closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        self._search(path)
        return super().open(path, flags, mode)

    def lstat(self, path: Path) -> os.stat_result:
        self._search(path)
        return super().lstat(path)

    def may_write(self, directory: Path) -> bool:
        return directory not in (*self._read_only, *self._closed) and super().may_write(directory)


class PlacesTests(SynchronousTestCase):
    """Where the file is when no setting names it."""

    def setUp(self) -> None:
        root = Path(self.mktemp()).absolute()
        self.var, self.xdg, self.home = root / "var", root / "xdg", root / "home"
        for directory in (self.var, self.xdg, self.home):
            directory.mkdir(parents=True)
        self.system = self.var / "pipeops"
        self.environ = {"XDG_STATE_HOME": str(self.xdg)}
        self.places = [
            self.system / "state.json",
            self.xdg / "pipeops" / "state.json",
            self.home / ".local" / "state" / "pipeops" / "state.json",
        ]

    def find(self, disk: Disk | None = None) -> Path:
        return find_state_file(self.environ, self.home, system=self.system, disk=disk)

    def kept(self, disk: Disk | None = None) -> list[Path]:
        return kept_state_files(self.environ, self.home, system=self.system, disk=disk)

    def put(self, place: Path, mode: int = 0o600) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encode_state(STATE))
        place.chmod(mode)

    def test_kept(self) -> None:
        """Every place where something is, in their order; none where nothing is."""
        self.assertEqual(self.kept(), [])
        self.put(self.places[2])
        self.put(self.places[0])
        self.assertEqual(self.kept(), [self.places[0], self.places[2]])

    def test_kept_unseen(self) -> None:
        """A place that can't be looked into may hold one: a directory of ours that is closed, not a home."""
        self.put(self.places[1])
        self.system.mkdir()
        self.assertEqual(self.kept(ClosedDisk(closed=(self.system,))), self.places[:2])
        self.assertEqual(self.kept(ClosedDisk(closed=(self.home,))), self.places[1:2])

    def test_places(self) -> None:
        """The places, in their order."""
        self.assertEqual(state_places(self.environ, self.home, self.system), self.places)
        self.assertEqual(state_places({}, Path("/root"))[0], Path("/var/lib/pipeops/state.json"))

    def test_places_that_do_not_count(self) -> None:
        """A relative or empty XDG_STATE_HOME and a relative home are no places; one place counts once."""
        for value in ("", "state", "./state"):
            self.assertEqual(
                state_places({"XDG_STATE_HOME": value}, Path("home"), self.system), [self.places[0]]
            )
        environ = {"XDG_STATE_HOME": str(self.home / ".local" / "state")}
        self.assertEqual(state_places(environ, self.home, self.system), [self.places[0], self.places[2]])

    def test_first_writable(self) -> None:
        """Without any state it is the first place that can be written, made or not, and none is made."""
        self.assertEqual(self.find(), self.places[0])
        self.assertEqual(self.find(ClosedDisk(read_only=(self.var,))), self.places[1])
        self.assertEqual(self.find(ClosedDisk(read_only=(self.var, self.xdg))), self.places[2])
        self.assertFalse(self.system.exists())

    def test_nowhere(self) -> None:
        """Where nothing can be written that is said, with all that was tried."""
        disk = ClosedDisk(read_only=(self.var, self.xdg, self.home))
        with self.assertRaises(Unavailable) as caught:
            self.find(disk)
        for place in self.places:
            self.assertIn(str(place.parent), str(caught.exception))

    def test_existing_in_a_later_place(self) -> None:
        """A state in a later place is used, though an earlier place could be written by now."""
        self.put(self.places[2])
        self.assertEqual(self.find(), self.places[2])
        self.put(self.places[1])
        self.assertEqual(self.find(), self.places[1])

    def test_readable_before_unreadable(self) -> None:
        """A state that can be read goes before one that can't."""
        self.put(self.places[0], 0o644)
        self.put(self.places[2])
        self.assertEqual(self.find(), self.places[2])

    def test_unreadable_before_new(self) -> None:
        """A state that can't be read is not replaced by a new one elsewhere."""
        self.put(self.places[1], 0o644)
        self.assertEqual(self.find(), self.places[1])

    def test_closed_directory(self) -> None:
        """A directory that another user's agent made, closed to us, may hold our identity: that is said."""
        self.put(self.places[0])
        disk = ClosedDisk(closed=(self.system,))
        self.assertEqual(self.find(disk), self.places[0])
        store = FileStateStore(self.places[0], wall=wall, disk=disk)
        self.failureResultOf(store.load(), Unavailable)
        self.failureResultOf(store.reset(), Unavailable)

    def test_closed_home(self) -> None:
        """A home that is not ours (HOME=/root in a container) is passed over."""
        disk = ClosedDisk(closed=(self.home,), read_only=(self.xdg,))
        self.assertEqual(self.find(disk), self.places[0])
        disk = ClosedDisk(closed=(self.home,), read_only=(self.var, self.xdg))
        with self.assertRaises(Unavailable):
            self.find(disk)

    def test_unreadable_disk(self) -> None:
        """A place that the disk can't tell about may hold our identity."""
        disk = BrokenDisk()
        disk.error = errno.EIO
        self.assertEqual(self.find(disk), self.places[0])

    def test_file_where_a_directory_should_be(self) -> None:
        """Such a place holds nothing and can't be made."""
        self.system.write_text("")
        self.assertEqual(self.find(), self.places[1])
