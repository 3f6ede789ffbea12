"""How many clients of one kind there may be at one time."""

from __future__ import annotations

from pipeops_agent.web.replies import Refusal


def check_room(there: int, most: int, *, stopping: bool) -> None:
    """
    See whether one more client may come.

    @raise Refusal: 503.
    """
    if stopping:
        raise Refusal(503, "stopping", "the agent is stopping", ("Retry-After", "5"))
    if there >= most:
        message = f"{most} clients are connected, as many as may be (realtime.max_connections)"
        raise Refusal(503, "too_many_connections", message, ("Retry-After", "5"))
