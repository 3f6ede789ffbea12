"""Staying with a stream: where it is cut it is asked for again, behind the last event that came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pipeops_agent.scheduling import sleep
from pipeops_agent.watch.client import AgentClient, Lost, Refused
from pipeops_agent.watch.sse import EventParser, EventTooLong, ServerEvent

RETRY: Final = 3.0
"""Seconds until a stream is asked for again, where the agent does not say otherwise."""

LONGEST: Final = 60.0
"""The most seconds, whatever it says."""


async def follow(
    client: AgentClient,
    path: str,
    show: Callable[[ServerEvent], None],
    say: Callable[[str], None],
    *,
    once: bool = False,
) -> None:
    """
    Let C{show} have every event, for ever.

    @param say: told why there is a pause.
    @param once: until the stream ends by itself.
    @raise WatchError: the agent refuses, or what answers is none.
    """
    parser = EventParser()

    def take(data: bytes) -> None:
        for event in parser.feed(data):
            show(event)

    while True:
        headers = {"Last-Event-ID": parser.last_id} if parser.last_id else {}
        wait = None
        try:
            await client.stream(path, headers, take)
        except Lost as error:
            reason = str(error)
        except Refused as error:
            if not error.temporary:
                raise
            reason, wait = str(error), error.retry_after
        except EventTooLong as error:
            raise Lost(f"{client.target.url}: {error}") from None
        else:
            if once:
                return
            reason = "the agent has ended the stream"
        parser.cut()
        if wait is None:
            wait = RETRY if parser.retry is None else parser.retry / 1000
        wait = min(LONGEST, max(0.1, wait))
        say(f"{reason}; asking again in {wait:g} s")
        await sleep(client.reactor, wait)
