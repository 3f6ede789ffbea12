"""C{python -m pipeops_agent.watch} as people run it, on a running agent."""

from __future__ import annotations

import json
import os
import sys

from twisted.internet.utils import getProcessOutputAndValue

from pipeops_agent.scheduling import as_deferred, bounded, sleep
from tests.agent.house import REACTOR, TOKEN, House, look_until


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

    async def test_events(self) -> None:
        """What happens while it looks, after the present state; whoever reads no more ends it."""
        await self.start()
        watching = self.watch("$WATCH events agent | head -2")
        running = as_deferred(watching)
        await look_until(lambda: len(self.agent.realtime._streams), "the watch")
        while not running.called:  # it learns that nobody reads when it writes
            self.agent.board.set_registration(message="something with \x1b[2J in it")
            self.agent.board.set_registration(message="something else")
            await sleep(REACTOR, 0.1)
        out, errors, _ = await running
        first, second = out.splitlines()
        self.assertTrue(first.startswith("status: agent_id="), out)
        self.assertIn('agent.registration registration={"registered":true', second)
        self.assertIn("\\u001b[2J", second)
        self.assertEqual(errors, "")

    async def test_logs(self) -> None:
        """The last records, and the end."""
        await self.start()
        out, errors, status = await self.watch("$WATCH logs --tail 3 --no-follow")
        self.assertEqual((len(out.splitlines()), errors, status), (3, "", 0))
        out, _, _ = await self.watch("$WATCH --json logs --tail 1000 --no-follow")
        records = [json.loads(line)["data"] for line in out.splitlines()]
        self.assertIn("registered as cluster", "".join(record["msg"] for record in records))

    async def test_unknown_channel(self) -> None:
        """The agent's own words, and status 1."""
        await self.start()
        _, errors, status = await self.watch("$WATCH events nonsense")
        self.assertEqual(status, 1)
        self.assertIn("400: channels: expected of health,", errors)

    async def test_command_without_scope(self) -> None:
        """The agent's refusal, over the WebSocket, and status 1."""
        await self.start()
        _, errors, status = await self.watch("$WATCH send restart deployment/web -n shop")
        self.assertTrue(errors.startswith("forbidden: restart needs a scope for it: operate"), errors)
        self.assertEqual(status, 1)
