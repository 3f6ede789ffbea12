"""The shapes of messages, both ways."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec

MAX_NAME: Final = 64
"""Characters of a message's type."""
MAX_ID: Final = 128
"""Characters of an id, which is the client's own."""
MAX_SIDE: Final = 10_000
"""Characters of a terminal's side."""


class MessageError(Exception):
    """
    A message that is not done as asked; it becomes an C{error}.

    @ivar code: for programs: C{unknown_type}; the exception's text is for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Incoming(msgspec.Struct, frozen=True):
    """
    A message to the agent.

    @ivar data: decoded when it is known of what type it must be.
    """

    type: str
    id: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"{}")


class Outgoing(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message from the agent. C{id} is that of the request which it answers."""

    type: str
    timestamp: datetime
    data: Any
    id: str | None = None


class Nothing(msgspec.Struct, frozen=True):
    """The data of a message that needs none; what is there is not looked at."""


class SessionKey(msgspec.Struct, frozen=True):
    """
    Of C{session}.

    @ivar key: what signing in has answered with.
    """

    key: str


class Channels(msgspec.Struct, frozen=True):
    """Of C{subscribe} and C{unsubscribe}."""

    channels: tuple[str, ...]


class Which(msgspec.Struct, frozen=True):
    """Of C{cancel}: the id of what runs."""

    id: str


class Input(msgspec.Struct, frozen=True):
    """For what runs by the message's id: text, or the end of it."""

    data: str = ""
    eof: bool = False


class Resize(msgspec.Struct, frozen=True):
    """For what runs by the message's id in a terminal: its size in characters."""

    cols: Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]
    rows: Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]


class LogQuery(msgspec.Struct, frozen=True):
    """
    Of C{logs}. Without namespace, pod and labels: the agent's own log records, of which C{tail} and C{follow}
    can be said; else see L{LogArguments<pipeops_agent.commands.pod_logs.LogArguments>}.

    @ivar tail: so many of the last ones; None: of the agent's own none, of a pod's all.
    """

    namespace: str = ""
    pod: str = ""
    container: str = ""
    labels: str = ""
    tail: int | None = None
    follow: bool = True
    since_seconds: float | None = None
    since_time: str = ""
    after: str = ""
    previous: bool = False

    @property
    def of_pods(self) -> bool:
        """Whether it is about pods."""
        return bool(self.namespace or self.pod or self.container or self.labels)


_incoming: Final = msgspec.json.Decoder(Incoming)
_encode: Final = msgspec.json.Encoder().encode


def decode(text: bytes) -> Incoming:
    """
    Read a message.

    @raise MessageError: it is none.
    """
    try:
        message = _incoming.decode(text)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise MessageError("bad_message", f"expected a JSON object with a type: {_why(problem)}") from None
    if len(message.type) > MAX_NAME:
        raise MessageError("bad_message", f"a type has at most {MAX_NAME} characters")
    if message.id is not None and len(message.id) > MAX_ID:
        raise MessageError("bad_message", f"an id has at most {MAX_ID} characters")
    return message


def decode_data(data: msgspec.Raw, kind: type[Any]) -> Any:
    """
    Read a message's data as C{kind}.

    @raise MessageError: it is something else.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise MessageError("bad_data", _why(problem)) from None


def encode(name: str, now: datetime, data: Any, request: str | None = None) -> bytes:
    """A message from the agent as JSON."""
    return _encode(Outgoing(name, now, data, request))


def _why(problem: Exception) -> str:
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    return str(problem)
