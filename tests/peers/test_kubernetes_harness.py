"""Tests of L{tests.peers.kubernetes}: what is started also ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import TestCase

from pipeops_agent.scheduling import sleep
from tests.peers.kubernetes import api_server
from tests.peers.kubernetes.running import KUBE
from tests.peers.processes import real_reactor

_STARTS = """
import sys
from tests.peers.kubernetes import api_server
print(api_server().directory, flush=True)
sys.stdin.read()
"""


def left(directory: Path) -> bool:
    """Whether anything is left of a cluster; its namespace goes with its processes."""
    return directory.exists() or Path(f"/run/netns/pipeops-kube-{directory.name}").exists()


def kill_children(pid: int) -> None:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split():
        os.kill(int(child), signal.SIGKILL)


class EndTests(TestCase):
    """A process that started a cluster is killed."""

    timeout = 240

    def setUp(self) -> None:
        api_server()  # or skip, with the reason

    def start(self) -> tuple[subprocess.Popen[str], Path]:
        """Let another process start a cluster; return that, and the cluster's directory."""
        process = subprocess.Popen(
            [sys.executable, "-c", _STARTS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stdin.close)
        return process, Path(process.stdout.readline().strip())

    async def until_gone(self, directory: Path) -> None:
        end = real_reactor().seconds() + 60
        while left(directory):
            self.assertLess(real_reactor().seconds(), end, "it is still there")
            await sleep(real_reactor(), 0.1)

    async def test_killed(self) -> None:
        """The cluster goes down by itself."""
        process, directory = self.start()
        process.kill()
        await self.until_gone(directory)

    async def test_both_killed(self) -> None:
        """Killed together with what would have taken the cluster down, it is cleared away by the next."""
        process, directory = self.start()
        kill_children(process.pid)
        process.kill()
        self.assertTrue(directory.exists())

        def swept() -> bool:
            subprocess.run([str(KUBE), "sweep"], check=True, capture_output=True, timeout=60)
            return not directory.exists()

        end = real_reactor().seconds() + 60
        while not swept():  # what the killed one waited for holds its lock until it sees the end of its input
            self.assertLess(real_reactor().seconds(), end, "it is still there")
            await sleep(real_reactor(), 0.1)
        await self.until_gone(directory)
