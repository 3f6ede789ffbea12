"""The operations that answer with a stream, and what they are asked with."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from pipeops_agent.cluster.operations import Command
from pipeops_agent.events import CHANNELS
from pipeops_agent.realtime.agent_logs import RECORDS
from pipeops_agent.web.access import OPERATE
from pipeops_agent.web.answers import Error
from pipeops_agent.web.api.operation import Answer, Operation

MAX_TAIL: Final = 1_000_000
"""Lines of the end of a pod's log."""

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
    labels: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=4096,
            description="In place of a pod: the logs of all pods that this label selector selects there.",
            extra={"expected": "a label selector"},
        ),
    ] = ""
    tail: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=MAX_TAIL)] | None,
        msgspec.Meta(
            description="Begin with so many lines from before; else with all of a pod's, and with none of the"
            f" agent's own log, which keeps {RECORDS}.",
            extra={"expected": f"an integer from 0 to {MAX_TAIL}"},
        ),
    ] = None
    follow: Annotated[
        bool,
        msgspec.Meta(
            description="Go on with what is new; else the stream ends with the present end.",
            extra={"expected": "true or false"},
        ),
    ] = True

    since_seconds: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)] | None,
        msgspec.Meta(
            description="Of a pod's log: only what is not older.",
            extra={"expected": "an integer, the seconds"},
        ),
    ] = None
    since_time: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=64,
            description="Of a pod's log: only what is younger than this time (RFC 3339).",
            extra={"expected": "a time"},
        ),
    ] = ""
    previous: Annotated[
        bool,
        msgspec.Meta(
            description="Of a pod's log: the container's run before the present one.",
            extra={"expected": "true or false"},
        ),
    ] = False

    @property
    def of_pods(self) -> bool:
        """Whether it is about pods."""
        return bool(self.namespace or self.pod or self.container or self.labels)


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
    text=f"Server-sent events. {_LAST} A pod's log needs `read` for `logs` of `pods` there. That the API"
    " server refuses it is an event `error`.",
    query=LogsQuery,
    partly=True,
    answers={
        200: Answer("Log records, or lines, until one of both sides ends it.", content_types=_EVENTS),
    },
)
COMMANDS: Final = Operation(
    path="/api/commands",
    method="POST",
    name="run_command",
    summary="Have something done in the cluster",
    text="The same as the message `command` on `/ws`, for where WebSockets are blocked: each message that"
    " would come there is an event. Whoever closes the connection has cancelled. `get_resources` and `logs`"
    " need `read`, all else `operate`.",
    needs=OPERATE,
    partly=True,
    body=Command,
    answers={200: Answer("What comes of the command, up to its end.", content_types=_EVENTS)},
)
