"""Bodies: a request's, written at once; an answer's, bounded in size and decoded here."""

from __future__ import annotations

import zlib
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

MAX_BODY: Final = 1 << 20
"""No body is longer than this, decoded."""

_ENCODING: Final = b"X-Agent-Content-Encoding"


class BodyTooLong(Exception):
    """The body is longer than L{MAX_BODY}; what came so far is dropped."""


class BodyDamaged(Exception):
    """The body can't be decoded."""


@implementer(IBodyProducer)
class BytesProducer:
    """Writes a request's body in one piece. treq's own producer takes its turns from the global reactor."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """See L{IBodyProducer}."""
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """See L{IBodyProducer}: it is done by then."""

    def resumeProducing(self) -> None:
        """See L{IBodyProducer}: it is done by then."""

    def stopProducing(self) -> None:
        """See L{IBodyProducer}: it is done by then."""


@implementer(IAgent)
class UndecodedAgent:
    """
    Hides C{Content-Encoding} from treq, and leaves the decoding to L{read_body}.

    treq's own decoder has no limit: a few KiB become gigabytes, and once more for each layer named.

    @param compressed: whether a compressed answer is asked for, as treq always does.
    """

    def __init__(self, agent: IAgent, *, compressed: bool = True) -> None:
        self._agent = agent
        self._compressed = compressed

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,  # noqa: N803  # IAgent's name
    ) -> Deferred[IResponse]:
        """See L{IAgent}."""

        def hide(response: IResponse) -> IResponse:
            encodings = response.headers.getRawHeaders(b"Content-Encoding", [])
            response.headers.removeHeader(b"Content-Encoding")
            response.headers.setRawHeaders(_ENCODING, encodings)
            return response

        if headers is not None and not self._compressed:
            headers = headers.copy()
            headers.removeHeader(b"Accept-Encoding")
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(hide)


def read_body(response: Any, limit: int = MAX_BODY) -> Deferred[bytes]:
    """
    The body of C{response}, an answer that came through L{UndecodedAgent}.

    Cancelling aborts the connection.

    @raise BodyTooLong: through the result; the connection is aborted.
    @raise BodyDamaged: through the result.
    """
    encodings = b",".join(response.headers.getRawHeaders(_ENCODING, [])).strip().lower()
    reader = _Reader(limit, gzip=encodings in (b"gzip", b"x-gzip"))
    if encodings not in (b"", b"identity", b"gzip", b"x-gzip"):
        reader.fail(BodyDamaged(f"an encoding that was not asked for: {encodings[:64].decode('latin-1')}"))
    response.deliverBody(reader)
    return reader.finished


class _Reader(Protocol):
    """Collects a body, gunzipping it with a bound on what each step may yield."""

    def __init__(self, limit: int, *, gzip: bool) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._length = 0
        self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS) if gzip else None
        self._failure: Exception | None = None
        self.finished: Deferred[bytes] = Deferred(lambda _: self._abort())

    def connectionMade(self) -> None:
        if self._failure is not None:
            self._abort()

    def dataReceived(self, data: bytes) -> None:
        if self._failure is not None:
            return
        if self._inflate is not None:
            try:
                # One byte more than there is room for: enough to know that it is too long.
                data = self._inflate.decompress(data, self._limit - self._length + 1)
            except zlib.error as error:
                self.fail(BodyDamaged(f"not gzip: {error}"))
                return
        self._length += len(data)
        if self._length > self._limit:
            self.fail(BodyTooLong(f"the answer is longer than {self._limit} bytes"))
            return
        self._parts.append(data)

    def fail(self, error: Exception) -> None:
        """Give up: nothing more is kept, and the connection is not used again."""
        self._failure = error
        self._parts.clear()
        self._abort()
        if not self.finished.called:
            self.finished.errback(error)

    def _abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            getattr(transport, "abortConnection", transport.loseConnection)()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.finished.called:
            return
        # Without a length the end of the connection is the end of the body.
        if not reason.check(ResponseDone, PotentialDataLoss):
            self.finished.errback(reason)
        elif self._inflate is not None and self._length and not self._inflate.eof:
            self.finished.errback(BodyDamaged("the gzip data end too early"))
        else:
            self.finished.callback(b"".join(self._parts))
