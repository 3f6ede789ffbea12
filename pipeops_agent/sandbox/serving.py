"""Listening and answering: what the sandbox's HTTP servers share. Stopping leaves no connection behind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final, Generic, TypeVar, cast

import msgspec
from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTCP,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import ServerFactory
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from pipeops_agent.scheduling import Tasks, as_deferred

MAX_BODY: Final = 1024 * 1024
"""The largest request body that is taken in, in bytes; what comes beyond is dropped and answered with 413."""

IDLE_TIMEOUT: Final = 60.0
"""How long a client may take over a request, in seconds."""

MAX_CONNECTIONS: Final = 2000
"""How many connections one listener holds at a time; further ones are closed at once."""


HTML_PAGE: Final = "<html><head><title>Service</title></head><body><h1>Please stand by</h1></body></html>\n"
"""What a proxy in front of a control plane says."""

T = TypeVar("T")


class IServerReactor(IReactorTCP, IReactorTime):
    """What a server needs of the reactor."""


class _Counted(WrappingFactory):
    """Knows its connections, and when the last one is gone."""

    noisy = False
    _roll: Roll[ProtocolWrapper] | None = None

    @property
    def roll(self) -> Roll[ProtocolWrapper]:
        """The connections that are there."""
        if self._roll is None:
            self._roll = Roll()
        return self._roll

    def buildProtocol(self, addr: Any) -> ProtocolWrapper | None:  # type: ignore[override]  # None is allowed
        return super().buildProtocol(addr) if len(self.roll) < MAX_CONNECTIONS else None

    def registerProtocol(self, p: ProtocolWrapper) -> None:
        super().registerProtocol(p)
        self.roll.enter(p)

    def unregisterProtocol(self, p: ProtocolWrapper) -> None:
        super().unregisterProtocol(p)
        self.roll.leave(p)

    def abort_all(self) -> Deferred[None]:
        """Reset every connection; fires when all are gone."""
        for wrapper in self.roll:
            wrapper.abortConnection()
        return self.roll.emptied()


class _CountedTLS(_Counted, TLSMemoryBIOFactory):
    """The same, behind TLS."""


class Listener(Service):
    """
    Serves C{factory} on one address while running.

    @param port: 0: a free one.
    @param tls: the server's certificate; None: plain TCP.
    """

    def __init__(
        self,
        reactor: IServerReactor,
        factory: IProtocolFactory,
        *,
        interface: str,
        port: int,
        tls: IOpenSSLServerConnectionCreator | None = None,
    ) -> None:
        self._reactor = reactor
        self._interface = interface
        self._wanted = port
        self._port: IListeningPort | None = None
        self._factory: _Counted
        if tls is None:
            self._factory = _Counted(factory)
        else:
            self._factory = _CountedTLS(tls, False, factory, reactor)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._port is not None, "not started"
        return cast(IPv4Address | IPv6Address, self._port.getHost()).port

    def startService(self) -> None:
        """@raise CannotListenError: the address can't be had."""
        self._port = self._reactor.listenTCP(
            self._wanted, cast(ServerFactory[Any], self._factory), interface=self._interface
        )
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Close the port and reset every connection; fires when all are gone."""
        super().stopService()
        port, self._port = self._port, None
        if port is None:
            return succeed(None)
        closed = port.stopListening() or succeed(None)
        return gatherResults([closed, self._factory.abort_all()], consumeErrors=True).addCallback(
            lambda _: None
        )


class BoundedRequest(Request):
    """A request whose body is kept up to L{MAX_BODY}."""

    received = 0

    @property
    def too_large(self) -> bool:
        """Whether there was more."""
        return self.received > MAX_BODY

    def gotLength(self, length: int | None) -> None:
        # The length decides between memory and a temporary file; of a body that is not kept it says nothing.
        super().gotLength(None if length is None else min(length, MAX_BODY))

    def body(self) -> bytes:
        """What was sent."""
        return cast(IO[bytes], self.content).read()

    def handleContentChunk(self, data: bytes) -> None:
        self.received += len(data)
        if not self.too_large:
            super().handleContentChunk(data)


class QuietSite(Site):
    """A site on the given reactor, with bounded requests, idle timeouts, and no access log."""

    def __init__(self, reactor: IReactorTime, resource: Resource) -> None:
        super().__init__(resource, requestFactory=BoundedRequest, timeout=IDLE_TIMEOUT, reactor=reactor)
        self.displayTracebacks = False
        self.noisy = False

    def log(self, request: object) -> None:
        """Who called is logged where it means something, by the resources."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP answer. C{body} is bytes as they are, text, or something to be JSON."""

    status: int = 200
    body: Any = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}

    def encoded(self) -> bytes:
        """The body's bytes."""
        if isinstance(self.body, bytes):
            return self.body
        if isinstance(self.body, str):
            return self.body.encode()
        return json.dumps(self.body).encode() + b"\n"


def error(status: int, message: str, **headers: str) -> Answer:
    """C{{"error": message}}."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return Answer(status=status, body={"error": message}, headers=named)


class Hangup(Exception):
    """The connection is reset instead of an answer."""


def reset(request: Request) -> None:
    """Reset the connection that C{request} came on."""
    cast(ITCPTransport, request.channel.transport).abortConnection()


class Answering(Resource):
    """A resource whose L{answer} is a coroutine, cancelled when its client goes and when the server stops."""

    isLeaf = True

    def __init__(self, tasks: Tasks) -> None:
        super().__init__()
        self._tasks = tasks

    async def answer(self, request: BoundedRequest) -> Answer:
        """@raise Hangup: to reset the connection."""
        raise NotImplementedError

    def render(self, request: Request) -> int:
        assert isinstance(request, BoundedRequest)
        running = as_deferred(self._serve(request))
        request.notifyFinish().addErrback(self._gone, running)
        self._tasks.spawn(running, "an answer")
        return NOT_DONE_YET

    def _gone(self, reason: Failure, running: Deferred[None]) -> None:
        reason.trap(ConnectionDone, ConnectionLost)
        running.cancel()

    async def _serve(self, request: BoundedRequest) -> None:
        try:
            answer = error(413, f"body: more than {MAX_BODY} bytes")
            if not request.too_large:
                answer = await self.answer(request)
        except Hangup:
            reset(request)
            return
        request.setResponseCode(answer.status)
        request.setHeader("Content-Type", answer.content_type)
        for name, value in answer.headers.items():
            request.setHeader(name, value)
        body = answer.encoded()
        if answer.status not in (204, 304):
            request.setHeader("Content-Length", str(len(body)))
            request.write(body)
        request.finish()


class Fixed(Answering):
    """The same answer for everybody."""

    def __init__(self, answer: Answer, tasks: Tasks) -> None:
        super().__init__(tasks)
        self._answer = answer

    async def answer(self, request: BoundedRequest) -> Answer:
        return self._answer


class Never(Answering):
    """No answer, until the client goes or the server stops."""

    async def answer(self, request: BoundedRequest) -> Answer:
        await Deferred()
        raise Hangup  # nothing fires it, so that cancelling is the one way on


class Root(Resource):
    """A site's paths; what is not there is C{missing}."""

    def __init__(self, children: Mapping[bytes, Resource], missing: Resource) -> None:
        super().__init__()
        self._missing = missing
        for path, child in children.items():
            self.putChild(path, child)

    def getChild(self, path: bytes, request: object) -> Resource:
        return self._missing


class Roll(Generic[T]):
    """Things that are there until they say that they are gone."""

    def __init__(self) -> None:
        self._there: set[T] = set()
        self._waiting: list[Deferred[None]] = []

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._there))

    def __len__(self) -> int:
        return len(self._there)

    def enter(self, one: T) -> None:
        """C{one} is there."""
        self._there.add(one)

    def leave(self, one: T) -> None:
        """C{one} is gone; said again it changes nothing."""
        self._there.discard(one)
        if not self._there:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                waiter.callback(None)

    def emptied(self) -> Deferred[None]:
        """Fires when nothing is there any more; one Deferred per call."""
        waiter: Deferred[None] = Deferred()
        if self._there:
            self._waiting.append(waiter)
        else:
            waiter.callback(None)
        return waiter
