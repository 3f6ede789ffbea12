"""What all operations share: whom and what they are about, how they tell of themselves, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.caller import Caller
from pipeops_agent.clock import WallClock
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.discovery import Discovery
from pipeops_agent.cluster.errors import ClusterError
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.resources import Resource, checked_segment
from pipeops_agent.cluster.served import ApiResource

T = TypeVar("T", bound=msgspec.Struct)

Object = dict[str, Any]
"""An object of the API, as JSON has it: of kinds that nobody here can know."""

MAX_NAME: Final = 253
"""The characters of a name: the API server's own rule."""


class BadRequest(ClusterError):
    """What is asked for makes no sense: the sentence says what would."""


class OutOfTime(ClusterError):
    """An operation did not end within its time; the sentence says what it was waiting for."""


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What an operation is about.

    @ivar type: a kind as people write it: C{deployment}, C{deploy}, C{deployments.apps}.
    @ivar namespace: empty for what has none; of a list: all of them.
    @ivar container: for logs and exec.
    """

    type: str = ""
    name: str = ""
    namespace: str = ""
    container: str = ""

    @property
    def words(self) -> str:
        """For messages: C{deployment shop/web}."""
        place = "/".join(filter(None, (self.namespace, self.name)))
        return " ".join(filter(None, (self.type, place)))[: 2 * MAX_NAME]


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What else an operation is told."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """
    What came of an operation.

    @ivar success: whether everything that was asked for was done.
    @ivar error: a sentence, where it was not.
    """

    success: bool = True
    error: str = ""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """
    How far an operation is.

    @ivar operation: C{rollout}, C{drain}, ...
    @ivar message: one line for people.
    @ivar object: what it is about now: C{pods shop/web-1}; empty: the whole.
    @ivar done: how many of C{total}; both 0 where nothing is counted.
    @ivar elapsed: seconds since the operation began.
    """

    operation: str
    message: str
    object: str = ""
    done: int = 0
    total: int = 0
    elapsed: float = 0.0


Listener = Callable[[Progress], None]
"""Is told of an operation's progress; must not raise."""


class Run:
    """
    One operation that is running: its time, and its progress.

    @ivar last: what was said last: where time is up, it tells what for.
    """

    def __init__(self, clock: IReactorTime, operation: str, seconds: float, listener: Listener) -> None:
        self._clock = clock
        self._operation = operation
        self._began = clock.seconds()
        self._ends = self._began + seconds
        self._listener = listener
        self.last = ""

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return max(0.0, self._ends - self._clock.seconds())

    def say(self, message: str, *, about: str = "", done: int = 0, total: int = 0) -> None:
        """Tell the caller, unless it is just what was told before."""
        words = f"{about}: {message}" if about else message
        if words == self.last:
            return
        self.last = words
        self._listener(
            Progress(
                operation=self._operation,
                message=message,
                object=about,
                done=done,
                total=total,
                elapsed=self._clock.seconds() - self._began,
            )
        )


class Kit(msgspec.Struct, frozen=True, kw_only=True):
    """
    What operations work with.

    @ivar api: with the agent's own credential; never used directly, see L{acting}.
    @ivar own_pod: C{namespace/name} of the pod that the agent runs in; empty: it runs elsewhere.
    """

    clock: IReactorTime
    wall: WallClock
    api: Api
    discovery: Discovery
    reach: Reach
    own_pod: str = ""

    def acting(self, caller: Caller) -> Api:
        """The API, with the rights of C{caller}: its own token where it has one."""
        return self.api.acting_with(caller.kubernetes_token)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """
    One object that an operation is about, within reach.

    @ivar namespace: None: its kind has none.
    """

    served: ApiResource
    namespace: str | None
    name: str

    @property
    def resource(self) -> Resource:
        """Its kind."""
        return self.served.resource

    @property
    def words(self) -> str:
        """For messages: C{deployments.apps shop/web}."""
        return words(self.resource, self.namespace, self.name)


def words(resource: Resource, namespace: str | None, name: str) -> str:
    """An object, for messages: C{deployments.apps shop/web}."""
    return f"{resource.name} {namespace}/{name}" if namespace else f"{resource.name} {name}"


async def locate(caller: Caller, kit: Kit, target: Target, verbs: Iterable[str]) -> Found:
    """
    The one object that C{target} names.

    @param verbs: the operation and the API's verbs for it: see L{Reach.check}.
    @raise BadRequest: it does not name one.
    @raise NotServed: there is no such kind.
    @raise OutOfReach: it is not within reach.
    """
    served = await resolve(kit, target)
    if not target.name:
        raise BadRequest(f"the target has no name: which of the {served.resource.name}?")
    name = _segment(target.name, f"the name of a {served.resource.kind}")
    namespace = namespace_of(served.resource, target.namespace)
    if served.resource.namespaced and namespace is None:
        raise BadRequest(f"the target has no namespace: {served.resource.name} are in one")
    kit.reach.check(caller, verbs, served.resource, namespace, name=name)
    return Found(served=served, namespace=namespace, name=name)


async def resolve(kit: Kit, target: Target) -> ApiResource:
    """The kind that C{target} names."""
    if not target.type:
        raise BadRequest("the target has no type: deployment, pods, ...")
    return await kit.discovery.named(target.type)


def namespace_of(resource: Resource, given: str) -> str | None:
    """
    The namespace to use for C{resource}; None: none is given.

    @raise BadRequest: one is given where there is none, or it can't be one.
    """
    if not given:
        return None
    if not resource.namespaced:
        raise BadRequest(f"{resource.name} have no namespace")
    return _segment(given, "a namespace")


def _segment(text: str, what: str) -> str:
    try:
        return checked_segment(text, what)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def parsed(kind: type[T], given: Any, what: str) -> T:
    """
    C{given}, as decoded from JSON or YAML, as a C{kind}.

    @param what: names it in the error: "scale".
    @raise BadRequest: a field is missing, unknown or of another type; it says where.
    """
    try:
        return msgspec.convert(given, type=kind)
    except (msgspec.ValidationError, RecursionError) as error:
        # msgspec's message names types and places; of values only unknown fields and wrong choices.
        raise BadRequest(f"{what}: {str(error)[:300]}") from None


def counted(count: int, noun: str) -> str:
    """C{1 pod}, C{2 pods}."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
