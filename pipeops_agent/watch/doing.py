"""What each action of the command line does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import msgspec

from pipeops_agent.scheduling import sleep
from pipeops_agent.watch.client import AgentClient, WatchError
from pipeops_agent.watch.command import Message, send_command
from pipeops_agent.watch.following import follow
from pipeops_agent.watch.options import command_of
from pipeops_agent.watch.shown import Lines, as_json, event_json, event_line, health_lines, runtime_line
from pipeops_agent.watch.sse import ServerEvent

Write = Callable[[str], None]
"""Writes a line, without its end."""


class Doing:
    """
    Does one thing.

    @param out: writes what was asked for; C{say} what is to be known besides.
    """

    def __init__(self, client: AgentClient, options: argparse.Namespace, out: Write, say: Write) -> None:
        self._client = client
        self._options = options
        self._out = out
        self._say = say
        self._lines = Lines(out)

    async def run(self) -> int:
        """
        Do it, and return the exit status.

        @raise WatchError: it can't be done.
        """
        action: Callable[[], Any] = getattr(self, f"_{self._options.action}")
        status: int = await action()
        return status

    async def _status(self) -> int:
        health = await self._client.get("/api/health/detailed")
        for line in [as_json(health)] if self._options.json else health_lines(health):
            self._out(line)
        return 0 if health["status"] in ("healthy", "standby") else 1

    async def _metrics(self) -> int:
        while True:
            figures = await self._client.get("/api/metrics/runtime")
            self._out(as_json(figures) if self._options.json else runtime_line(figures))
            await sleep(self._client.reactor, self._options.interval)

    async def _events(self) -> int:
        channels = ",".join(self._options.channels)
        query = f"?{urlencode({'channels': channels})}" if channels else ""
        await follow(self._client, f"/api/realtime/events{query}", self._show, self._say)
        return 0

    async def _logs(self) -> int:
        options = self._options
        asked: dict[str, Any] = {}
        if options.pod:
            namespace, slash, pod = options.pod.partition("/")
            if not (namespace and slash and pod):
                raise WatchError(f"expected NAMESPACE/POD, got {options.pod}")
            asked = {"namespace": namespace, "pod": pod}
        asked |= {"container": options.container} if options.container else {}
        asked |= {"tail": options.tail} if options.tail is not None else {}
        asked |= {} if options.follow else {"follow": "false"}
        query = f"?{urlencode(asked)}" if asked else ""
        path = f"/api/realtime/logs{query}"
        await follow(self._client, path, self._show, self._say, once=not options.follow)
        return 0

    async def _send(self) -> int:
        command = command_of(self._options, msgspec.json.decode)
        return 0 if await send_command(self._client, command, self._show_message) else 1

    def _show(self, event: ServerEvent) -> None:
        self._out(event_json(event) if self._options.json else event_line(event))

    def _show_message(self, message: Message) -> None:
        if self._options.json:
            self._out(as_json({"type": message.type, "data": message.data}))
            return
        if message.type not in ("command_output", "command_response"):
            return
        output, error = (message.data.get(name) for name in ("output", "error"))
        if isinstance(output, str):
            self._lines.add(output)
        if message.type == "command_response":
            self._lines.end()
            if error:
                self._say(str(error))
