"""One request: which route it takes, and how its reply is sent."""

from __future__ import annotations

from collections.abc import Awaitable
from io import BytesIO
from typing import TYPE_CHECKING, Any, AnyStr, Final, cast

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString
from twisted.web.server import Request

from pipeops_agent.scheduling import as_deferred
from pipeops_agent.web import replies
from pipeops_agent.web.channel import MAX_BODY, AgentChannel, headers_of
from pipeops_agent.web.compression import compressed
from pipeops_agent.web.replies import Refusal, Reply
from pipeops_agent.web.routes import Answer
from pipeops_agent.web.streaming import Body, Stream, Upgrade

if TYPE_CHECKING:
    from pipeops_agent.web.site import AgentSite

UNMATCHED: Final = "unmatched"
"""The name, in metrics and logs, of every path that has no route."""

UNCOUNTED: Final = frozenset({"/health", "/ready"})
"""What no client's limit is in the way of: a probe hears how the agent is, whatever else its address asks."""

_log = Logger(namespace="web")

_SCHEMES: Final = (b"http://", b"https://")


class AgentRequest(Request):
    """
    A request that has arrived whole.

    @ivar endpoint: the template of its route.
    @ivar began: when it had arrived, on the reactor's clock.
    """

    defaultContentType = None
    channel: AgentChannel

    def __init__(self, channel: AgentChannel, *args: Any, **kwargs: Any) -> None:
        super().__init__(channel, *args, **kwargs)
        self.endpoint = UNMATCHED
        self.began = 0.0
        self._body_length = 0
        self._gone = False

    def gotLength(self, length: int | None) -> None:
        # In memory, since it is bounded; the class overridden wants a temporary file from 100 kB on,
        # for which a read-only system has no place.
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        if self._gone:
            return
        self._body_length += len(data)
        if self._body_length > MAX_BODY:
            self.channel.over_body_limit()
        else:
            super().handleContentChunk(data)

    def getHeader(self, key: AnyStr) -> AnyStr | None:  # noqa: N802  # Twisted's
        """As in the class overridden, where text that is not UTF-8 is an exception: any byte may come."""
        if isinstance(key, bytes):
            return super().getHeader(key)
        found = super().getHeader(key.encode("ascii"))
        return None if found is None else found.decode("latin-1")

    def connectionLost(self, reason: Failure) -> None:
        self._gone = True
        super().connectionLost(reason)

    def process(self) -> None:
        site = self.channel.site
        self.site = site
        self.began = site.reactor.seconds()
        try:
            answer = self._answer(site)
        except Exception:
            self._failed(Failure())
            return
        if isinstance(answer, Reply | Stream | Upgrade):
            self._send(answer)
            return
        working = as_deferred(answer)
        self.notifyFinish().addErrback(lambda _: working.cancel())
        working.addCallback(self._send).addErrback(self._failed)

    def _answer(self, site: AgentSite) -> Answer | Awaitable[Answer]:
        """@raise Refusal: this can't be answered as asked."""
        method = self.method.decode("latin-1")
        if self.clientproto == b"HTTP/1.1" and len(self.requestHeaders.getRawHeaders(b"host", [])) != 1:
            # RFC 9112, 3.2: a request without a host, or with two, is answered with 400.
            raise Refusal(400, "bad_request", "expected one Host header")
        if self.path == b"*" and method == "OPTIONS":
            return Reply(code=204, headers=(("Allow", "GET, HEAD, OPTIONS"),))
        match = site.router.match(_without_origin(self.path))
        if match is not None:
            self.endpoint = match.template
        if self.endpoint not in UNCOUNTED:
            self.channel.claim()
            site.access.admit(self)
        if match is None:
            raise Refusal(404, "not_found", "there is nothing at this path")
        if method == "OPTIONS":
            return Reply(code=204, headers=(("Allow", match.allow),))
        handler = match.handler(method)
        if handler is None:
            message = f"{match.template} can be asked by {match.allow}"
            raise Refusal(405, "method_not_allowed", message, ("Allow", match.allow))
        return handler(self, match.parameters)

    def _failed(self, failure: Failure) -> None:
        if failure.check(Refusal):
            self._send(cast(Refusal, failure.value).reply)
        elif not (self._gone and failure.check(CancelledError)):
            _log.failure("{endpoint} could not be answered", failure=failure, endpoint=self.endpoint)
            self._send(replies.error(500, "internal", "the agent failed to answer; its log says why"))

    def _send(self, answer: Answer) -> None:
        if self._gone:
            if isinstance(answer, Stream):
                answer.unused()
            return
        if isinstance(answer, Upgrade):
            self._upgrade(answer)
            return
        if isinstance(answer, Reply):
            answer = compressed(answer, self.requestHeaders.getRawHeaders("accept-encoding", []))
        self.setResponseCode(answer.code if isinstance(answer, Reply) else 200)
        self.setHeader("Date", datetimeToString())
        for name, value in headers_of(answer):
            self.setHeader(name, value)
        if isinstance(answer, Stream):
            self._begin(answer)
        else:
            self.write(answer.body)
            self.finish()

    def _begin(self, stream: Stream) -> None:
        self.write(b"")  # the header alone
        if self.method == b"HEAD":
            stream.unused()
            self.finish()
            return
        try:
            stream.begin(Body(self))
        except Exception:
            _log.failure("{endpoint} could not be streamed", endpoint=self.endpoint)
            self.channel.abort()

    def _upgrade(self, upgrade: Upgrade) -> None:
        self.setResponseCode(101)
        self.channel.site.log(self)
        self.channel.upgrade(upgrade)


def _without_origin(target: bytes) -> bytes:
    """The path of a request target in absolute form (RFC 9112, 3.2.2), which proxies send."""
    for scheme in _SCHEMES:
        if target.lower().startswith(scheme):
            return b"/" + target[len(scheme) :].partition(b"/")[2]
    return target
