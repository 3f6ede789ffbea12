"""
Requests to the Kubernetes API on behalf of a caller: any path, streamed both ways, never with more rights.

What is asked for is parsed (L{paths<pipeops_agent.cluster.paths>}), looked up in the server's own discovery
and checked like any operation. Nothing is sent on that is not understood.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from typing import Annotated, Final, Literal, Protocol
from urllib.parse import parse_qsl

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.call import TIMEOUT, Call
from pipeops_agent.cluster.discovery import Discovery
from pipeops_agent.cluster.errors import BadAnswer, ClusterError
from pipeops_agent.cluster.paths import ApiPath, BadPath, parse_path
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.resources import NAMESPACES, NODES, Resource
from pipeops_agent.cluster.scope import APPLYING, OutOfReach
from pipeops_agent.cluster.transport import Raw

MAX_HEADERS: Final = 50
"""Headers of a request."""

MAX_HEADER: Final = 8 * 1024
"""Characters of one header's value."""

MAX_WHOLE: Final = 8 * 1024 * 1024
"""The longest answer that is given in one message, in bytes; longer ones are to be streamed."""

MAX_QUERY: Final = 64 * 1024
"""Characters of a query as in a URL."""

MAX_TIMEOUT: Final = 3600.0
"""The most seconds that a request may be given."""

_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""RFC 9110, section 7.6.1: they are between two neighbours."""

_REFUSED: Final = _HOP_BY_HOP | {"authorization", "content-length", "cookie", "expect", "host"}
_REFUSED_PREFIXES: Final = ("impersonate-", "x-remote-", "sec-websocket-")
_DROPPED: Final = _HOP_BY_HOP | {"content-length", "set-cookie", "www-authenticate"}
_ENCODINGS: Final = frozenset({"content-encoding", "x-agent-content-encoding"})
"""Under the latter L{UndecodedAgent<pipeops_agent.net.bodies.UndecodedAgent>} hands on the former."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")

_OWN_TOKEN: Final = frozenset({"proxy", "exec", "attach", "portforward", "ephemeralcontainers", "token"})
"""
Subresources by which one gets at what RBAC does not name: into containers, to whatever a pod or a kubelet
serves, and at other accounts' tokens. Only for callers whose own rights the API server can see.
"""

_OPERATIONS: Final = {
    "portforward": ("portforward", "port-forward"),
    "ephemeralcontainers": ("exec",),
    "eviction": ("evict", "delete"),
}
"""What a subresource is called where the owner denies it, if not by its own name."""

_APPLY_TYPE: Final = "application/apply-patch"
"""How the content types of server-side applies begin: C{+yaml}, C{+cbor}."""

_READABLE: Final = frozenset({"status", "scale", "finalize"})
"""Subresources that a GET only reads; that of C{exec} runs a program."""

_OPEN: Final = re.compile(r"/(?:version|healthz|livez|readyz|api|apis|openapi/v[23](?:/.+)?)")
"""Paths of no resource that tell nothing about what is in the cluster."""


class Refused(ClusterError):
    """A request is not sent on; the sentence says why."""


class OwnTokenNeeded(Refused):
    """It is only sent on with a Kubernetes token of the caller's own."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is only for callers with a Kubernetes token of their own")


class ProxyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A request to the Kubernetes API.

    @ivar path: absolute, quoted, without a query.
    @ivar query: parameters, not quoted; a list for one that is there several times. As text: as in a URL.
    @ivar body: base64 in JSON; None: there is none, or it comes in chunks (L{BodySource}).
    @ivar stream: whether the answer comes in chunks; else in one message, L{MAX_WHOLE} at most.
    @ivar timeout: the seconds until the answer begins.
    """

    path: str
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    query: dict[str, str | list[str]] | Annotated[str, msgspec.Meta(max_length=MAX_QUERY)] = {}
    headers: dict[str, str] = {}
    body: bytes | None = None
    stream: bool = False
    timeout: Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT)] = TIMEOUT


class ProxyResponse(msgspec.Struct, frozen=True, kw_only=True):
    """
    An answer of the API, or a part of it.

    @ivar status_code: and C{headers}: in the first part alone; C{headers} of one name are joined by commas.
    @ivar body: base64 in JSON.
    @ivar chunk: which part, counted from 0.
    @ivar done: whether it is the last.
    """

    status_code: int | None = None
    headers: dict[str, str] | None = None
    body: bytes = b""
    chunk: int = 0
    done: bool = True


class BodySource(Protocol):
    """Gives a request's body in chunks."""

    def read(self) -> Awaitable[bytes]:
        """The next bytes, as soon as there are any; none: that was all. Asked only for what can be sent."""
        ...


class Exchange:
    """
    An answer on its way to the caller.

    Read it to its end, or close it. What is not asked for is not read: the API server waits.
    """

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._next = 0
        self.status_code = raw.status
        self.headers = _handed_on(raw.headers)

    async def read(self) -> ProxyResponse:
        """
        The next part; after the one that is C{done} there is none.

        @raise Cut: the answer broke off.
        """
        first, self._next = self._next == 0, self._next + 1
        body = b"" if first else await self._raw.body.read()
        return ProxyResponse(
            status_code=self.status_code if first else None,
            headers=self.headers if first else None,
            body=body,
            chunk=self._next - 1,
            done=not first and not body,
        )

    async def whole(self, limit: int = MAX_WHOLE) -> ProxyResponse:
        """
        Everything in one part.

        @raise BadAnswer: it is longer than C{limit} bytes.
        @raise Cut: it broke off.
        """
        parts, size = [], 0
        try:
            while data := await self._raw.body.read():
                parts.append(data)
                size += len(data)
                if size > limit:
                    raise BadAnswer(f"the answer is longer than {limit} bytes: ask for it as a stream")
        finally:
            self.close()
        return ProxyResponse(status_code=self.status_code, headers=self.headers, body=b"".join(parts))

    def close(self) -> None:
        """Read no more."""
        self._raw.body.abort()


class Proxy:
    """Sends callers' requests on."""

    def __init__(self, api: Api, discovery: Discovery, reach: Reach) -> None:
        self._api = api
        self._discovery = discovery
        self._reach = reach.asking("proxy")

    async def send(self, caller: Caller, request: ProxyRequest, source: BodySource | None = None) -> Exchange:
        """
        Send C{request} with the caller's own token where it has one, else with the agent's credential.

        Whatever the API answers is an answer, redirects too: they are reported, never followed.

        @param source: the request's body, in chunks.
        @raise Refused: it can't be sent on, whoever asks; or not with the agent's credential.
        @raise OutOfReach: the owner of the cluster does not allow it, or no scope of the caller's does.
        @raise NotServed: the server has no such resource.
        @raise ClusterError: there was no answer.
        """
        try:
            path = parse_path(request.path)
        except BadPath as error:
            raise Refused(str(error)) from None
        headers = _checked(request.headers)
        query = _pairs(request.query)
        if request.body is not None and source is not None:
            raise Refused("a body and chunks of a body: one of them")
        self._reach.check_name("proxy")
        self._reach.check_asked(caller)
        if path.plural:
            resource = await self._resource(path)
            verb = _verb(request.method, path, query)
            acts = APPLYING if verb == "patch" and _applies(headers) else (verb,)
            self._check(caller, resource, path, verb, _acts(acts, path.subresource))
            what = f"{resource.name}/{path.subresource}" if path.subresource else resource.name
        else:
            verb, what = request.method.lower(), "nonresource"
            self._check_other(caller, request.method, path.path)
        call = Call(
            method=request.method,
            verb=verb,
            resource=what,
            path=path.path,
            query=query,
            body=request.body,
            timeout=request.timeout,
            token=caller.kubernetes_token,
        )
        producer = None if source is None else SourceProducer(source)
        return Exchange(await self._api.transport.raw(call, headers, producer))

    async def _resource(self, path: ApiPath) -> Resource:
        served = await self._discovery.path(path.group, path.version, path.plural)
        resource = served.resource
        own = resource.name == NAMESPACES.name and path.namespace == path.name
        if path.namespace is not None and not resource.namespaced and not own:
            raise Refused(f"{resource.name} have no namespace")
        return resource

    def _check(
        self, caller: Caller, resource: Resource, path: ApiPath, verb: str, acts: tuple[str, ...]
    ) -> None:
        """@raise OutOfReach, Refused: this is not sent on."""
        sub = path.subresource
        if sub in _OWN_TOKEN and caller.kubernetes_token is None:
            raise OwnTokenNeeded(f"{resource.name}/{sub}")
        namespace = path.namespace if resource.namespaced else None
        self._reach.check(caller, acts, resource, namespace, name=path.name)
        if self._reach.limited and resource.name == NODES.name and sub == "proxy":
            raise OutOfReach("nodes/proxy reaches pods of all namespaces: kubernetes.namespaces")
        about_many = not path.name and (verb != "create" or namespace is None)
        if about_many and self._reach.hides_some(caller, resource, namespace):
            raise OutOfReach(
                f"{verb} {resource.name} is about some that are out of reach too: name one object or"
                " namespace (kubernetes.namespaces, access.deny.namespaces, or the agent's own)"
            )

    def _check_other(self, caller: Caller, method: str, path: str) -> None:
        if method not in ("GET", "HEAD"):
            raise Refused(f"{method} is for resources")
        if _OPEN.fullmatch(path) or re.fullmatch(r"/api/v1|/apis/[^/]+(?:/[^/]+)?", path):
            return
        if caller.kubernetes_token is None:
            raise OwnTokenNeeded(path[:80])
        if self._reach.limited:
            raise OutOfReach(f"{path[:80]} tells of all namespaces: kubernetes.namespaces")


@implementer(IBodyProducer)
class SourceProducer:
    """A request's body that is pulled from a L{BodySource}: a chunk is asked for when the last was taken."""

    length = UNKNOWN_LENGTH

    def __init__(self, source: BodySource) -> None:
        self._source = source
        self._running: Deferred[None] | None = None
        self._paused: Deferred[None] | None = None

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """See L{IBodyProducer}."""
        self._running = Deferred.fromCoroutine(self._produce(consumer))
        return self._running

    async def _produce(self, consumer: IConsumer) -> None:
        while data := await self._source.read():
            consumer.write(data)
            if self._paused is not None:
                await self._paused

    def pauseProducing(self) -> None:
        """See L{IBodyProducer}."""
        if self._paused is None:
            self._paused = Deferred()

    def resumeProducing(self) -> None:
        """See L{IBodyProducer}."""
        paused, self._paused = self._paused, None
        if paused is not None and not paused.called:
            paused.callback(None)

    def stopProducing(self) -> None:
        """See L{IBodyProducer}: nobody wants the rest."""
        if self._running is not None:
            self._running.addErrback(lambda _: None)
            self._running.cancel()


def _verb(method: str, path: ApiPath, query: tuple[tuple[str, str], ...]) -> str:
    """The API's verb, as the server's C{RequestInfo} finds it."""
    if method in ("GET", "HEAD"):
        if path.name:
            return "get"  # whatever the query says
        # The first value counts. What is not said to be false is true to the server, an empty value too.
        watch = next((value for name, value in query if name == "watch"), "false")
        return "list" if watch.lower() in ("false", "0") else "watch"
    if method == "DELETE":
        return "delete" if path.name else "deletecollection"
    return {"POST": "create", "PUT": "update", "PATCH": "patch"}[method]


def _applies(headers: Mapping[str, str]) -> bool:
    """Whether a patch is a server-side apply; of several headers any may be the one that counts."""
    types = [value for name, value in headers.items() if name.lower() == "content-type"]
    return any(each.strip().lower().startswith(_APPLY_TYPE) for each in types)


def _acts(verbs: tuple[str, ...], subresource: str) -> tuple[str, ...]:
    """What a request does, by every name by which the owner may have denied it."""
    if not subresource:
        return (*verbs, "delete") if verbs == ("deletecollection",) else verbs
    if subresource == "log":
        return ("logs", *verbs)
    if subresource in _READABLE and verbs == ("get",):
        return verbs
    return (*_OPERATIONS.get(subresource, (subresource,)), *verbs)


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    """@raise Refused: a header that says who asks, or that is between two neighbours."""
    if len(headers) > MAX_HEADERS:
        raise Refused(f"more than {MAX_HEADERS} headers")
    sent = {}
    for name, value in headers.items():
        lower = name.lower()
        if not _TOKEN.fullmatch(name):
            raise Refused(f"a header's name can't be {name[:80]!r}")
        if lower in _REFUSED or lower.startswith(_REFUSED_PREFIXES):
            raise Refused(f"the header {name} is not sent on")
        if len(value) > MAX_HEADER or not all(char == "\t" or " " <= char <= "~" for char in value):
            raise Refused(f"the value of the header {name} is too long, or not printable ASCII")
        if lower in ("accept-encoding", "user-agent"):
            continue  # the connection's own affair, and the agent's name
        sent[name] = value
    return sent


def _pairs(query: Mapping[str, str | list[str]] | str) -> tuple[tuple[str, str], ...]:
    if isinstance(query, str):
        return tuple(parse_qsl(query.removeprefix("?"), keep_blank_values=True))
    pairs = []
    for name, value in query.items():
        pairs += [(name, each) for each in ([value] if isinstance(value, str) else value)]
    return tuple(pairs)


def _handed_on(headers: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The answer's headers, without those that are between the API server and the agent."""
    found: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in _DROPPED:
            continue
        if lower in _ENCODINGS and not value:
            continue  # what twisted.web makes of one that is hidden from it
        shown = "Content-Encoding" if lower in _ENCODINGS else name
        found[shown] = f"{found[shown]}, {value}" if shown in found else value
    return found
