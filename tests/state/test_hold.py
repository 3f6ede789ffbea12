"""Tests for L{pipeops_agent.state.hold}: who lives by a state."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

from pipeops_agent.state import Disk, Unavailable
from pipeops_agent.state.hold import Hold
from tests.contracts.state_store import OTHER, STATE
from tests.state.support import BrokenDisk, FileTestCase

HOLD_AND_DIE = """\
import os, signal, sys
from pathlib import Path
from pipeops_agent.state import Disk
from pipeops_agent.state.hold import Hold
held = Hold(Disk()).take(Path(sys.argv[1]))
print(held, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


class NoLocks(Disk):
    """A file system that knows no locks."""

    def lock(self, fd: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


class HoldTests(FileTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.save(STATE, "")

    def hold(self, disk: Disk | None = None) -> Hold:
        hold = Hold(disk or Disk())
        self.addCleanup(hold.release)
        return hold

    def test_one_at_a_time(self) -> None:
        """The second is told of the first, and gets it once that has let go; asking again changes nothing."""
        first, second = self.hold(), self.hold()
        self.assertEqual([first.take(self.path), first.take(self.path)], [True, True])
        self.assertFalse(second.take(self.path))
        first.release()
        self.assertTrue(second.take(self.path))
        self.assertFalse(first.take(self.path))

    def test_killed(self) -> None:
        """A process that was killed holds nothing, though it has tidied nothing up."""
        command = [sys.executable, "-c", HOLD_AND_DIE, str(self.path.resolve())]
        checkout = str(Path(__file__).resolve().parents[2])
        done = subprocess.run(command, capture_output=True, check=False, env={"PYTHONPATH": checkout})
        self.assertEqual((done.returncode, done.stdout), (-signal.SIGKILL, b"True\n"))
        self.assertIn("state.json.agent", self.names())
        self.assertTrue(self.hold().take(self.path))

    def test_no_lock_to_be_had(self) -> None:
        """On a read-only disk, or one without locks, nobody is kept from anything."""
        broken = BrokenDisk()
        broken.error = errno.EROFS
        for disk in (broken, NoLocks()):
            first, second = self.hold(disk), self.hold(disk)
            self.assertTrue(first.take(self.path))
            self.assertTrue(second.take(self.path))

    def test_writing_goes_on(self) -> None:
        """The holder, and whoever else may, writes as ever."""
        self.assertTrue(self.hold().take(self.path))
        self.save(OTHER, self.load().version)
        self.assertEqual(self.load().state, OTHER)

    def test_no_reset(self) -> None:
        """A state that an agent lives by is not reset: it would write it back, or live on without it."""
        hold = self.hold()
        hold.take(self.path)
        refused = self.failureResultOf(self.store().reset(), Unavailable).value
        self.assertIn("an agent is running with it; stop that one first", str(refused))
        self.assertEqual(self.load().state, STATE)
        hold.release()
        self.successResultOf(self.store().reset())
        self.assertIsNone(self.load().state)
