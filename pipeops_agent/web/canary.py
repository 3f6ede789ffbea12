"""C{/canary/{nonce}}: where the agent's canaries come home."""

from __future__ import annotations

from collections.abc import Callable

from pipeops_agent.web.replies import Refusal, Reply
from pipeops_agent.web.request import AgentRequest
from pipeops_agent.web.routes import Parameters, Route


def canary_route(answer_to: Callable[[str], str | None]) -> Route:
    """
    The line for the table.

    @param answer_to: the answer to a nonce; None: it is not known, and then there is nothing at this path.
    """

    def answer(request: AgentRequest, parameters: Parameters) -> Reply:
        known = answer_to(parameters["nonce"])
        if known is None:
            raise Refusal(404, "not_found", "there is nothing at this path")
        return Reply(body=known.encode(), content_type="text/plain; charset=utf-8")

    return Route("GET", "/canary/{nonce}", answer)
