"""Tests of L{pipeops_agent.net.answers}: a connection that is let go after it has ended."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.net.answers import AnswerConnection, BoundedAnswers


class Transport(StringTransport):
    """Counts how often it is aborted."""

    aborts = 0

    def abortConnection(self) -> None:
        self.aborts += 1


class EndTests(SynchronousTestCase):
    """Letting go of a connection."""

    def setUp(self) -> None:
        wrapper = BoundedAnswers(Factory.forProtocol(Protocol), None).buildProtocol(None)
        assert isinstance(wrapper, AnswerConnection)
        self.wrapper, self.transport = wrapper, Transport()
        wrapper.makeConnection(self.transport)

    def test_at_once(self) -> None:
        """A connection that is there is aborted: nobody waits for the peer."""
        self.wrapper.loseConnection()
        self.assertEqual(self.transport.aborts, 1)

    def test_after_the_end(self) -> None:
        """One that has ended is left alone: a pool closes those too, and TLS has nothing to shut down."""
        self.wrapper.connectionLost(Failure(ConnectionLost()))
        self.wrapper.loseConnection()
        self.assertEqual(self.transport.aborts, 0)
