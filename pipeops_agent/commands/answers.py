"""The shapes of what a caller is told of commands."""

from __future__ import annotations

from typing import Any

import msgspec

from pipeops_agent.cluster.log_items import What
from pipeops_agent.cluster.operations import Progress


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    A line of a log, without its end.

    @ivar time: when it was written, in RFC 3339 with nanoseconds; empty: that is not known.
    @ivar partial: it goes on in this container's next line.
    """

    line: str
    time: str = ""
    partial: bool = False


class Lines(msgspec.Struct, frozen=True, kw_only=True):
    """
    Lines of one container (C{log}).

    @ivar place: how far all containers' logs have been read: who was cut goes on from there.
    """

    namespace: str
    pod: str
    container: str
    lines: tuple[Line, ...]
    place: str = ""


class Mark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    Something about a container's log that is no line of it (C{log}).

    @ivar marker: what, for programs: see L{LogMarker<pipeops_agent.cluster.log_items.LogMarker>}; the other
        fields are its.
    """

    namespace: str
    pod: str
    container: str
    marker: What
    message: str
    exit_code: int | None = None
    reason: str = ""
    since: str = ""
    until: str = ""


class LogEnd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    Nothing more comes of a log (C{log_end}).

    @ivar reason: the last marker of a single container's log, C{end} for several.
    """

    reason: str
    message: str = ""
    exit_code: int | None = None


class Output(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    Something that a command has written, or how far it is (C{command_output}).

    @ivar output: text; where the command was asked to encode it, base64.
    @ivar stream: which of the two a process has written it to; empty: no process has.
    @ivar progress: of an operation; C{output} is then the same as a line for people.
    @ivar marker: of logs: what has happened to one beside its lines; C{output} is then empty.
    @ivar room: input, which was refused for want of room, is taken again.
    """

    output: str = ""
    stream: str = ""
    progress: Progress | None = None
    marker: Mark | None = None
    room: bool = False


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a command has ended (C{command_response}).

    @ivar output: what has not been in a C{command_output}.
    @ivar error: a sentence; None: there was no error.
    @ivar code: what was wrong, for programs; empty: nothing.
    @ivar exit_code: of a process; None: there was none, or how it ended is not known.
    @ivar duration: in seconds.
    @ivar result: what an operation has found or done.
    """

    success: bool
    duration: float
    output: str = ""
    error: str | None = None
    code: str = ""
    exit_code: int | None = None
    result: Any = None


class ProxyPart(msgspec.Struct, frozen=True, kw_only=True):
    """
    An answer of the Kubernetes API, or a part of it (C{proxy_response}).

    @ivar status_code: and C{headers}: in the first part alone.
    @ivar body: in base64.
    @ivar chunk: which part, counted from 0.
    @ivar done: whether it is the last.
    @ivar room: no part: input, which was refused for want of room, is taken again.
    """

    status_code: int | msgspec.UnsetType = msgspec.UNSET
    headers: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    body: bytes = b""
    chunk: int = 0
    done: bool = False
    room: bool | msgspec.UnsetType = msgspec.UNSET


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What has come of a command: see L{Ended}."""

    success: bool = True
    error: str | None = None
    code: str = ""
    exit_code: int | None = None
    result: Any = None
