"""What C{/ws} says, message by message, for its description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from pipeops_agent.clock import Moment
from pipeops_agent.commands.answers import Ended, LogEnd, Output, ProxyPart
from pipeops_agent.health import FeatureState
from pipeops_agent.status import Phase
from pipeops_agent.web.answers import Problem
from pipeops_agent.web.api.health import DetailedHealth
from pipeops_agent.web.api.runtime import RuntimeFigures

Channel = Literal["health", "metrics", "tunnel", "cluster", "events", "agent", "audit"]
"""L{pipeops_agent.events.CHANNELS}, as a type."""


class Empty(msgspec.Struct, frozen=True):
    """Nothing."""


class PresentState(msgspec.Struct, frozen=True, kw_only=True):
    """
    Who this agent is and what it can do now.

    @ivar status: what the agent is doing.
    @ivar start: which run of the agent this is, and C{seq} the last event that is included.
    """

    agent_id: str | None
    cluster_id: str | None
    status: Phase
    features: dict[str, FeatureState]
    start: str
    seq: int


class Subscribed(msgspec.Struct, frozen=True):
    """The channels whose events come from now on."""

    channels: tuple[Channel, ...]


class EventData(msgspec.Struct, frozen=True, kw_only=True):
    """
    One thing that happened.

    @ivar start: which run of the agent this is; C{seq} counts within it.
    @ivar data: what belongs to C{event}.
    """

    start: str
    seq: int
    time: Moment
    channel: Channel
    event: str
    data: dict[str, Any]


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """
    What was lost because it was not read in time.

    @ivar count: how much of it was subscribed to.
    @ivar first: the number of the first one lost.
    @ivar last: the number of the last one lost.
    """

    start: str
    count: int
    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")


class Message(msgspec.Struct, frozen=True):
    """
    A message from the agent.

    @ivar data: the type of its data.
    @ivar text: when it is sent.
    """

    name: str
    data: Any
    text: str


class Request(msgspec.Struct, frozen=True):
    """
    What is to be said of a message to the agent, whose data's type is where it is handled.

    @ivar replies: the messages by which it is answered, in order.
    @ivar needs: the scope.
    """

    text: str
    replies: tuple[str, ...] = ()
    needs: str = "read"


OUTGOING: Final = (
    Message("status", PresentState, "On connecting, and after something was dropped."),
    Message("pong", Empty, "To `ping`."),
    Message("status_response", DetailedHealth, "To `get_status`."),
    Message("metrics_response", RuntimeFigures, "To `get_metrics`."),
    Message("subscribed", Subscribed, "To `subscribe` and `unsubscribe`."),
    Message("event", EventData, "Something has happened in a channel that is subscribed to."),
    Message("dropped", Dropped, "Events or log records were lost: they were not read in time."),
    Message("log", dict[str, Any], "A record of the agent's log, or lines of a pod's: `docs/commands.md`."),
    Message("log_end", LogEnd, "A log has come to its end."),
    Message("command_output", Output, "While a command runs."),
    Message("command_response", Ended, "A command has ended."),
    Message("proxy_response", ProxyPart, "A part of the Kubernetes API's answer."),
    Message("cancelled", Empty, "What ran by this id was cancelled."),
    Message("error", Problem, "A message was not understood, or not done."),
)
"""What the agent says."""

REQUESTS: Final[Mapping[str, Request]] = {
    "session": Request(
        "First on a page's connection: the key of the session whose cookie came with the request.",
        ("status",),
        "none",
    ),
    "ping": Request("Is the agent there?", ("pong",)),
    "get_status": Request("How is the agent?", ("status_response",)),
    "get_metrics": Request("What does it use?", ("metrics_response",)),
    "subscribe": Request(
        "Get the events of these channels as well; `audit` needs `operate`.", ("subscribed", "event")
    ),
    "unsubscribe": Request("Get the events of these channels no more.", ("subscribed",)),
    "logs": Request("Follow a log.", ("log", "dropped", "log_end")),
    "command": Request(
        "Do something in the cluster.", ("command_output", "command_response"), "operate, or as the command"
    ),
    "input": Request("Give this to the command that runs by the message's id."),
    "resize": Request("The terminal of the command that runs by the message's id has another size."),
    "proxy": Request("Ask the Kubernetes API.", ("proxy_response",), "operate"),
    "cancel": Request("End what runs by the id in `data`.", ("cancelled",)),
}
"""By the name of the message; what others register is described by the type of its data alone."""
