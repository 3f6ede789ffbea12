"""
One connection: how much it may send, and how long it may take.

C{HTTPChannel} bounds the size of the header and the time between two pieces of data. Added here: the
time for a whole request (a client that sends a byte now and then is cut), the size of the body, the time
for which a closing connection waits for a client that does not read, and errors with a body. Requests that
come together are answered one in each turn of the reactor, and none while the client does not read: else
64 KiB of them would hold up everything else, and their answers fill the memory.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from twisted.internet.interfaces import IDelayedCall, IPushProducer, ISSLTransport, ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request

from pipeops_agent.access.limits import Place
from pipeops_agent.access.origins import Origin
from pipeops_agent.web import replies
from pipeops_agent.web.replies import Refusal, Reply
from pipeops_agent.web.streaming import Stream, Upgrade, Upgraded

if TYPE_CHECKING:
    from pipeops_agent.web.site import AgentSite

SERVER: Final = "pipeops-agent"
"""The header C{Server}: no version, which is for C{/version} to tell."""

MAX_BODY: Final = 1024 * 1024
"""Bytes of a request's body, decoded."""
MAX_HEADERS: Final = 100
"""Header fields of a request."""
MAX_HEADER_BYTES: Final = 16 * 1024
"""Bytes of the request line and all header fields together."""
MAX_LINE: Final = 8 * 1024
"""Bytes of one of these lines."""
MAX_LENGTH_DIGITS: Final = 15
"""Digits of a C{Content-Length} worth reading: python refuses to read thousands, with an exception."""

CLOSE_GRACE: Final = 0.5
"""Seconds for which a connection that is being closed may take what was written to it."""


_log = Logger(namespace="web")


class AgentChannel(HTTPChannel):
    """
    A connection of a client.

    @ivar busy: a request has arrived whole and is being answered.
    """

    MAX_LENGTH = MAX_LINE
    maxHeaders = MAX_HEADERS
    totalHeadersSize = MAX_HEADER_BYTES

    site: AgentSite

    def __init__(self) -> None:
        super().__init__()
        self.busy = False
        self._receiving = False
        self._refused = False
        self._deadline: IDelayedCall | None = None
        self._closing: IDelayedCall | None = None
        self._turn: IDelayedCall | None = None
        self._choked = False
        self._upgraded: Upgraded | None = None
        self._origin: Origin | None = None
        self._place: Place | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.opened(self)

    # HTTPChannel has no annotation, LineReceiver above it has a default that nobody uses.
    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._stop_deadline()
        for call in (self._closing, self._turn):
            if call is not None and call.active():
                call.cancel()
        if self._place is not None:
            self._place.release()
        self.site.closed(self)
        super().connectionLost(reason)
        if self._upgraded is not None:
            self._upgraded.connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        if self._upgraded is not None:
            self._upgraded.dataReceived(data)
            return
        if self._refused:
            return  # read, so that the client gets to read our answer, and dropped
        if self._origin is None:
            # Not before: the tunnel may not have heard yet that its own socket is connected.
            assert self.transport is not None
            self._origin = self.site.access.origin_of(self.transport.getPeer())
        super().dataReceived(data)
        self._watch()

    @property
    def origin(self) -> Origin:
        """Where it comes from; there from the first byte on."""
        assert self._origin is not None
        return self._origin

    def claim(self) -> None:
        """
        Take one of the client's places for as long as this connection lasts, unless it has one already.

        @raise Refusal: 429, the client has as many as it may have; the connection is closed after that.
        """
        if self._place is None:
            try:
                self._place = self.site.access.hold(self.origin, "connections")
            except Refusal:
                self.persistent = 0
                raise

    def lineReceived(self, line: bytes) -> None:
        if self._refused:
            return
        self._receiving = True
        super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        if self._upgraded is not None:  # it came together with the request
            self._upgraded.dataReceived(data)
        elif not self._refused:
            super().rawDataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        if self._receiving:
            self._refuse_header()
        else:
            self.refuse(414, "uri_too_long", f"the request line is longer than {MAX_LINE} bytes")

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and len(value.strip()) > MAX_LENGTH_DIGITS:
            self._refuse_body()
            return False
        return bool(super().headerReceived(line))

    def allHeadersReceived(self) -> None:
        if self.length is not None and self.length > MAX_BODY:
            self._refuse_body()
            return
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        if self._refused:
            return
        self._stop_deadline()
        self._receiving = False
        self.busy = True
        super().allContentReceived()

    def upgrade(self, upgrade: Upgrade) -> None:
        """Let the connection be another protocol's from now on; this one counts it, and ends it at a stop."""
        self._upgraded = upgraded = upgrade.protocol
        transport: Any = self.transport
        transport.unregisterProducer()  # this channel
        early, self._dataBuffer = b"".join(self._dataBuffer), []
        self.requests.clear()
        upgraded.makeConnection(transport)
        upgraded.dataReceived(upgrade.opening)
        self._networkProducer.resumeProducing()
        if early:
            upgraded.dataReceived(early)

    def requestDone(self, request: Request) -> None:
        self.busy = False
        self.site.rested(self)
        self.paused = True  # LineReceiver's: what has arrived already waits for its turn
        super().requestDone(request)
        self._next_turn()

    def pauseProducing(self) -> None:
        """The client does not read: called by the transport, mostly while an answer is written."""
        self._choked = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """The client reads again."""
        self._choked = False
        super().resumeProducing()
        if self.paused:
            self._next_turn()

    def timeoutConnection(self) -> None:
        _log.debug("idle connection closed", client=self.peer)
        self.loseConnection()

    def loseConnection(self) -> None:
        self._close_within_grace()
        super().loseConnection()

    def wind_up(self) -> None:
        """Close: after the answer under way, else now; at the latest after L{CLOSE_GRACE}."""
        self.persistent = 0
        if self._upgraded is not None:
            self._close_within_grace()
            self._upgraded.wind_up()
        elif self.busy:
            self._close_within_grace()
        else:
            self.loseConnection()

    def abort(self) -> None:
        """Close at once."""
        cast(ITCPTransport, self.transport).abortConnection()

    @property
    def peer(self) -> str:
        """The client's address, for the log."""
        assert self.transport is not None
        peer = self.transport.getPeer()
        return str(getattr(peer, "host", peer))

    def over_body_limit(self) -> None:
        """The body turned out to be longer than may be."""
        self._refuse_body()

    def refuse(self, code: int, name: str, message: str) -> None:
        """
        Answer a request that is not received to its end, and close.

        What the client still sends is read and dropped for a while: closing at once would make its
        system throw away the answer together with the connection.
        """
        if self._refused:
            return
        self._refused = True
        self._stop_deadline()
        self.setTimeout(None)
        self.site.refused(code, self.peer, message)
        reply = replies.error(code, name, message)
        assert self.transport is not None
        self.transport.writeSequence(
            [
                b"HTTP/1.1 %d %s\r\n" % (code, HTTPStatus(code).phrase.encode()),
                *(
                    b"%s: %s\r\n" % (header.encode(), value.encode())
                    for header, value in headers_of(reply, close=True)
                ),
                b"\r\n",
                reply.body,
            ]
        )
        half_close = getattr(self.transport, "loseWriteConnection", None)
        # TLS has no half of a connection: its own end is told, and the peer's waited for.
        if half_close is None or ISSLTransport.providedBy(self.transport):
            self.loseConnection()
        else:
            self._close_within_grace()
            half_close()

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802 (HTTPChannel's name)
        # What HTTPChannel calls for whatever it can't parse, limits of the header included.
        if self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders:
            self._refuse_header()
        else:
            self.refuse(400, "bad_request", "the request is not valid HTTP")

    def _refuse_header(self) -> None:
        self.refuse(
            431,
            "header_too_large",
            f"the header has over {MAX_HEADERS} fields, or {MAX_HEADER_BYTES} bytes, {MAX_LINE} in a line",
        )

    def _refuse_body(self) -> None:
        self.refuse(413, "body_too_large", f"the body is longer than {MAX_BODY} bytes")

    def _next_turn(self) -> None:
        """Go on with what has arrived already, if anything has, when the others have had their turn."""
        if self._closing is not None:
            return
        if self._choked or self._buffer:
            cast(IPushProducer, self.transport).pauseProducing()
            if not self._choked and self._turn is None:
                self._turn = self.callLater(0, self._go_on)
        else:
            self.paused = False

    def _go_on(self) -> None:
        self._turn = None
        if self._choked:
            return  # resumeProducing will ask for another turn
        self.paused = False
        cast(IPushProducer, self.transport).resumeProducing()
        self.dataReceived(b"")

    def _watch(self) -> None:
        """See to it that a request that has begun to arrive arrives in time."""
        begun = self._receiving or bool(self._buffer)
        waiting = begun and not (self.busy or self.paused or self._refused)
        if waiting and self._deadline is None and self._closing is None:
            self._deadline = self.callLater(self.site.request_timeout, self._overdue)

    def _overdue(self) -> None:
        self._deadline = None
        self.refuse(408, "request_timeout", f"no whole request within {self.site.request_timeout:g} s")

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_within_grace(self) -> None:
        if self._closing is None:
            self._closing = self.callLater(CLOSE_GRACE, self.abort)


def headers_of(reply: Reply | Stream, *, close: bool = False) -> list[tuple[str, str]]:
    """All header fields of an answer but C{Date}."""
    headers = [("Server", SERVER), ("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store")]
    if reply.content_type is not None:
        headers.append(("Content-Type", reply.content_type))
    if isinstance(reply, Reply) and reply.code != 204:
        headers.append(("Content-Length", str(len(reply.body))))
    if close:
        headers.append(("Connection", "close"))
    return [*headers, *reply.headers]
