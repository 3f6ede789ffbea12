"""
The running agent, asked by its own description: schemathesis makes requests of C{/openapi.json}, such as that
allows and such as it does not, and looks at every answer.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from twisted.internet.utils import getProcessOutputAndValue

from pipeops_agent.access import guesses
from pipeops_agent.scheduling import bounded
from pipeops_agent.settings.model_server import ClientLimits, LimitsSettings, TotalLimits
from tests.agent.cluster_house import ClusterHouse
from tests.agent.house import REACTOR, TOKEN, change

EXAMPLES: Final = int(os.environ.get("PIPEOPS_SCHEMATHESIS_EXAMPLES", "10"))
"""Requests for each operation and each way of making them."""

PATIENCE: Final = 200 + EXAMPLES
"""Seconds that one run may take."""

_CONFIGURATION: Final = """\
[checks.positive_data_acceptance]
# A `continue` that nobody has given is text like any other to a schema, and refused all the same.
enabled = false

[checks.negative_data_rejection]
# Also by its length alone.
expected-statuses = [400, 401, 403, 404, 414, 429]
"""


class SchemathesisTests(ClusterHouse):
    """No failure of the server, no status, header or body that is not described."""

    timeout = PATIENCE + 60

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        """An agent in the middle of its work, with a cluster."""
        super().setUp()
        self.patch(guesses, "MOST", 0.01)  # it guesses a thousand times, and would wait for each
        self.start_sandbox()
        self.start_api()
        limits = LimitsSettings(client=ClientLimits(requests=100_000), total=TotalLimits(requests=100_000))
        self.start_agent(change(self.with_kubeconfig(), server={"limits": limits}))
        await self.until_connected()
        await self.until_watched()

    async def run_schemathesis(self, *options: str) -> str:
        """Its report; it must not have found anything."""
        url = f"http://127.0.0.1:{self.agent.settings.server.port}/openapi.json"
        (self.directory / "schemathesis.toml").write_text(_CONFIGURATION)
        arguments = ["run", url, "--seed=6", f"--max-examples={EXAMPLES}", "--phases=coverage,fuzzing"]
        arguments += ["--no-color", "--warnings=off", *options]
        # It ends by itself before its test gives up, so that nothing is left behind.
        running = getProcessOutputAndValue(
            "/usr/bin/timeout",
            [str(PATIENCE), sys.executable, "-m", "schemathesis.cli", *arguments],
            {"PATH": os.environ["PATH"], "HOME": str(self.directory)},
            path=str(self.directory),
            reactor=REACTOR,
        )
        output, errors, status = await bounded(REACTOR, PATIENCE + 20, running, "schemathesis")
        report = "\n".join(line[:300] for line in (output + errors).decode().splitlines())
        self.assertEqual(status, 0, report)
        return report

    async def check(self, *options: str) -> None:
        report = await self.run_schemathesis(*options)
        self.assertIn("No issues found", report)
        self.assertNotIn("Traceback", self.logged())
        self.assertEqual(self.records(level="error"), [])

    async def test_with_a_token(self) -> None:
        """As a caller with C{read}. Streams have no end, and are tried by clients that know that."""
        token = f"Authorization: Bearer {TOKEN.reveal()}"
        await self.check("--header", token, "--exclude-path-regex=^/api/realtime/")

    async def test_without(self) -> None:
        """As a stranger."""
        await self.check()

    async def test_with_a_wrong_token(self) -> None:
        """As somebody who guesses."""
        await self.check("--header", "Authorization: Bearer wrong")
