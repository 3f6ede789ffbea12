"""What operations ask of an API server beyond objects: discovery, scale, evictions, reviews, tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from twisted.web.server import Request

from pipeops_agent.cluster.resources import Resource
from tests.cluster.fakeapi.server import FakeApi
from tests.cluster.fakeapi.storage import Object, Refused
from tests.cluster.fakeapi.watches import Asked

SHORT = {
    "pods": ["po"],
    "services": ["svc"],
    "deployments": ["deploy"],
    "namespaces": ["ns"],
    "nodes": ["no"],
}
SUBRESOURCES = {
    "pods": ["log", "exec", "attach", "portforward", "eviction", "status", "proxy", "ephemeralcontainers"],
    "services": ["proxy", "status"],
    "nodes": ["proxy", "status"],
    "namespaces": ["status", "finalize"],
    "serviceaccounts": ["token"],
    "deployments": ["scale", "status"],
    "statefulsets": ["scale", "status"],
}
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def answer(request: Request, value: Any, code: int = 200, kind: str = "application/json") -> bytes:
    """C{value} as JSON."""
    request.setResponseCode(code)
    request.setHeader("Content-Type", kind)
    return json.dumps(value).encode()


def body(request: Request) -> Any:
    """What was sent, as JSON."""
    assert request.content is not None
    return json.loads(request.content.read() or b"{}")


class Discovery:
    """
    Serves what L{FakeApi.known} names, aggregated or group by group.

    @ivar read: how often it was read.
    @ivar stale: C{group/version} whose server does not answer.
    """

    def __init__(self, server: FakeApi, *, aggregated: bool = True) -> None:
        self.server = server
        self.aggregated = aggregated
        self.read = 0
        self.stale: set[str] = set()
        server.pages["/api"] = self._core
        server.pages["/apis"] = self._named

    def add(self, resource: Resource) -> None:
        """Let there be one more."""
        self.server.known[resource.name] = resource

    def _groups(self) -> dict[str, dict[str, list[Resource]]]:
        found: dict[str, dict[str, list[Resource]]] = {}
        for resource in self.server.known.values():
            found.setdefault(resource.group, {}).setdefault(resource.version, []).append(resource)
        return found

    def _core(self, request: Request) -> bytes:
        self.read += 1
        if self.aggregated:
            return self._aggregate(request, [""])
        self.server.pages["/api/v1"] = self._lists("", "v1")
        return answer(request, {"kind": "APIVersions", "versions": ["v1"]})

    def _named(self, request: Request) -> bytes:
        names = [name for name in self._groups() if name]
        if self.aggregated:
            return self._aggregate(request, names)
        groups = []
        for name in names:
            versions = list(self._groups()[name])
            for version in versions:
                self.server.pages[f"/apis/{name}/{version}"] = self._lists(name, version)
            said = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
            groups.append({"name": name, "versions": said, "preferredVersion": said[0]})
        return answer(request, {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})

    def _aggregate(self, request: Request, names: Iterable[str]) -> bytes:
        kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        items = [
            {
                "metadata": {"name": name},
                "versions": [
                    {
                        "version": version,
                        "freshness": "Stale" if f"{name}/{version}" in self.stale else "Current",
                        "resources": []
                        if f"{name}/{version}" in self.stale
                        else [_aggregated(each) for each in there],
                    }
                    for version, there in self._groups().get(name, {}).items()
                ],
            }
            for name in names
        ]
        return answer(request, {"kind": "APIGroupDiscoveryList", "items": items}, kind=kind)

    def _lists(self, group: str, version: str) -> Callable[[Request], bytes]:
        def page(request: Request) -> bytes:
            where = f"{group}/{version}" if group else version
            if where in self.stale:
                return answer(request, {"kind": "Status", "message": "service unavailable"}, code=503)
            found = []
            for each in self._groups()[group][version]:
                base = {"kind": each.kind, "namespaced": each.namespaced, "verbs": VERBS}
                short = SHORT.get(each.plural, [])
                found.append(
                    {
                        **base,
                        "name": each.plural,
                        "singularName": each.kind.lower(),
                        "shortNames": short,
                    }
                )
                found += [
                    {**base, "name": f"{each.plural}/{sub}"} for sub in SUBRESOURCES.get(each.plural, [])
                ]
            return answer(request, {"kind": "APIResourceList", "groupVersion": where, "resources": found})

        return page


def _aggregated(each: Resource) -> Object:
    return {
        "resource": each.plural,
        "responseKind": {"group": each.group, "version": each.version, "kind": each.kind},
        "scope": "Namespaced" if each.namespaced else "Cluster",
        "singularResource": each.kind.lower(),
        "verbs": VERBS,
        "shortNames": SHORT.get(each.plural, []),
        "subresources": [{"subresource": sub, "verbs": VERBS} for sub in SUBRESOURCES.get(each.plural, [])],
    }


def serve_scale(server: FakeApi) -> None:
    """Deployments and stateful sets have C{scale}; nothing comes of it but the number."""

    def scale(server: FakeApi, asked: Asked, request: Request) -> Any:
        place = (asked.resource.name, asked.namespace or "", asked.name or "")
        found = server.storage.get(*place)
        if asked.verb == "patch":
            replicas = body(request)["spec"]["replicas"]
            found = server.storage.replace(
                *place, {**found, "spec": {**found.get("spec", {}), "replicas": replicas}}
            )
        return answer(
            request,
            {
                "kind": "Scale",
                "spec": {"replicas": found["spec"].get("replicas", 0)},
                "status": {"replicas": found.get("status", {}).get("replicas", 0)},
            },
        )

    server.handlers["deployments.apps/scale"] = scale
    server.handlers["statefulsets.apps/scale"] = scale


class Evictions:
    """
    Evicts pods.

    @ivar protected: how often each (C{namespace/name}) is refused before it goes.
    @ivar asked: the evictions, in order, with what was sent.
    @ivar lingering: pods that stay, being ended, until a test removes them.
    """

    def __init__(self, server: FakeApi) -> None:
        self.protected: dict[str, int] = {}
        self.asked: list[tuple[str, Object]] = []
        self.lingering: set[str] = set()
        server.handlers["pods/eviction"] = self._evict

    def _evict(self, server: FakeApi, asked: Asked, request: Request) -> Any:
        key = f"{asked.namespace}/{asked.name}"
        self.asked.append((key, body(request)))
        found = server.storage.get("pods", asked.namespace or "", asked.name or "")
        if self.protected.get(key, 0) > 0:
            self.protected[key] -= 1
            raise Refused(
                429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget."
            )
        options = self.asked[-1][1].get("deleteOptions", {})
        if options.get("preconditions", {}).get("uid", found["metadata"]["uid"]) != found["metadata"]["uid"]:
            raise Refused(409, "Conflict", "the UID in the precondition does not match")
        if key not in self.lingering:
            server.storage.delete("pods", asked.namespace or "", asked.name or "")
        return answer(request, {"kind": "Status", "status": "Success"}, code=201)


def review_resource(group: str, plural: str, kind: str) -> Resource:
    """A kind of reviews: they are made and answered, and not kept."""
    return Resource(group=group, version="v1", plural=plural, kind=kind, namespaced=False)


class Reviews:
    """
    Answers reviews.

    @ivar cluster: what is granted everywhere: C{list pods}, C{create pods/exec}.
    @ivar rules: the rules of each namespace, as SelfSubjectRulesReviews show them.
    @ivar incomplete: namespaces whose rules are not all shown.
    @ivar hidden: (namespace, right) that only an access review knows.
    @ivar users: who each token belongs to.
    @ivar user_rights: who may what, C{list pods} everywhere or C{list pods in shop}.
    @ivar asked: kind and spec of each review.
    """

    def __init__(self, server: FakeApi) -> None:
        self.cluster: set[str] = set()
        self.rules: dict[str, list[Object]] = {}
        self.incomplete: set[str] = set()
        self.hidden: set[tuple[str, str]] = set()
        self.users: dict[str, Object] = {}
        self.user_rights: set[tuple[str, str]] = set()
        self.asked: list[tuple[str, Object]] = []
        for group, plural, kind in (
            ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
            ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
            ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview"),
            ("authentication.k8s.io", "tokenreviews", "TokenReview"),
        ):
            resource = review_resource(group, plural, kind)
            server.known[resource.name] = resource
            server.handlers[resource.name] = getattr(self, f"_{kind}")

    def _spec(self, request: Request) -> Any:
        given = body(request)
        self.asked.append((given["kind"], given["spec"]))
        return given["spec"]

    def _SelfSubjectAccessReview(self, server: FakeApi, asked: Asked, request: Request) -> Any:  # noqa: N802  # its kind
        attributes = self._spec(request)["resourceAttributes"]
        right, namespace = _right(attributes), attributes.get("namespace", "")
        allowed = right in self.cluster or (namespace, right) in self.hidden
        return answer(request, {"status": {"allowed": allowed}}, code=201)

    def _SelfSubjectRulesReview(self, server: FakeApi, asked: Asked, request: Request) -> Any:  # noqa: N802  # its kind
        namespace = self._spec(request)["namespace"]
        status = {
            "resourceRules": self.rules.get(namespace, []),
            "nonResourceRules": [],
            "incomplete": namespace in self.incomplete,
        }
        return answer(request, {"status": status}, code=201)

    def _SubjectAccessReview(self, server: FakeApi, asked: Asked, request: Request) -> Any:  # noqa: N802  # its kind
        spec = self._spec(request)
        attributes = spec["resourceAttributes"]
        right, user = _right(attributes), spec["user"]
        somewhere = f"{right} in {attributes.get('namespace', '')}"
        allowed = not self.user_rights.isdisjoint({(user, right), (user, somewhere)})
        return answer(request, {"status": {"allowed": allowed}}, code=201)

    def _TokenReview(self, server: FakeApi, asked: Asked, request: Request) -> Any:  # noqa: N802  # its kind
        user = self.users.get(self._spec(request)["token"])
        status = {"authenticated": True, "user": user} if user else {"error": "invalid bearer token"}
        return answer(request, {"status": status}, code=201)


def _right(attributes: Object) -> str:
    sub = attributes.get("subresource", "")
    return f"{attributes['verb']} {attributes['resource']}{f'/{sub}' if sub else ''}"
