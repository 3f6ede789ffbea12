"""An operation as a line of the table of routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from pipeops_agent.caller import Caller
from pipeops_agent.web import replies
from pipeops_agent.web.access import Access
from pipeops_agent.web.api.operation import Operation
from pipeops_agent.web.api.query import read_query
from pipeops_agent.web.replies import Reply
from pipeops_agent.web.request import AgentRequest
from pipeops_agent.web.routes import Parameters, Route

Query = TypeVar("Query", bound=msgspec.Struct)

Answering = Callable[[Caller, Any], Any]
"""Takes who asks and the operation's query; gives its answer, or something to await it from."""


def serve(access: Access, operation: Operation, answer: Answering) -> Route:
    """The route of an operation that needs a scope: who asks first, then what, then the answer."""
    scope = operation.needs
    assert scope is not None

    async def handle(request: AgentRequest, parameters: Parameters) -> Reply:
        caller = await access.require(request, scope, partly=operation.partly)
        query = read_query(request.uri.partition(b"?")[2], operation.query)
        value = answer(caller, query)
        return replies.json(await value if isinstance(value, Awaitable) else value)

    return Route(operation.method, operation.path, handle)
