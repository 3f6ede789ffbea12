"""Nodes: no new pods (cordon), and none at all (drain)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.call import STRATEGIC_MERGE_PATCH, Call
from pipeops_agent.cluster.errors import BadAnswer, StatusError
from pipeops_agent.cluster.operations.base import (
    Arguments,
    BadRequest,
    Found,
    Kit,
    Object,
    Result,
    Run,
    Target,
    counted,
    locate,
)
from pipeops_agent.cluster.operations.workloads import Meta
from pipeops_agent.cluster.resources import NODES, PODS
from pipeops_agent.cluster.scope import OutOfReach
from pipeops_agent.scheduling import sleep

LOOK: Final = 2.0
"""Seconds between two looks at the pods that are going, and between two attempts at one that is protected."""

MAX_PODS: Final = 5_000
"""Pods of one node; the usual limit is 110."""

MAX_NAMED: Final = 5
"""Pods that a message names."""

_MIRROR: Final = "kubernetes.io/config.mirror"


class DrainArguments(Arguments, frozen=True, kw_only=True):
    """
    What may be done to empty a node.

    @ivar grace_seconds: in place of each pod's own.
    @ivar delete_local_data: evict pods with an C{emptyDir} too: what is in it is lost.
    @ivar force: evict pods too that nothing will make anew.
    @ivar ignore_daemon_sets: leave their pods; else they are a reason to refuse.
    """

    grace_seconds: Annotated[int, msgspec.Meta(ge=0, le=86_400)] | None = None
    delete_local_data: bool = False
    force: bool = False
    ignore_daemon_sets: bool = True


class Cordoned(Result, frozen=True, kw_only=True):
    """Whether new pods may come to the node now."""

    node: str
    schedulable: bool


class Drained(Result, frozen=True, kw_only=True):
    """
    What became of a node's pods, each C{namespace/name}.

    @ivar left: those that were not to be touched: of daemon sets, and the kubelet's own.
    """

    node: str
    evicted: list[str]
    left: list[str]


class _Volume(msgspec.Struct, rename="camel"):
    empty_dir: dict[str, Any] | None = None


class _Spec(msgspec.Struct):
    volumes: list[_Volume] = []


class _Status(msgspec.Struct):
    phase: str = ""


class _Pod(msgspec.Struct):
    metadata: Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def key(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def words(self) -> str:
        return f"pods {self.key}"

    @property
    def ended(self) -> bool:
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def controller(self) -> str:
        owners = self.metadata.owner_references
        return next((owner.kind for owner in owners if owner.controller), "")


async def cordon(caller: Caller, kit: Kit, target: Target, arguments: Arguments, run: Run) -> Cordoned:
    """Let no new pods come to a node."""
    return await _mark(caller, kit, await _node(caller, kit, target, "cordon"), run, schedulable=False)


async def uncordon(caller: Caller, kit: Kit, target: Target, arguments: Arguments, run: Run) -> Cordoned:
    """Let new pods come to a node again."""
    return await _mark(caller, kit, await _node(caller, kit, target, "uncordon"), run, schedulable=True)


async def drain(caller: Caller, kit: Kit, target: Target, arguments: DrainArguments, run: Run) -> Drained:
    """
    Empty a node: cordon it, evict its pods as their disruption budgets allow, wait until they are gone.

    An agent that runs on this node evicts itself last, when all others are gone.

    @raise BadRequest: pods on it may not be evicted; then the node is as it was.
    """
    found = await _node(caller, kit, target, "drain")
    api = kit.acting(caller)
    await _plan(caller, kit, api, found.name, arguments)  # before anything is changed
    await _mark(caller, kit, found, run, schedulable=False)
    going, left = await _plan(caller, kit, api, found.name, arguments)
    draining = _Drain(kit, api, found.name, arguments, run, len(going))
    await draining.empty({key: pod for key, pod in going.items() if key != kit.own_pod})
    await draining.empty({key: pod for key, pod in going.items() if key == kit.own_pod})
    run.say(f"empty: {counted(len(going), 'pod')} evicted", about=found.words)
    return Drained(node=found.name, evicted=sorted(going), left=sorted(left))


class _Drain:
    """The eviction of a node's pods."""

    def __init__(
        self, kit: Kit, api: Api, node: str, arguments: DrainArguments, run: Run, total: int
    ) -> None:
        self._kit = kit
        self._api = api
        self._node = node
        self._arguments = arguments
        self._run = run
        self._total = total
        self._gone = 0

    async def empty(self, waiting: dict[str, _Pod]) -> None:
        """Evict these, and wait until the last is gone."""
        asked: set[str] = set()
        while waiting:
            for key in [key for key in waiting if key not in asked]:
                if await self._evict(waiting[key]):
                    asked.add(key)
            await sleep(self._kit.clock, LOOK)
            there = {(pod.key, pod.metadata.uid) for pod in await _pods(self._api, self._node)}
            for key, pod in tuple(waiting.items()):
                if (key, pod.metadata.uid) not in there:
                    del waiting[key]
                    self._say(pod, "gone", 1)

    async def _evict(self, pod: _Pod) -> bool:
        """Ask for it; return whether the pod is going, not merely protected for now."""
        meta = pod.metadata
        options: dict[str, Any] = {"preconditions": {"uid": meta.uid}}
        if self._arguments.grace_seconds is not None:
            options["gracePeriodSeconds"] = self._arguments.grace_seconds
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": meta.name, "namespace": meta.namespace},
            "deleteOptions": options,
        }
        call = Call(
            method="POST",
            verb="create",
            resource="pods/eviction",
            path=PODS.path(namespace=meta.namespace, name=meta.name, subresource="eviction"),
            body=msgspec.json.encode(eviction),
            once=True,  # a protected pod must not hold up the others
        )
        try:
            await self._api.call(call)
        except StatusError as error:
            if error.code == 429:
                self._say(pod, f"protected for now: {error.message}", 0)
                return False
            if not _going_anyway(error):
                raise
        else:
            self._say(pod, "evicted, ending", 0)
        return True

    def _say(self, pod: _Pod, message: str, gone: int) -> None:
        self._gone += gone
        self._run.say(message, about=pod.words, done=self._gone, total=self._total)


def _going_anyway(error: StatusError) -> bool:
    """Whether a pod needs no eviction: it is gone, another has its name, or its namespace is going."""
    said = error.message.lower()
    return (
        error.not_found
        or (error.conflict and "uid" in said)
        or (error.forbidden and "being terminated" in said)
    )


async def _node(caller: Caller, kit: Kit, target: Target, operation: str) -> Found:
    named = msgspec.structs.replace(target, type=target.type or NODES.plural)
    found = await locate(caller, kit, named, (operation, "patch"))
    if found.resource.name != NODES.name:
        raise BadRequest(f"{operation} is for nodes, not for {found.resource.name}")
    return found


async def _mark(caller: Caller, kit: Kit, node: Found, run: Run, *, schedulable: bool) -> Cordoned:
    change = {"spec": {"unschedulable": None if schedulable else True}}
    await kit.acting(caller).patch(Object, NODES, node.name, change, STRATEGIC_MERGE_PATCH)
    run.say("takes new pods" if schedulable else "takes no new pods", about=node.words)
    return Cordoned(node=node.name, schedulable=schedulable)


async def _plan(
    caller: Caller, kit: Kit, api: Api, node: str, arguments: DrainArguments
) -> tuple[dict[str, _Pod], list[str]]:
    """
    The pods to evict, and those to leave.

    @raise BadRequest: some may not be evicted.
    """
    going: dict[str, _Pod] = {}
    left: list[str] = []
    refused: dict[str, list[str]] = {}
    for pod in await _pods(api, node):
        if _MIRROR in pod.metadata.annotations:
            left.append(pod.key)
            continue
        reason = _against(caller, kit, pod, arguments)
        if reason:
            refused.setdefault(reason, []).append(pod.key)
        elif pod.controller == "DaemonSet" and not pod.ended:
            left.append(pod.key)
        else:
            going[pod.key] = pod
    if refused:
        said = "; ".join(f"{reason}: {_named(keys)}" for reason, keys in refused.items())
        raise BadRequest(f"node {node} is not drained: {said}")
    return going, left


def _against(caller: Caller, kit: Kit, pod: _Pod, arguments: DrainArguments) -> str:
    """Why this pod may not be evicted; empty: it may, or it stays."""
    if pod.controller == "DaemonSet" and not pod.ended:
        return "" if arguments.ignore_daemon_sets else "pods of daemon sets (ignore_daemon_sets)"
    meta = pod.metadata
    try:
        # Who may drain a node may empty it: scopes are asked about the node.
        kit.reach.check_owner(("drain", "evict", "delete"), PODS, meta.namespace, name=meta.name)
    except OutOfReach as error:
        return str(error)
    if pod.ended:
        return ""
    if not pod.controller and not arguments.force:
        return "pods that nothing would make anew (force)"
    if any(volume.empty_dir is not None for volume in pod.spec.volumes) and not arguments.delete_local_data:
        return "pods with local data, which would be lost (delete_local_data)"
    return ""


def _named(keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


async def _pods(api: Api, node: str) -> list[_Pod]:
    found: list[_Pod] = []
    token = ""
    while True:
        page = await api.page(_Pod, PODS, fields=f"spec.nodeName={node}", continue_=token)
        found += page.items
        if len(found) > MAX_PODS:
            raise BadAnswer(f"node {node} has more than {MAX_PODS} pods")
        token = page.metadata.continue_
        if not token:
            return found
