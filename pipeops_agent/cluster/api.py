"""
The Kubernetes API, typed: each verb takes a resource and gives back structs that hold only what is asked for.

Objects are decoded straight into the caller's type: what that does not name is never kept (L{objects}).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, Final, Generic, Literal, TypeVar, cast

import msgspec

from pipeops_agent.cluster.call import APPLY_PATCH, Answer, Call
from pipeops_agent.cluster.errors import NOT_JSON, BadAnswer
from pipeops_agent.cluster.resources import Resource
from pipeops_agent.cluster.stream import BodyStream
from pipeops_agent.cluster.transport import Transport
from pipeops_agent.secrets import Secret

T = TypeVar("T")

FIELD_MANAGER: Final = "pipeops-agent"
"""Who the agent is in C{managedFields}."""

PAGE: Final = 500
"""Objects in a page of a list: what client-go asks for as well."""

Propagation = Literal["Foreground", "Background", "Orphan"]


class ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    """
    C{meta/v1 ListMeta}.

    @ivar continue_: hands on to the next page; empty: this was the last.
    @ivar remaining_item_count: how many follow at least; None: not said.
    """

    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")
    remaining_item_count: int | None = None


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list."""

    metadata: ListMeta
    items: list[T] = []


class Version(msgspec.Struct, frozen=True, rename="camel"):
    """The API server's version: C{/version}."""

    git_version: str
    major: str = ""
    minor: str = ""
    platform: str = ""


class Api:
    """
    The verbs.

    Each raises L{ClusterError<pipeops_agent.cluster.errors.ClusterError>}: C{StatusError} where the API says
    no, C{Unreachable} where it says nothing, C{BadAnswer} where it says something else; and ValueError
    where a name can't stand in a path.

    @param token: a caller's own, with which everything goes out; None: the agent's credential.
    """

    def __init__(self, transport: Transport, token: Secret | None = None) -> None:
        self._transport = transport
        self._token = token

    def acting_with(self, token: Secret | None) -> Api:
        """The same API, with a caller's own token."""
        return Api(self.transport, token)

    @property
    def transport(self) -> Transport:
        """What makes the calls."""
        return self._transport

    async def call(self, call: Call) -> Answer:
        """Make any call, with this API's token."""
        return await self.transport.call(self._as_caller(call))

    async def stream(self, call: Call) -> BodyStream:
        """Make any call, and read its answer as it comes."""
        return await self.transport.stream(self._as_caller(call))

    async def version(self) -> Version:
        """Which version the API server is."""
        return await self._typed(Version, Call(method="GET", verb="get", resource="version", path="/version"))

    async def get(self, kind: type[T], resource: Resource, name: str, *, namespace: str | None = None) -> T:
        """One object."""
        path = resource.path(namespace=namespace, name=name)
        return await self._typed(kind, Call(method="GET", verb="get", resource=resource.name, path=path))

    async def page(
        self,
        kind: type[T],
        resource: Resource,
        *,
        namespace: str | None = None,
        limit: int = PAGE,
        continue_: str = "",
        labels: str = "",
        fields: str = "",
        resource_version: str = "",
    ) -> Page[T]:
        """
        One page of a list.

        @param continue_: from the page before.
        @param labels: a label selector; C{fields} a field selector.
        @param resource_version: "0": whatever the server has in its cache; empty: the newest.
        """
        query = [("limit", str(limit))]
        for name, value in (("labelSelector", labels), ("fieldSelector", fields), ("continue", continue_)):
            if value:
                query.append((name, value))
        if resource_version and not continue_:
            query.append(("resourceVersion", resource_version))
        path = resource.path(namespace=namespace)
        call = Call(method="GET", verb="list", resource=resource.name, path=path, query=tuple(query))
        return await self._typed(Page[kind], call)  # type: ignore[valid-type]  # a type made at run time

    async def create(
        self,
        kind: type[T],
        resource: Resource,
        body: Any,
        *,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str = "",
        dry_run: bool = False,
    ) -> T:
        """
        Make an object; or, with C{name} and C{subresource}, do what the subresource stands for.

        @param body: whatever msgspec can encode.
        """
        call = Call(
            method="POST",
            verb="create",
            resource=_named(resource, subresource),
            path=resource.path(namespace=namespace, name=name, subresource=subresource),
            query=_managed(dry_run),
            body=msgspec.json.encode(body),
        )
        return await self._typed(kind, call)

    async def replace(
        self,
        kind: type[T],
        resource: Resource,
        name: str,
        body: Any,
        *,
        namespace: str | None = None,
        dry_run: bool = False,
    ) -> T:
        """Put C{body} in an object's place; its C{metadata.resourceVersion} must be the present one."""
        call = Call(
            method="PUT",
            verb="update",
            resource=resource.name,
            path=resource.path(namespace=namespace, name=name),
            query=_managed(dry_run),
            body=msgspec.json.encode(body),
        )
        return await self._typed(kind, call)

    async def patch(
        self,
        kind: type[T],
        resource: Resource,
        name: str,
        body: Any,
        content_type: str,
        *,
        namespace: str | None = None,
        subresource: str = "",
        dry_run: bool = False,
        force: bool = False,
    ) -> T:
        """
        Change an object.

        @param content_type: which kind of patch C{body} is (L{pipeops_agent.cluster.call}).
        @param force: of a server-side apply: take over fields that others manage.
        """
        query = _managed(dry_run)
        if force and content_type == APPLY_PATCH:
            query += (("force", "true"),)
        call = Call(
            method="PATCH",
            verb="patch",
            resource=_named(resource, subresource),
            path=resource.path(namespace=namespace, name=name, subresource=subresource),
            query=query,
            body=msgspec.json.encode(body),
            content_type=content_type,
        )
        return await self._typed(kind, call)

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        propagation: Propagation = "Background",
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
        dry_run: bool = False,
    ) -> None:
        """
        Delete an object.

        @param uid: delete it only where it is this one; so with C{resource_version}.
        """
        options: dict[str, Any] = {"propagationPolicy": propagation}
        conditions = {"uid": uid, "resourceVersion": resource_version}
        if any(conditions.values()):
            options["preconditions"] = {key: value for key, value in conditions.items() if value}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if dry_run:
            options["dryRun"] = ["All"]
        call = Call(
            method="DELETE",
            verb="delete",
            resource=resource.name,
            path=resource.path(namespace=namespace, name=name),
            body=msgspec.json.encode(options),
        )
        await self.call(call)

    async def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        resource_version: str,
        labels: str = "",
        fields: str = "",
        seconds: int,
        initial: bool = False,
    ) -> BodyStream:
        """
        Follow the changes since C{resource_version}; bookmarks are asked for.

        @param seconds: when the server shall end the watch (C{timeoutSeconds}).
        @param initial: send the present objects first, and a bookmark when they are all there (streaming
            lists, C{sendInitialEvents}).
        """
        query = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(seconds)),
            ("resourceVersion", resource_version),
        ]
        if initial:
            query += [("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan")]
        for name, value in (("labelSelector", labels), ("fieldSelector", fields)):
            if value:
                query.append((name, value))
        path = resource.path(namespace=namespace)
        return await self.stream(
            Call(method="GET", verb="watch", resource=resource.name, path=path, query=tuple(query))
        )

    async def _typed(self, kind: type[T], call: Call) -> T:
        answer = await self.call(call)
        try:
            value: T = decoder(cast(Hashable, kind)).decode(answer.body)
        except NOT_JSON as error:
            # msgspec's message names types and places, never a value.
            raise BadAnswer(f"{call.what}: the answer is not as expected: {error}") from error
        return value

    def _as_caller(self, call: Call) -> Call:
        return call if self._token is None else msgspec.structs.replace(call, token=self._token)


class LiveApi(Api):
    """
    The API of whichever cluster is configured at the moment of each call.

    @param find: gives the way there; raises L{Misconfigured<pipeops_agent.cluster.errors.Misconfigured>}
        where there is none.
    """

    def __init__(self, find: Callable[[], Transport]) -> None:
        self._find = find
        self._token = None

    @property
    def transport(self) -> Transport:
        return self._find()


@lru_cache(maxsize=128)
def decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    """The JSON decoder for a type, made once."""
    return msgspec.json.Decoder(cast(Any, kind))


def _named(resource: Resource, subresource: str) -> str:
    return f"{resource.name}/{subresource}" if subresource else resource.name


def _managed(dry_run: bool) -> tuple[tuple[str, str], ...]:
    manager = (("fieldManager", FIELD_MANAGER),)
    return (*manager, ("dryRun", "All")) if dry_run else manager
