"""All operations by the names that commands have (spec: C{command} on the WebSocket)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.operations.applying import ApplyArguments, SendArguments, apply, create
from pipeops_agent.cluster.operations.base import (
    Arguments,
    BadRequest,
    Kit,
    Listener,
    OutOfTime,
    Result,
    Run,
    Target,
    parsed,
)
from pipeops_agent.cluster.operations.changing import (
    PatchArguments,
    ScaleArguments,
    patch,
    restart,
    scale,
)
from pipeops_agent.cluster.operations.deleting import DeleteArguments, delete
from pipeops_agent.cluster.operations.draining import DrainArguments, cordon, drain, uncordon
from pipeops_agent.cluster.operations.reading import ReadArguments, get_resources
from pipeops_agent.cluster.operations.rollout import RolloutArguments, rollout
from pipeops_agent.scheduling import DeadlineExceeded, bounded

MAX_SECONDS: Final = 3600.0
"""The longest time that an operation may be given."""

SHORT: Final = 60.0
"""Seconds for what waits for nothing but the API server, where the command does not say."""

LONG: Final = 600.0
"""Seconds for what waits for pods."""


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What is asked for.

    @ivar type: one of L{Operations.types}.
    @ivar command: for exec; of all others empty.
    @ivar timeout: in seconds; None: as long as is usual for its type.
    """

    type: str
    target: Target = Target()
    command: tuple[str, ...] = ()
    args: dict[str, Any] = {}
    timeout: Annotated[float, msgspec.Meta(gt=0, le=MAX_SECONDS)] | None = None


_Body = Callable[[Caller, Kit, Target, Any, Run], Awaitable[Result]]


class _Operation(msgspec.Struct, frozen=True):
    body: _Body
    arguments: type[Arguments]
    seconds: float = SHORT


SAME: Final = {"apply": ("apply", "deploy"), "deploy": ("deploy", "apply")}
"""Two names of one operation: a scope may have either."""

_OPERATIONS: Final = {
    "get_resources": _Operation(get_resources, ReadArguments),
    "create": _Operation(create, SendArguments),
    "apply": _Operation(apply, ApplyArguments, LONG),
    "deploy": _Operation(apply, ApplyArguments, LONG),
    "patch": _Operation(patch, PatchArguments),
    "scale": _Operation(scale, ScaleArguments),
    "restart": _Operation(restart, Arguments),
    "delete": _Operation(delete, DeleteArguments, LONG),
    "rollout": _Operation(rollout, RolloutArguments, LONG),
    "cordon": _Operation(cordon, Arguments),
    "uncordon": _Operation(uncordon, Arguments),
    "drain": _Operation(drain, DrainArguments, LONG),
}


class Operations:
    """Runs commands."""

    types: Final = frozenset(_OPERATIONS)
    """What a command's type may be here; exec, attach, shell and logs are not."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def check(self, command: Command) -> None:
        """
        See whether C{command} can be understood, without doing anything.

        @raise BadRequest: it can't.
        """
        self._understand(command)

    async def run(self, caller: Caller, command: Command, listener: Listener) -> Result:
        """
        Do what C{command} asks for. Cancelling ends it where it is; what has been done stays done.

        @param listener: is told of the progress.
        @raise BadRequest: it makes no sense.
        @raise OutOfReach: the owner of the cluster does not allow it, or no scope of the caller's does.
        @raise ClusterError: the API says no, or nothing.
        @raise OutOfTime: it was not done in time.
        """
        operation, arguments = self._understand(command)
        seconds = operation.seconds if command.timeout is None else command.timeout
        run = Run(self._kit.clock, command.type, seconds, listener)
        asked = SAME.get(command.type, (command.type,))
        kit = msgspec.structs.replace(self._kit, reach=self._kit.reach.asking(*asked))
        body = operation.body(caller, kit, command.target, arguments, run)
        try:
            return await bounded(self._kit.clock, seconds, body, command.type)
        except DeadlineExceeded as error:
            words = " ".join(filter(None, (command.type, command.target.words)))
            last = f"; last: {run.last}" if run.last else ""
            raise OutOfTime(f"{words}: not done within {seconds:g} s{last}", retryable=True) from error

    def _understand(self, command: Command) -> tuple[_Operation, Arguments]:
        operation = _OPERATIONS.get(command.type)
        if operation is None:
            raise BadRequest(f"there is no operation {command.type[:80]!r}")
        if command.command:
            raise BadRequest(f"{command.type} takes no command")
        return operation, parsed(operation.arguments, command.args, command.type)
