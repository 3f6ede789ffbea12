"""Changes to one object: patch, scale, restart."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from pipeops_agent.caller import Caller
from pipeops_agent.clock import rfc3339
from pipeops_agent.cluster.call import JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH
from pipeops_agent.cluster.operations.base import (
    Arguments,
    BadRequest,
    Kit,
    Object,
    Result,
    Run,
    Target,
    counted,
    locate,
)
from pipeops_agent.cluster.operations.reading import shown
from pipeops_agent.cluster.resources import DAEMON_SETS, DEPLOYMENTS, STATEFUL_SETS

MAX_REPLICAS: Final = 100_000
"""More than any cluster runs: a slip of the keyboard is refused."""

RESTARTED_AT: Final = "kubectl.kubernetes.io/restartedAt"
"""The annotation that C{kubectl rollout restart} writes: whoever looks there finds this restart too."""

ROLLED: Final = frozenset({DEPLOYMENTS.name, STATEFUL_SETS.name, DAEMON_SETS.name})
"""What has a pod template and rolls it out."""

_TYPES: Final = {"merge": MERGE_PATCH, "strategic": STRATEGIC_MERGE_PATCH, "json": JSON_PATCH}


class PatchArguments(Arguments, frozen=True, kw_only=True):
    """
    How an object is changed.

    @ivar patch: an object; of C{json}, a list of operations (RFC 6902).
    @ivar kind: C{merge} (RFC 7386), C{strategic}: built-in kinds only, or C{json}.
    """

    patch: dict[str, Any] | list[dict[str, Any]]
    kind: Literal["merge", "strategic", "json"] = "merge"
    subresource: Literal["", "status", "scale"] = ""
    dry_run: bool = False


class Changed(Result, frozen=True, kw_only=True):
    """The object as it is now, or in a dry run would be."""

    item: Object
    dry_run: bool = False


class ScaleArguments(Arguments, frozen=True, kw_only=True):
    """How many pods there shall be."""

    replicas: Annotated[int, msgspec.Meta(ge=0, le=MAX_REPLICAS)]


class Scaled(Result, frozen=True, kw_only=True):
    """
    How many pods there shall be now.

    @ivar running: how many there are at this moment.
    """

    replicas: int
    running: int


class Restarted(Result, frozen=True, kw_only=True):
    """
    A restart has begun; C{rollout} follows it.

    @ivar restarted_at: what the annotation says.
    """

    restarted_at: str


class _ScaleCounts(msgspec.Struct):
    replicas: int = 0


class _Scale(msgspec.Struct):
    """C{autoscaling/v1 Scale}."""

    spec: _ScaleCounts = msgspec.field(default_factory=_ScaleCounts)
    status: _ScaleCounts = msgspec.field(default_factory=_ScaleCounts)


class _PausedSpec(msgspec.Struct):
    paused: bool = False


class _Pausable(msgspec.Struct):
    spec: _PausedSpec


async def patch(caller: Caller, kit: Kit, target: Target, arguments: PatchArguments, run: Run) -> Changed:
    """
    Change an object.

    @raise BadRequest: the patch is none of its kind.
    """
    if isinstance(arguments.patch, list) != (arguments.kind == "json"):
        raise BadRequest(f"a patch of kind {arguments.kind} is {_shape(arguments.kind)}")
    found = await locate(caller, kit, target, ("patch", *filter(None, (arguments.subresource,))))
    if arguments.subresource and arguments.subresource not in found.served.subresources:
        raise BadRequest(f"{found.resource.name} have no {arguments.subresource}")
    item = await kit.acting(caller).patch(
        Object,
        found.resource,
        found.name,
        arguments.patch,
        _TYPES[arguments.kind],
        namespace=found.namespace,
        subresource=arguments.subresource,
        dry_run=arguments.dry_run,
    )
    run.say("would pass" if arguments.dry_run else "patched", about=found.words)
    return Changed(item=shown(item), dry_run=arguments.dry_run)


def _shape(kind: str) -> str:
    return "a list of operations" if kind == "json" else "an object"


async def scale(caller: Caller, kit: Kit, target: Target, arguments: ScaleArguments, run: Run) -> Scaled:
    """
    Set how many pods there shall be, by the C{scale} subresource: CRDs that have one too.

    @raise BadRequest: its kind can't be scaled.
    """
    found = await locate(caller, kit, target, ("scale", "patch"))
    if "scale" not in found.served.subresources:
        raise BadRequest(f"{found.resource.name} can't be scaled")
    answer = await kit.acting(caller).patch(
        _Scale,
        found.resource,
        found.name,
        {"spec": {"replicas": arguments.replicas}},
        MERGE_PATCH,
        namespace=found.namespace,
        subresource="scale",
    )
    run.say(
        f"scaled to {answer.spec.replicas}, {counted(answer.status.replicas, 'pod')} now", about=found.words
    )
    return Scaled(replicas=answer.spec.replicas, running=answer.status.replicas)


async def restart(caller: Caller, kit: Kit, target: Target, arguments: Arguments, run: Run) -> Restarted:
    """
    Replace all pods, as the rollout strategy allows.

    @raise BadRequest: its kind has no rollout, or it is paused, so that nothing would happen.
    """
    found = await locate(caller, kit, target, ("restart", "patch"))
    if found.resource.name not in ROLLED:
        raise BadRequest(f"{found.resource.name} can't be restarted: only what rolls out a pod template can")
    api = kit.acting(caller)
    present = await api.get(_Pausable, found.resource, found.name, namespace=found.namespace)
    if present.spec.paused:
        raise BadRequest(f"{found.words} is paused: resume it first")
    moment = rfc3339(kit.wall())
    change = {"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: moment}}}}}
    await api.patch(
        Object, found.resource, found.name, change, STRATEGIC_MERGE_PATCH, namespace=found.namespace
    )
    run.say("restart begun", about=found.words)
    return Restarted(restarted_at=moment)
