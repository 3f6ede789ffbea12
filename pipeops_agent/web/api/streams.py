"""The operations that answer with a stream, and what they are asked with."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from pipeops_agent.events import CHANNELS
from pipeops_agent.realtime.agent_logs import RECORDS
from pipeops_agent.web.answers import Error
from pipeops_agent.web.api.operation import Answer, Operation

_EVENTS: Final = ("text/event-stream",)

_LAST: Final = "The header `Last-Event-ID` goes on behind that event; a `gap` says where some are lost."


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events."""

    channels: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            description=f"Of {', '.join(CHANNELS)}, with commas between them; else all that the caller may.",
            extra={"expected": "channels, with commas between them"},
        ),
    ] = ""


class LogsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which log."""

    namespace: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=63,
            description="Of a pod's log: its namespace.",
            extra={"expected": "the name of a namespace"},
        ),
    ] = ""
    pod: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=253,
            description="Of a pod's log: its name. Else the agent's own log is meant.",
            extra={"expected": "the name of a pod"},
        ),
    ] = ""
    container: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=63,
            description="Of a pod's log: one container.",
            extra={"expected": "the name of a container"},
        ),
    ] = ""
    tail: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=RECORDS,
            description="Begin with so many lines from before.",
            extra={"expected": f"an integer from 0 to {RECORDS}"},
        ),
    ] = 0
    follow: Annotated[
        bool,
        msgspec.Meta(
            description="Go on with what is new; else the stream ends with the present end.",
            extra={"expected": "true or false"},
        ),
    ] = True


WEBSOCKET: Final = Operation(
    path="/ws",
    name="open_websocket",
    summary="Everything over one WebSocket",
    text="Events, logs, commands: the messages are described in `/asyncapi.json`.",
    partly=True,
    answers={
        101: Answer("The connection is a WebSocket from now on."),
        426: Answer("This is no request for a WebSocket of version 13.", Error),
    },
)
EVENTS: Final = Operation(
    path="/api/realtime/events",
    name="follow_events",
    summary="What happens, as it happens",
    text=f"Server-sent events. {_LAST} The channel `audit` needs `operate`.",
    query=EventsQuery,
    answers={200: Answer("Events, until one of both sides ends it.", content_types=_EVENTS)},
)
LOGS: Final = Operation(
    path="/api/realtime/logs",
    name="follow_logs",
    summary="The agent's own log, or a pod's",
    text=f"Server-sent events. {_LAST}",
    query=LogsQuery,
    answers={
        200: Answer("Log records, until one of both sides ends it.", content_types=_EVENTS),
        404: Answer("There is no such log.", Error),
    },
)
