"""C{python -m pipeops_agent.watch} as people run it, on a running agent."""

from __future__ import annotations

import json
import os
import sys

from twisted.internet.utils import getProcessOutputAndValue

from pipeops_agent.scheduling import bounded
from tests.agent.house import REACTOR, TOKEN, House


class WatchTests(House):
    """The program, its output and its status."""

    timeout = 60

    async def watch(self, command: str, token: str = TOKEN.reveal()) -> tuple[str, str, int]:
        """What C{$WATCH}, as part of a shell's command, writes to both outputs, and the status."""
        environ = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C",
            "WATCH": f"{sys.executable} -m pipeops_agent.watch",
            "PIPEOPS_WATCH_URL": f"http://127.0.0.1:{self.agent.settings.server.port}",
            "PIPEOPS_WATCH_TOKEN": token,
        }
        running = getProcessOutputAndValue("/bin/sh", ["-c", command], environ, reactor=REACTOR)
        out, errors, status = await bounded(REACTOR, 40, running, command)
        return out.decode("ascii"), errors.decode("ascii"), status

    async def start(self) -> None:
        """An agent that is well."""
        self.start_sandbox()
        self.start_agent()
        await self.until_connected()

    async def test_status(self) -> None:
        """How the agent is, for people and for programs."""
        await self.start()
        out, errors, status = await self.watch("$WATCH status")
        self.assertEqual((errors, status), ("", 0))
        self.assertTrue(out.startswith(f"{self.known.agent_id} "), out)
        self.assertIn("healthy, running", out)
        out, _, status = await self.watch("$WATCH --json status")
        self.assertEqual((json.loads(out)["agent"]["agent_id"], status), (self.known.agent_id, 0))

    async def test_metrics_into_a_pipe(self) -> None:
        """Whoever reads no more ends it, without a word."""
        await self.start()
        out, errors, _ = await self.watch("$WATCH metrics --interval 0.1 | head -2")
        self.assertEqual((len(out.splitlines()), errors), (2, ""))

    async def test_wrong_token(self) -> None:
        """Refused: one line, status 1, and the token nowhere."""
        await self.start()
        out, errors, status = await self.watch("$WATCH status", token="wrong-token-of-somebody")
        self.assertEqual((out, status, len(errors.splitlines())), ("", 1, 1))
        self.assertIn("401", errors)
        self.assertNotIn("wrong-token", errors)
