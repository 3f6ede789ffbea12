"""The HTTP side of the fake API server, as a resource of twisted.web."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from pipeops_agent.cluster import resources
from tests.cluster.fakeapi.faults import Fault
from tests.cluster.fakeapi.storage import Change, Object, Refused, Storage, merge

_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>.+))?"
)

KNOWN = {
    resource.name: resource
    for resource in vars(resources).values()
    if isinstance(resource, resources.Resource)
}


class Asked(NamedTuple):
    """What one request is about."""

    verb: str
    resource: resources.Resource
    namespace: str | None
    name: str | None
    subresource: str
    query: dict[str, str]
    user: str


Handler = Callable[["FakeApi", Asked, Request], Any]
Allowed = Callable[[Asked], bool]


class FakeApi(Resource):
    """
    Serves a L{Storage}.

    @ivar users: by token; without any, everybody is C{admin}.
    @ivar allowed: says whether a user may do what is asked; 403 else.
    @ivar handlers: what answers C{resource/subresource} requests: C{pods/log}.
    @ivar faults: the first that fits befalls a request.
    @ivar seen: verb, resource and namespace of each request.
    @ivar bookmark: called, sends one to all watches.
    """

    isLeaf = True

    def __init__(self, storage: Storage | None = None) -> None:
        super().__init__()
        self.storage = storage or Storage()
        self.git_version = "v1.34.4"
        self.users: dict[str, str] = {}
        self.allowed: Allowed = lambda asked: True
        self.handlers: dict[str, Handler] = {}
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str, str | None]] = []
        self.watches: list[_Watch] = []
        self._pages: dict[str, tuple[int, list[Object]]] = {}

    # -- what a test does

    def bookmark(self) -> None:
        """Send a bookmark to every watch."""
        for watch in tuple(self.watches):
            watch.bookmark()

    def end_watches(self, *, cut: bool = False) -> None:
        """End all watches as the server does when their time is over; or cut their connections."""
        for watch in tuple(self.watches):
            watch.end(cut=cut)

    def write_to_watches(self, line: bytes) -> None:
        """Send just this to every watch."""
        for watch in tuple(self.watches):
            watch.request.write(line)

    # -- requests

    def render(self, request: Request) -> Any:
        try:
            return self._answer(request)
        except Refused as refusal:
            return _refuse(request, refusal)

    def _answer(self, request: Request) -> Any:
        path = request.path.decode()
        if path == "/version":
            return _json(request, {"gitVersion": self.git_version, "major": "1", "minor": "34"})
        asked = self._understand(request, path)
        self.seen.append((asked.verb, _full(asked), asked.namespace))
        for fault in self.faults:
            if fault.befalls(path, asked.verb):
                return _befall(fault, request)
        if not self.allowed(asked):
            raise Refused(
                403,
                "Forbidden",
                f'{_full(asked)} is forbidden: User "{asked.user}" cannot {asked.verb} resource'
                f' "{asked.resource.plural}" in API group "{asked.resource.group}"',
            )
        if asked.subresource:
            handler = self.handlers.get(_full(asked))
            if handler is None:
                raise Refused(404, "NotFound", "the server could not find the requested resource")
            return handler(self, asked, request)
        return getattr(self, f"_{asked.verb}")(asked, request)

    def _understand(self, request: Request, path: str) -> Asked:
        authorization = request.getHeader("authorization") or ""
        user = "admin" if not self.users else self.users.get(authorization.removeprefix("Bearer "), "")
        if not user:
            raise Refused(401, "Unauthorized", "Unauthorized")
        found = _PATH.fullmatch(path)
        query = {name.decode(): values[0].decode() for name, values in (request.args or {}).items()}
        if found is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        group, plural = found["group"] or "", found["plural"]
        resource = KNOWN.get(f"{plural}.{group}" if group else plural)
        if resource is None or resource.version != (found["core"] or found["version"]):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        name = None if found["name"] is None else unquote(found["name"])
        namespace = None if found["namespace"] is None else unquote(found["namespace"])
        verb = {
            "GET": ("watch" if query.get("watch") == "true" else "list") if name is None else "get",
            "POST": "create",
            "PUT": "update",
            "PATCH": "patch",
            "DELETE": "delete",
        }.get(request.method.decode(), "")
        if not verb:
            raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the resource")
        return Asked(verb, resource, namespace, name, found["sub"] or "", query, user)

    # -- verbs

    def _get(self, asked: Asked, request: Request) -> Any:
        return _json(request, self.storage.get(asked.resource.name, asked.namespace or "", asked.name or ""))

    def _list(self, asked: Asked, request: Request) -> Any:
        token, limit = asked.query.get("continue", ""), int(asked.query.get("limit", "0") or 0)
        if token:
            version, items = self._pages.pop(token, (0, []))
            if version < self.storage.oldest:
                raise Refused(410, "Expired", "The provided continue parameter is too old")
        else:
            version = self.storage.version
            items = [
                each for each in self.storage.all(asked.resource.name, asked.namespace) if _fits(each, asked)
            ]
        meta: dict[str, Any] = {"resourceVersion": str(version)}
        if limit and len(items) > limit:
            meta["continue"] = f"{version}-{len(self._pages)}-{len(items) - limit}"
            meta["remainingItemCount"] = len(items) - limit
            self._pages[meta["continue"]] = (version, items[limit:])
            items = items[:limit]
        kind = f"{asked.resource.kind}List"
        return _json(
            request,
            {"kind": kind, "apiVersion": asked.resource.api_version, "metadata": meta, "items": items},
        )

    def _watch(self, asked: Asked, request: Request) -> Any:
        version = int(asked.query.get("resourceVersion") or self.storage.version)
        changes = list(self.storage.since(asked.resource.name, version))
        request.setHeader("Content-Type", "application/json")
        request.write(b"")
        _Watch(self, asked, request, changes)
        return NOT_DONE_YET

    def _create(self, asked: Asked, request: Request) -> Any:
        made = self.storage.create(
            asked.resource.name, asked.namespace or "", _body(request), dry_run=_dry(asked)
        )
        return _json(request, made, code=201)

    def _update(self, asked: Asked, request: Request) -> Any:
        made = self.storage.replace(
            asked.resource.name, asked.namespace or "", asked.name or "", _body(request), dry_run=_dry(asked)
        )
        return _json(request, made)

    def _patch(self, asked: Asked, request: Request) -> Any:
        place = (asked.resource.name, asked.namespace or "", asked.name or "")
        patch, kind = _body(request), request.getHeader("content-type") or ""
        if kind == "application/apply-patch+yaml":
            if "fieldManager" not in asked.query:
                raise Refused(422, "Invalid", "fieldManager: Required value: is required for apply patch")
            try:
                self.storage.get(*place)
            except Refused:
                made = self.storage.create(place[0], place[1], patch, dry_run=_dry(asked))
                return _json(request, made, code=201)
        elif kind not in ("application/merge-patch+json", "application/strategic-merge-patch+json"):
            raise Refused(415, "UnsupportedMediaType", f"the body of the request was in {kind}")
        merged = merge(self.storage.get(*place), patch)
        return _json(request, self.storage.replace(*place, merged, dry_run=_dry(asked)))

    def _delete(self, asked: Asked, request: Request) -> Any:
        options = _body(request)
        conditions = options.get("preconditions") or {}
        gone = self.storage.delete(
            asked.resource.name,
            asked.namespace or "",
            asked.name or "",
            dry_run="dryRun" in options,
            uid=conditions.get("uid"),
            resourceVersion=conditions.get("resourceVersion"),
        )
        return _json(request, gone)


class _Watch:
    """One watch that is being served."""

    def __init__(self, api: FakeApi, asked: Asked, request: Request, changes: list[Change]) -> None:
        self._api = api
        self._asked = asked
        self.request = request
        self._stop = api.storage.on_change(self._changed)
        api.watches.append(self)
        request.notifyFinish().addBoth(lambda _: self._forget())
        for change in changes:
            self._changed(change)

    def _changed(self, change: Change) -> None:
        asked = self._asked
        if change.resource != asked.resource.name or not _fits(change.object, asked):
            return
        if asked.namespace is None or change.object["metadata"].get("namespace") == asked.namespace:
            self._write(change.type, change.object)

    def bookmark(self) -> None:
        """Say how far the watch is."""
        meta = {"resourceVersion": str(self._api.storage.version), "creationTimestamp": None}
        self._write("BOOKMARK", {"kind": self._asked.resource.kind, "metadata": meta})

    def end(self, *, cut: bool) -> None:
        """End the answer, or lose the connection in the middle of it."""
        if cut:
            self.request.loseConnection()
        else:
            self.request.finish()

    def _write(self, kind: str, found: Object) -> None:
        self.request.write(json.dumps({"type": kind, "object": found}).encode() + b"\n")

    def _forget(self) -> None:
        self._stop()
        if self in self._api.watches:
            self._api.watches.remove(self)


def _fits(found: Object, asked: Asked) -> bool:
    """Whether an object is what the selectors select: equalities of labels, and the name or namespace."""
    labels = found["metadata"].get("labels") or {}
    for part in filter(None, asked.query.get("labelSelector", "").split(",")):
        key, _, value = part.partition("=")
        if labels.get(key) != value:
            return False
    for part in filter(None, asked.query.get("fieldSelector", "").split(",")):
        key, _, value = part.partition("=")
        if found["metadata"].get(key.removeprefix("metadata.")) != value:
            return False
    return True


def _full(asked: Asked) -> str:
    return f"{asked.resource.name}/{asked.subresource}" if asked.subresource else asked.resource.name


def _dry(asked: Asked) -> bool:
    return asked.query.get("dryRun") == "All"


def _body(request: Request) -> Any:
    assert request.content is not None
    raw = request.content.read()
    try:
        found = json.loads(raw) if raw else {}
    except ValueError as error:
        raise Refused(400, "BadRequest", f"the object provided is unrecognized: {error}") from error
    if not isinstance(found, dict):
        raise Refused(400, "BadRequest", "the object provided is unrecognized")
    return found


def _json(request: Request, value: Any, code: int = 200) -> bytes:
    request.setResponseCode(code)
    request.setHeader("Content-Type", "application/json")
    return json.dumps(value).encode()


def _refuse(request: Request, refusal: Refused) -> bytes:
    status: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": str(refusal),
        "reason": refusal.reason,
        "code": refusal.code,
    }
    if refusal.retry_after is not None:
        status["details"] = {"retryAfterSeconds": refusal.retry_after}
        request.setHeader("Retry-After", str(refusal.retry_after))
    return _json(request, status, refusal.code)


def _befall(fault: Fault, request: Request) -> Any:
    if fault.hang:
        return NOT_DONE_YET
    if fault.code == 0:
        request.loseConnection()
        return NOT_DONE_YET
    request.setResponseCode(fault.code)
    for name, value in fault.headers.items():
        request.setHeader(name, value)
    return fault.body
