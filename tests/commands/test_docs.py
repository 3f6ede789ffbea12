"""C{docs/commands.md}: its examples are messages that are understood, and it leaves no command out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.caller import Grant
from pipeops_agent.cluster.operations import Command, Kit, Operations, parsed
from pipeops_agent.commands.desk import TYPES
from pipeops_agent.commands.messages import log_request_of
from pipeops_agent.commands.pod_logs import LogArguments
from pipeops_agent.commands.processes import ProcessArguments
from pipeops_agent.commands.proxied import ProxyMessage
from pipeops_agent.web.websocket.messages import Input, LogQuery, Resize, decode, decode_data

PAGE = (Path(__file__).parents[2] / "docs/commands.md").read_text()
KINDS: dict[str, Any] = {
    "command": Command,
    "logs": LogQuery,
    "proxy": ProxyMessage,
    "input": Input,
    "resize": Resize,
}


def messages() -> list[tuple[str, Any]]:
    """The examples: the message's type, and its data."""
    texts = [
        line for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
    ]
    found = [decode(text.encode()) for text in texts]
    return [(each.type, decode_data(each.data, KINDS[each.type])) for each in found]


class PageTests(SynchronousTestCase):
    """The page."""

    def test_examples(self) -> None:
        """Each is a message whose arguments its command has."""
        for name, data in messages():
            if name == "logs":
                log_request_of(data)
            if name == "command" and data.type in Operations.types:
                Operations(cast(Kit, None)).check(data)  # which does nothing
            elif name == "command":
                parsed(LogArguments if data.type == "logs" else ProcessArguments, data.args, data.type)

    def test_all(self) -> None:
        """Every command has an example, and a line that says who may; every message has an example."""
        shown = {data.type for name, data in messages() if name == "command"}
        self.assertEqual(TYPES - shown - {"deploy"}, set())
        self.assertEqual({name for name, _ in messages()}, set(KINDS))
        (table,) = re.findall(r"\| command \| the scope.*?\n\n", PAGE, re.DOTALL)
        self.assertEqual(TYPES - set(re.findall(r"`(\w+)`", table)), set())

    def test_scopes(self) -> None:
        """The scopes are scopes, for the command that they stand beside."""
        (table,) = re.findall(r"\| command \| the scope.*?\n\n", PAGE, re.DOTALL)
        for line in table.splitlines()[2:]:
            if not line:
                continue
            names, scopes, _ = line.strip("|").split("|")
            (scope, *_) = re.findall(r"`((?:read|operate):[^`]+)`", scopes)
            self.assertLessEqual(Grant.parse(scope).verbs, set(re.findall(r"`(\w+)`", names)), line)

    def test_json(self) -> None:
        """What an example has as a body is what it says."""
        (body,) = [data.body for name, data in messages() if name == "proxy" and data.body]
        self.assertEqual(json.loads(body)["kind"], "ConfigMap")
