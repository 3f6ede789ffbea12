"""Commands, pods' logs and proxied requests as messages of the WebSocket."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from pipeops_agent.access.limits import TooMany
from pipeops_agent.cluster.errors import ClusterError
from pipeops_agent.cluster.logs import LogRequest
from pipeops_agent.cluster.operations import Command
from pipeops_agent.commands.desk import Desk, Work
from pipeops_agent.commands.failures import code_of
from pipeops_agent.commands.pod_logs import LogArguments, log_request
from pipeops_agent.commands.proxied import ProxyMessage
from pipeops_agent.web.websocket.messages import LogQuery, MessageError
from pipeops_agent.web.websocket.registry import MessageType
from pipeops_agent.web.websocket.running import Call

T = TypeVar("T")


def command_messages(desk: Desk) -> list[MessageType]:
    """The types C{command} and C{proxy}; L{pod_logs} is one of C{logs}."""

    async def command(call: Call, data: Command) -> None:
        await begun(desk.command, call, data)()

    async def proxy(call: Call, data: ProxyMessage) -> None:
        await begun(desk.proxy, call, data)()

    return [
        MessageType(name="command", data=Command, handler=command, runs=True),
        MessageType(name="proxy", data=ProxyMessage, handler=proxy, runs=True),
    ]


async def pod_logs(desk: Desk, call: Call, query: LogQuery) -> None:
    """C{logs}, of pods."""
    await begun(desk.logs, call, log_request_of(query))()


def log_request_of(query: LogQuery) -> LogRequest:
    """
    What C{query} asks for.

    @raise MessageError: it can't be meant so.
    """
    fields = {name: getattr(query, name) for name in LogArguments.__struct_fields__ if hasattr(query, name)}
    try:
        arguments = msgspec.convert(fields, type=LogArguments)
        return log_request(query.namespace, query.pod, query.container, arguments)
    except msgspec.ValidationError as error:
        raise MessageError("bad_data", str(error)) from None
    except ClusterError as error:
        raise MessageError(code_of(error), error.sentence) from None


def begun(begin: Callable[[Call, T], Work], call: Call, data: T) -> Work:
    """@raise MessageError: it can't be begun."""
    try:
        return begin(call, data)
    except TooMany as error:
        raise MessageError("too_many_requests", error.sentence) from None
