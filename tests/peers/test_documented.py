"""The examples of C{docs/api.md}, executed as they stand there, by the programs that they name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
from twisted.internet.utils import getProcessOutputAndValue

from pipeops_agent.scheduling import bounded
from pipeops_agent.web.api.examples import EXAMPLES
from pipeops_agent.web.api.operations import OPERATIONS
from tests.agent.cluster_house import ClusterHouse
from tests.agent.house import REACTOR, TOKEN

_PAGE = Path(__file__).parents[2] / "docs" / "api.md"
_EXAMPLE = re.compile(r"^```sh\n(.*?)^```\n\n```json\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


class ExampleTests(ClusterHouse):
    """Against a running agent, with a sandbox and a cluster."""

    timeout = 120

    async def run_example(self, command: str) -> Any:
        """What a command of the page prints, which is JSON."""
        environ = {
            "PATH": os.environ["PATH"],
            "AGENT": f"http://127.0.0.1:{self.agent.settings.server.port}",
            "TOKEN": TOKEN.reveal(),
        }
        running = getProcessOutputAndValue("/bin/sh", ["-e", "-c", command], environ, reactor=REACTOR)
        output, errors, status = await bounded(REACTOR, 20, running, command)
        self.assertEqual((status, errors), (0, b""), command)
        return msgspec.json.decode(output)

    async def test_all(self) -> None:
        """Each prints what is shown: of the same schema, and what is no operation's exactly."""
        self.start_sandbox()
        self.start_api()
        self.start_agent(self.with_kubeconfig())
        await self.until_connected()
        await self.until_watched()
        document = msgspec.json.decode((await self.get("/openapi.json"))[1])
        examples = _EXAMPLE.findall(_PAGE.read_text("utf-8"))
        checked = set()
        for command, shown in examples:
            answer = await self.run_example(command)
            path = re.sub(r"\?.*", "", command.partition("$AGENT")[2].rstrip().rstrip('"'))
            if "error" in answer:
                self.assertEqual(answer, msgspec.json.decode(shown))
                continue
            method = "post" if " -X POST " in command else "get"
            described = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]
            schema = {**described["schema"], "components": document["components"]}
            jsonschema_rs.validator_for(schema, validate_formats=True).validate(answer)
            checked.add(path)
        self.assertEqual(len(examples), len(checked) + 1)
        self.assertEqual(checked, {each.path for each in OPERATIONS if each.name in EXAMPLES})
