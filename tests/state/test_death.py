"""Tests for L{pipeops_agent.state.FileStateStore}: what a process leaves that dies while it writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pipeops_agent
from pipeops_agent.state import (
    Disk,
    FileStateStore,
    State,
    encode_state,
)
from tests.contracts.state_store import OTHER, STATE
from tests.state.support import FileTestCase


class Killed(BaseException):
    """The process is dead: nothing that it would still do happens."""


class MortalDisk(Disk):
    """
    Lets the process die at its n-th system call: before it, or for a write after some of its bytes.

    After that every call is in vain: the cleanup of a living process must not pass for that of a dead one.
    """

    def __init__(self, dies_at: int, bytes_written: int = 0) -> None:
        self.calls: list[str] = []
        self._dies_at = dies_at
        self._bytes_written = bytes_written
        self._fds: set[int] = set()
        self.dead = False

    def _step(self, name: str) -> None:
        if not self.dead:
            self.calls.append(name)
            self.dead = len(self.calls) > self._dies_at
        if self.dead:
            raise Killed(name)

    def bury(self) -> None:
        """What the system does for the dead: their files are closed, which ends their locks."""
        for fd in self._fds:
            os.close(fd)

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        self._step("open")
        fd = super().open(path, flags, mode)
        self._fds.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self._step("close")
        self._fds.discard(fd)
        super().close(fd)

    def fstat(self, fd: int) -> os.stat_result:
        self._step("fstat")
        return super().fstat(fd)

    def read(self, fd: int, size: int) -> bytes:
        self._step("read")
        return super().read(fd, size)

    def write(self, fd: int, content: bytes) -> int:
        try:
            self._step("write")
        except Killed:
            if self.calls[-1] == "write" and fd in self._fds and self._bytes_written:
                super().write(fd, content[: self._bytes_written])
                self._bytes_written = 0
            raise
        # Short writes are allowed by the system, and so must be nothing special.
        return super().write(fd, content[:64])

    def fsync(self, fd: int) -> None:
        self._step("fsync")
        super().fsync(fd)

    def lock(self, fd: int) -> None:
        self._step("lock")
        super().lock(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._step("unlink")
        super().unlink(path)

    def mkdir(self, path: Path) -> None:
        self._step("mkdir")
        super().mkdir(path)

    def lstat(self, path: Path) -> os.stat_result:
        self._step("lstat")
        return super().lstat(path)


class DeathTests(FileTestCase):
    """Killed at any step of a write, the old or the new state is there, and the next start can go on."""

    def die(self, disk: MortalDisk, act: Callable[[FileStateStore], object]) -> bool:
        """Run a coroutine of the store to its death; return whether it came to that."""
        try:
            act(self.store(disk))
        except Killed:
            pass
        finally:
            disk.bury()
        return disk.dead

    def run_save(self, state: State, version: str) -> Callable[[FileStateStore], object]:
        def act(store: FileStateStore) -> object:
            # By hand: a Deferred would make a Failure of the death.
            try:
                return store.save(state, version).send(None)
            except StopIteration as done:
                return done.value

        return act

    def steps_of_a_save(self, version: str) -> list[str]:
        disk = MortalDisk(10_000)
        self.assertFalse(self.die(disk, self.run_save(OTHER, version)))
        return disk.calls

    def test_every_call_of_a_replacement(self) -> None:
        """Death before any system call of a save over an old state."""
        calls = self.steps_of_a_save(self.save(STATE, "").version)
        self.assertIn("rename", calls)
        renamed = calls.index("rename")
        for step in range(len(calls)):
            saved = self.save(STATE, self.load().version)
            self.assertTrue(self.die(MortalDisk(step), self.run_save(OTHER, saved.version)))
            self.assertEqual(
                self.load().state, STATE if step <= renamed else OTHER, f"step {step}, {calls[step]}"
            )
            # and the next start writes as if nothing had been
            self.save(OTHER, self.load().version)
            self.assertEqual(self.names(), ["state.json", "state.json.lock"])

    def test_order_of_syncing(self) -> None:
        """
        The content reaches the disk before the name does, and the name before the save returns: else the
        death of the machine, unlike that of the process, could leave an empty file, or the old state.
        """
        calls = self.steps_of_a_save(self.save(STATE, "").version)
        renamed = calls.index("rename")
        last_write = len(calls) - calls[::-1].index("write") - 1
        self.assertEqual(calls[last_write + 1 : renamed], ["fsync", "close"])
        self.assertEqual(calls[renamed + 1 : renamed + 4], ["open", "fsync", "close"])

    def test_every_byte(self) -> None:
        """Death after any byte of the content."""
        saved = self.save(STATE, "")
        content = encode_state(OTHER)
        first_write = self.steps_of_a_save(saved.version).index("write")
        for size in range(len(content)):
            self.path.unlink()
            saved = self.save(STATE, "")
            disk = MortalDisk(first_write + size // 64, size % 64)
            self.assertTrue(self.die(disk, self.run_save(OTHER, saved.version)))
            self.assertEqual(self.path.with_name(".state.json.new").read_bytes(), content[:size])
            self.assertEqual(self.load(), saved)

    def test_every_call_of_the_first_save(self) -> None:
        """Death before any system call of the very first save, directories included."""
        step = 0
        while True:
            self.path = self.home / str(step) / "pipeops" / "state.json"
            disk = MortalDisk(step)
            died = self.die(disk, self.run_save(STATE, ""))
            self.assertIn(self.load().state, (None, STATE), disk.calls)
            self.save(OTHER, self.load().version)
            if not died:
                break
            step += 1
        self.assertGreater(step, 10)

    def test_setting_aside(self) -> None:
        """Death at any step of setting damage aside loses nothing of it."""
        step = 0
        while True:
            self.path = self.home / str(step) / "state.json"
            self.path.parent.mkdir()
            self.path.write_bytes(b"{")
            self.path.chmod(0o600)
            disk = MortalDisk(step)

            def load(store: FileStateStore) -> object:
                try:
                    return store.load().send(None)
                except StopIteration as done:
                    return done.value

            died = self.die(disk, load)
            kept = [
                path.read_bytes() for path in self.path.parent.iterdir() if path.name != "state.json.lock"
            ]
            self.assertEqual(kept, [b"{"], disk.calls)
            if not died:
                break
            step += 1
        self.assertGreater(step, 5)


_WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from pipeops_agent.secrets import Secret
from pipeops_agent.state import FileStateStore, State

def run(coroutine):
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value

store = FileStateStore(Path(sys.argv[1]), wall=lambda: datetime.now(UTC))
version = run(store.load()).version
number = 0
while True:
    number += 1
    token = Secret(str(number % 10) * 20_000)
    version = run(store.save(State(agent_id=f"agent-{number % 10}", cluster_token=token), version)).version
    if number == 1:
        print("ready", flush=True)
"""


class RealDeathTests(FileTestCase):
    """The same with a real process, really killed."""

    def test_sigkill(self) -> None:
        """A process killed at some moment of endless saving leaves a whole state, each time, and no lock."""
        for attempt in range(5):
            writer = subprocess.Popen(
                [sys.executable, "-c", _WRITER, str(self.path.absolute())],
                stdout=subprocess.PIPE,
                cwd=Path(pipeops_agent.__file__).absolute().parent.parent,
            )
            try:
                assert writer.stdout is not None
                self.assertEqual(writer.stdout.readline(), b"ready\n")
                time.sleep(0.02 + 0.013 * attempt)
            finally:
                writer.send_signal(signal.SIGKILL)
                writer.wait()
                assert writer.stdout is not None
                writer.stdout.close()
            stored = self.load()
            assert stored.state is not None
            assert stored.state.cluster_token is not None
            digit = stored.state.agent_id.removeprefix("agent-")
            self.assertEqual(stored.state.cluster_token.reveal(), digit * 20_000)
            self.save(STATE, stored.version)
            self.assertEqual(self.names(), ["state.json", "state.json.lock"])
