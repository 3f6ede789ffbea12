"""What an HTTP agent's connections need beyond twisted.web: a bound on answers, and a prompt end."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from pipeops_agent.net.problems import AnswerTooLong


class AnswerConnection(ProtocolWrapper):
    """
    Stands between an HTTP client's protocol and its connection.

    It counts what comes in since something last went out, which bounds status, headers and body
    together: twisted.web keeps headers without a limit. And it ends at once: a client that has lost
    interest must not wait for the peer's part of the TLS shutdown, which a hung peer never does.
    """

    factory: BoundedAnswers
    _received = 0
    _too_long = _lost = False

    def write(self, data: bytes) -> None:
        self._received = 0
        super().write(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self._received = 0
        super().writeSequence(data)

    def loseConnection(self) -> None:
        self.disconnecting = 1
        if not self._lost:  # a pool lets go of connections that have just ended, too: TLS would raise
            self.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        if self.factory.limit is None or self._received <= self.factory.limit:
            super().dataReceived(data)
        elif not self._too_long:
            self._too_long = True
            self.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        if self._too_long:
            reason = Failure(AnswerTooLong(f"the answer is longer than {self.factory.limit} bytes"))
        super().connectionLost(reason)


class BoundedAnswers(WrappingFactory):
    """
    Makes an L{AnswerConnection} for each protocol.

    @ivar limit: the bytes that one answer may have on the wire; None: as many as it likes.
    """

    protocol = AnswerConnection
    noisy = False

    def __init__(self, factory: IProtocolFactory, limit: int | None) -> None:
        super().__init__(factory)
        self.limit = limit


@implementer(IStreamClientEndpoint)
class AnswerEndpoint:
    """Connects an HTTP client's protocol through an L{AnswerConnection}."""

    def __init__(self, endpoint: IStreamClientEndpoint, limit: int | None) -> None:
        self._endpoint = endpoint
        self._limit = limit

    def __repr__(self) -> str:
        return repr(self._endpoint)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803  # its name
        """See L{IStreamClientEndpoint}."""

        def application(wrapper: IProtocol) -> IProtocol:
            assert isinstance(wrapper, AnswerConnection)
            inner: IProtocol = wrapper.wrappedProtocol
            return inner

        return self._endpoint.connect(BoundedAnswers(protocolFactory, self._limit)).addCallback(application)
