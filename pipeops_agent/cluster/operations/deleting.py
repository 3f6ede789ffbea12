"""Deleting one object, and waiting until it is gone."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.api import Propagation
from pipeops_agent.cluster.errors import StatusError
from pipeops_agent.cluster.operations.base import Arguments, Found, Kit, Result, Run, Target, locate
from pipeops_agent.scheduling import sleep

LOOK: Final = 1.0
"""Seconds between two looks at an object that is going."""


class DeleteArguments(Arguments, frozen=True, kw_only=True):
    """
    How an object is deleted.

    @ivar propagation: what happens to what it owns.
    @ivar uid: delete it only where it is this very one; so with C{resource_version}.
    @ivar missing: whether it is an error that there is no such object.
    @ivar wait: until it is gone, finalizers and all.
    """

    propagation: Propagation = "Background"
    uid: str | None = None
    resource_version: str | None = None
    grace_seconds: Annotated[int, msgspec.Meta(ge=0, le=86_400)] | None = None
    missing: Literal["error", "ignore"] = "error"
    dry_run: bool = False
    wait: bool = False


class Deleted(Result, frozen=True, kw_only=True):
    """
    What became of it.

    @ivar found: whether it was there.
    @ivar gone: whether it is known to be gone; False where nobody waited.
    """

    found: bool
    gone: bool
    dry_run: bool = False


class _Meta(msgspec.Struct, rename="camel"):
    uid: str = ""
    deletion_timestamp: str | None = None
    finalizers: list[str] = []


class _Thing(msgspec.Struct):
    metadata: _Meta


async def delete(caller: Caller, kit: Kit, target: Target, arguments: DeleteArguments, run: Run) -> Deleted:
    """
    Delete an object.

    @raise StatusError: there is none; or it is not the one of the preconditions (409).
    """
    found = await locate(caller, kit, target, ("delete",))
    api = kit.acting(caller)
    uid = arguments.uid
    try:
        if arguments.wait and uid is None:
            # Who it is must be known, so that another of its name is not waited for.
            thing = await api.get(_Thing, found.resource, found.name, namespace=found.namespace)
            uid = thing.metadata.uid
        await api.delete(
            found.resource,
            found.name,
            namespace=found.namespace,
            propagation=arguments.propagation,
            uid=uid,
            resource_version=arguments.resource_version,
            grace_seconds=arguments.grace_seconds,
            dry_run=arguments.dry_run,
        )
    except StatusError as error:
        if error.not_found and arguments.missing == "ignore":
            return Deleted(found=False, gone=True, dry_run=arguments.dry_run)
        raise
    if arguments.dry_run:
        run.say("would be deleted", about=found.words)
        return Deleted(found=True, gone=False, dry_run=True)
    run.say("deleted", about=found.words)
    if arguments.wait:
        await _until_gone(caller, kit, found, uid, run)
    return Deleted(found=True, gone=arguments.wait)


async def _until_gone(caller: Caller, kit: Kit, found: Found, uid: str | None, run: Run) -> None:
    api = kit.acting(caller)
    while True:
        try:
            thing = await api.get(_Thing, found.resource, found.name, namespace=found.namespace)
        except StatusError as error:
            if not error.not_found:
                raise
            break
        if thing.metadata.uid != uid:
            break
        holding = ", ".join(thing.metadata.finalizers[:10])
        run.say(
            f"still there, held by its finalizers: {holding}" if holding else "still there", about=found.words
        )
        await sleep(kit.clock, LOOK)
    run.say("gone", about=found.words)
