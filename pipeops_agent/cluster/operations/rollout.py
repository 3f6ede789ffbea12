"""Following a rollout until it is done, or can't be: with the reason."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.operations.base import (
    Arguments,
    BadRequest,
    Found,
    Kit,
    Result,
    Run,
    Target,
    locate,
)
from pipeops_agent.cluster.operations.changing import ROLLED
from pipeops_agent.cluster.operations.reasons import Problem, problems
from pipeops_agent.cluster.operations.workloads import Stand, Workload, stand
from pipeops_agent.scheduling import sleep

LOOK: Final = 2.0
"""Seconds between two looks at a workload."""


class RolloutArguments(Arguments, frozen=True, kw_only=True):
    """
    How long a rollout is followed.

    @ivar wait: until it is done or failed; False: one look.
    @ivar patience: the seconds that a problem which hardly ever passes by itself (an image that can't be
        pulled, a crash loop) must be seen before the rollout counts as failed.
    """

    wait: bool = True
    patience: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30.0


class Rollout(Result, frozen=True, kw_only=True):
    """
    What became of a rollout, or how far it is.

    @ivar reason: why it failed: that of the first problem, where that ended it; else C{DeadlineExceeded} or
        C{TimedOut}, and C{problems} says what for.
    @ivar ready: pods of the new kind that can serve, of C{wanted}.
    """

    state: Literal["done", "failed", "going on"]
    message: str
    reason: str = ""
    ready: int = 0
    wanted: int = 0
    problems: tuple[Problem, ...] = ()


async def rollout(caller: Caller, kit: Kit, target: Target, arguments: RolloutArguments, run: Run) -> Rollout:
    """
    Follow the rollout of a deployment, stateful set or daemon set.

    Fails when the deployment's own C{progressDeadlineSeconds} are over, when a lasting problem has been seen
    for C{patience} seconds without a break, or when the time of the operation is up.

    @raise BadRequest: its kind has no rollout, or nothing rolls out by itself.
    """
    kit.reach.check_name("rollout")
    found = await locate(caller, kit, target, ("get",))
    if found.resource.name not in ROLLED:
        raise BadRequest(f"{found.resource.name} have no rollout")
    api = kit.acting(caller)
    lasting_since: float | None = None
    while True:
        workload = await api.get(Workload, found.resource, found.name, namespace=found.namespace)
        now = stand(found.resource, workload)
        if now.done:
            run.say(now.message, about=found.words, done=now.ready, total=now.wanted)
            return _result("done", now, [])
        seen = await problems(api, found.resource, workload)
        said = f"{now.message}; {seen[0].sentence}" if seen else now.message
        run.say(said, about=found.words, done=now.ready, total=now.wanted)
        if not arguments.wait:
            return _result("going on", now, seen)
        if _deadline_over(workload):
            return _failed(found, now, seen, "DeadlineExceeded", "it made no progress within its deadline")
        if not (seen and seen[0].lasting):
            lasting_since = None
        elif lasting_since is None:
            lasting_since = kit.clock.seconds()
        if lasting_since is not None and kit.clock.seconds() - lasting_since >= arguments.patience:
            return _failed(found, now, seen, seen[0].reason, "it can't go on")
        if run.left <= 2 * LOOK:
            return _failed(found, now, seen, "TimedOut", "it was not done in time")
        await sleep(kit.clock, LOOK)


def _deadline_over(workload: Workload) -> bool:
    progressing = workload.condition("Progressing")
    return progressing is not None and progressing.reason == "ProgressDeadlineExceeded"


def _result(state: Literal["done", "going on"], now: Stand, seen: list[Problem]) -> Rollout:
    return Rollout(state=state, message=now.message, ready=now.ready, wanted=now.wanted, problems=tuple(seen))


def _failed(found: Found, now: Stand, seen: list[Problem], reason: str, why: str) -> Rollout:
    """The first problem, where there is one, says more than that time is up."""
    sentence = f"the rollout of {found.words} failed: {why}: "
    return Rollout(
        success=False,
        error=sentence + (seen[0].sentence if seen else now.message),
        state="failed",
        message=now.message,
        reason=reason,
        ready=now.ready,
        wanted=now.wanted,
        problems=tuple(seen),
    )
