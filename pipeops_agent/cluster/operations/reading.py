"""Objects as they are: one, or a page of a list (C{get_resources})."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.api import Page
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
    namespace_of,
    resolve,
)
from pipeops_agent.cluster.resources import Resource

MAX_OBJECTS: Final = 500
"""Objects in one answer."""

_Selector = Annotated[str, msgspec.Meta(max_length=4096)]


class ReadArguments(Arguments, frozen=True, kw_only=True):
    """
    Which objects.

    @ivar labels: a label selector; C{fields} a field selector; both of lists only.
    @ivar limit: how many objects at most.
    @ivar continue_: from the answer before.
    """

    labels: _Selector = ""
    fields: _Selector = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_OBJECTS)] = 100
    continue_: Annotated[str, msgspec.Meta(max_length=8192)] = msgspec.field(name="continue", default="")


class Objects(Result, frozen=True, kw_only=True):
    """
    What was found, without C{managedFields}.

    @ivar continue_: hands on to the next page; empty: this was the last.
    @ivar remaining: how many follow at least, where the server says so.
    """

    items: list[Object]
    continue_: str = msgspec.field(name="continue", default="")
    remaining: int | None = None


async def get_resources(
    caller: Caller, kit: Kit, target: Target, arguments: ReadArguments, run: Run
) -> Objects:
    """
    The object that C{target} names, or those of its type in its namespace, or everywhere within reach.

    @raise ClusterError: see L{pipeops_agent.cluster.api.Api}.
    @raise OutOfReach: the owner does not allow it.
    """
    kit.reach.check_name("get_resources")
    if target.name:
        if arguments.labels or arguments.fields or arguments.continue_:
            raise BadRequest("selectors are for lists: the target names one object")
        found = await locate(caller, kit, target, ("get",))
        item = await kit.acting(caller).get(Object, found.resource, found.name, namespace=found.namespace)
        return Objects(items=[shown(item)])
    served = await resolve(kit, target)
    namespace = namespace_of(served.resource, target.namespace)
    kit.reach.check(caller, ("list",), served.resource, namespace)
    answer = await _page(caller, kit, served.resource, namespace, arguments)
    run.say(f"{counted(len(answer.items), 'object')} read")
    return answer


async def _page(
    caller: Caller, kit: Kit, resource: Resource, namespace: str | None, arguments: ReadArguments
) -> Objects:
    """
    One page. Where only some namespaces are within reach, a list of all goes from one to the next; the
    continue token then begins with the namespace.
    """
    scope, place, token, following = kit.reach.scope, namespace, arguments.continue_, ""
    spread = namespace is None and resource.namespaced and bool(scope.namespaces)
    if spread:
        allowed = sorted(filter(scope.reaches, scope.namespaces))
        if not allowed:
            return Objects(items=[])
        place, _, token = token.partition("/") if token else (allowed[0], "", "")
        if place not in allowed:
            raise BadRequest("the continue token is none that was given out")
        following = "".join(f"{other}/" for other in allowed[allowed.index(place) + 1 :][:1])
    page: Page[Object] = await kit.acting(caller).page(
        Object,
        resource,
        namespace=place,
        limit=arguments.limit,
        continue_=token,
        labels=arguments.labels,
        fields=arguments.fields,
    )
    more = page.metadata.continue_
    return Objects(
        items=[shown(item) for item in page.items if not _hidden(caller, kit, resource, item)],
        continue_=(f"{place}/{more}" if more else following) if spread else more,
        remaining=page.metadata.remaining_item_count if not following else None,
    )


def _hidden(caller: Caller, kit: Kit, resource: Resource, item: Object) -> bool:
    meta = item.get("metadata") or {}
    return kit.reach.hides(caller, resource, meta.get("namespace"), meta.get("name", ""))


def shown(item: Object) -> Object:
    """C{item} without what only the API server has use for."""
    meta: Any = item.get("metadata")
    if isinstance(meta, dict):
        meta.pop("managedFields", None)
    return item
