"""The HTTP side of the fake API server, as a resource of twisted.web."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from pipeops_agent.cluster import resources
from tests.cluster.fakeapi.faults import Fault
from tests.cluster.fakeapi.patches import json_patch, merge
from tests.cluster.fakeapi.selectors import Selection
from tests.cluster.fakeapi.storage import Object, Refused, Storage
from tests.cluster.fakeapi.validation import check
from tests.cluster.fakeapi.watches import Asked, Watch, status_of

_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>.+))?"
)

KNOWN = {
    resource.name: resource
    for resource in vars(resources).values()
    if isinstance(resource, resources.Resource)
}


Handler = Callable[["FakeApi", Asked, Request], Any]
Page = Callable[[Request], Any]
Allowed = Callable[[Asked], bool]


class FakeApi(Resource):
    """
    Serves a L{Storage}.

    @param clock: by it watches end when they were asked to; None: when the test says so.
    @ivar users: by token; without any, everybody is C{admin}.
    @ivar allowed: says whether a user may do what is asked; 403 else.
    @ivar known: the resources that there are, by name.
    @ivar handlers: what answers requests to C{resource/subresource}: C{pods/log}, or to a whole resource.
    @ivar pages: what answers paths of no resource: C{/apis}.
    @ivar faults: the first that fits befalls a request.
    @ivar seen: verb, resource and namespace of each request.
    @ivar bookmark: called, sends one to all watches.
    """

    isLeaf = True

    def __init__(self, storage: Storage | None = None, clock: IReactorTime | None = None) -> None:
        super().__init__()
        self.storage = storage or Storage()
        self.clock = clock
        self.git_version = "v1.34.4"
        self.users: dict[str, str] = {}
        self.allowed: Allowed = lambda asked: True
        self.known = dict(KNOWN)
        self.handlers: dict[str, Handler] = {}
        self.pages: dict[str, Page] = {}
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str, str | None]] = []
        self.watches: list[Watch] = []
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
            if not refusal.reason:
                request.setResponseCode(refusal.code)
                return str(refusal).encode()
            return _refuse(request, refusal)

    def _answer(self, request: Request) -> Any:
        path = request.path.decode()
        if path in self.pages:
            return self.pages[path](request)
        if path == "/version":
            for fault in self.faults:
                if fault.befalls(path, "get"):
                    return _befall(fault, request)
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
                f' "{asked.resource.plural}" in API group "{asked.resource.group}" '
                + (f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"),
            )
        handler = self.handlers.get(_full(asked))
        if handler is not None:
            return handler(self, asked, request)
        if asked.subresource:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        return getattr(self, f"_{asked.verb}")(asked, request)

    def _understand(self, request: Request, path: str) -> Asked:
        authorization = request.getHeader("authorization") or ""
        user = "admin" if not self.users else self.users.get(authorization.removeprefix("Bearer "), "")
        if not user:
            raise Refused(401, "Unauthorized", "Unauthorized")
        found = _PATH.fullmatch(path)
        query = {name.decode(): values[0].decode() for name, values in (request.args or {}).items()}
        if found is None:
            raise Refused(404, "", "404 page not found")
        group, plural = found["group"] or "", found["plural"]
        resource = self.known.get(f"{plural}.{group}" if group else plural)
        if resource is None or resource.version != (found["core"] or found["version"]):
            raise Refused(404, "", "404 page not found")
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
        return _whole(asked, request, self.storage.get(*_place(asked)))

    def _list(self, asked: Asked, request: Request) -> Any:
        token, limit = asked.query.get("continue", ""), int(asked.query.get("limit", "0") or 0)
        selection = _selection(asked)
        if token:
            if token not in self._pages:
                raise Refused(400, "BadRequest", "continue key is not valid")
            version, items = self._pages[token]
            if version < self.storage.oldest:
                raise Refused(410, "Expired", "The provided continue parameter is too old")
        else:
            version = self.storage.version
            items = [
                each
                for each in self.storage.all(asked.resource.name, asked.namespace)
                if selection.selects(each)
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
        selection = _selection(asked)
        version = int(asked.query.get("resourceVersion") or 0)
        request.setHeader("Content-Type", "application/json")
        request.write(b"")
        watch = Watch(self, asked, request, selection)
        try:
            watch.begin(version, initial=asked.query.get("sendInitialEvents") == "true")
        except Refused as refusal:
            watch.fail(refusal)
        return NOT_DONE_YET

    def _create(self, asked: Asked, request: Request) -> Any:
        given = _given(asked, _body(request))
        if asked.resource.name == "pods":
            given = {**given, "status": {"phase": "Pending", **(given.get("status") or {})}}
        made = self.storage.create(asked.resource.name, asked.namespace or "", given, dry_run=_dry(asked))
        return _whole(asked, request, made, code=201)

    def _update(self, asked: Asked, request: Request) -> Any:
        given = _given(asked, _body(request))
        name = (given.get("metadata") or {}).get("name", asked.name)
        if name != asked.name:
            message = f"the name of the object ({name}) does not match the name on the URL ({asked.name})"
            raise Refused(400, "BadRequest", message)
        return _whole(asked, request, self.storage.replace(*_place(asked), given, dry_run=_dry(asked)))

    def _patch(self, asked: Asked, request: Request) -> Any:
        place = _place(asked)
        kind = request.getHeader("content-type") or ""
        if kind == "application/json-patch+json":
            patched = json_patch(self.storage.get(*place), _body(request, list))
            return _whole(asked, request, self.storage.replace(*place, patched, dry_run=_dry(asked)))
        patch = _body(request)
        if kind == "application/apply-patch+yaml":
            if "fieldManager" not in asked.query:
                raise Refused(422, "Invalid", "fieldManager: Required value: is required for apply patch")
            try:
                self.storage.get(*place)
            except Refused:
                made = self.storage.create(*place[:2], _given(asked, patch), dry_run=_dry(asked))
                return _whole(asked, request, made, code=201)
        elif kind not in ("application/merge-patch+json", "application/strategic-merge-patch+json"):
            raise Refused(415, "UnsupportedMediaType", f"the body of the request was in {kind}")
        strategic = kind != "application/merge-patch+json"
        merged = _given(asked, merge(self.storage.get(*place), patch, strategic=strategic))
        return _whole(asked, request, self.storage.replace(*place, merged, dry_run=_dry(asked)))

    def _delete(self, asked: Asked, request: Request) -> Any:
        options = _body(request)
        conditions = options.get("preconditions") or {}
        gone = self.storage.delete(
            *_place(asked),
            dry_run="dryRun" in options,
            finalizer=_FINALIZERS.get(options.get("propagationPolicy"), ""),
            uid=conditions.get("uid"),
            resourceVersion=conditions.get("resourceVersion"),
        )
        return _whole(asked, request, gone)


_FINALIZERS = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}


def _selection(asked: Asked) -> Selection:
    return Selection(
        asked.resource.name, asked.query.get("labelSelector", ""), asked.query.get("fieldSelector", "")
    )


def _place(asked: Asked) -> tuple[str, str, str]:
    return asked.resource.name, asked.namespace or "", asked.name or ""


def _full(asked: Asked) -> str:
    return f"{asked.resource.name}/{asked.subresource}" if asked.subresource else asked.resource.name


def _dry(asked: Asked) -> bool:
    return asked.query.get("dryRun") == "All"


def _body(request: Request, kind: type = dict) -> Any:
    assert request.content is not None
    raw = request.content.read()
    try:
        found = json.loads(raw) if raw else {}
    except ValueError as error:
        raise Refused(400, "BadRequest", f"the object provided is unrecognized: {error}") from error
    if not isinstance(found, kind):
        raise Refused(400, "BadRequest", "the object provided is unrecognized")
    return found


def _given(asked: Asked, body: Object) -> Object:
    """What is kept of an object that was sent: not what kind it is, which its place says."""
    check(asked.resource.name, body)
    return {key: value for key, value in body.items() if key not in ("kind", "apiVersion")}


def _whole(asked: Asked, request: Request, found: Object, code: int = 200) -> bytes:
    """An object by itself, which says what it is."""
    resource = asked.resource
    return _json(request, {"kind": resource.kind, "apiVersion": resource.api_version, **found}, code)


def _json(request: Request, value: Any, code: int = 200) -> bytes:
    request.setResponseCode(code)
    request.setHeader("Content-Type", "application/json")
    return json.dumps(value).encode()


def _refuse(request: Request, refusal: Refused) -> bytes:
    status = status_of(refusal)
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
