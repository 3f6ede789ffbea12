"""The connector's steps, in memory: what is done in which order, and how each step can end."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgent

from pipeops_agent.net import ClientTLS, Connector, ConnectProblem, LookupProblem, Trace
from pipeops_agent.net.resolver import Address

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


class FakeResolver:
    """Answers as the test says."""

    def __init__(self, *addresses: str) -> None:
        self.asked: list[str] = []
        self.answer: Deferred[list[Address]] = succeed(
            [(IPv6Address if ":" in a else IPv4Address)("TCP", a, 443) for a in addresses]
        )

    def resolve(self, host: str, port: int) -> Deferred[list[Address]]:
        self.asked.append(host)
        return self.answer


class NoDelayTransport(StringTransport):
    no_delay = False
    aborted = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def abortConnection(self) -> None:
        self.aborted = True


class ConnectorTests(SynchronousTestCase):
    """L{Connector.endpoint} over a reactor in memory."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.resolver = FakeResolver("192.0.2.1")
        reactor: Any = self.reactor
        self.connector = Connector(reactor, connect_timeout=10, resolver=self.resolver)
        self.trace = Trace(self.reactor, lambda: NOON)
        self.addCleanup(self.nothing_left)

    def nothing_left(self) -> None:
        """No timer survives an attempt, however it ended."""
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def connect(self, host: str = "api.example", tls: ClientTLS | None = None) -> Deferred[IProtocol]:
        endpoint = self.connector.endpoint(host, 443, tls=tls, trace=self.trace)
        return endpoint.connect(Factory.forProtocol(Protocol))

    def accept(self, number: int = -1) -> tuple[Any, NoDelayTransport]:
        """Let the connection attempt of this number succeed."""
        factory = self.reactor.tcpClients[number][2]
        transport = NoDelayTransport()
        protocol: Any = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 443))
        protocol.makeConnection(transport)
        return protocol, transport

    def refuse(self, number: int = -1, error: Exception | None = None) -> None:
        factory = self.reactor.tcpClients[number][2]
        connector = self.reactor.connectors[number]
        factory.clientConnectionFailed(connector, Failure(error or Refused()))

    def steps(self) -> list[str]:
        return [step.name for step in self.trace.steps]

    def problem(self, connecting: Deferred[IProtocol]) -> ConnectProblem:
        return cast(ConnectProblem, self.failureResultOf(connecting, ConnectProblem).value)

    def test_plain(self) -> None:
        """Name, then TCP; the application's protocol comes out, with TCP_NODELAY set."""
        connecting = self.connect()
        _, transport = self.accept()
        self.assertIsInstance(self.successResultOf(connecting), Protocol)
        self.assertEqual(self.steps(), ["dns", "tcp"])
        self.assertEqual(self.reactor.tcpClients[0][:2], ("192.0.2.1", 443))
        self.assertTrue(transport.no_delay)

    def test_address(self) -> None:
        """An address is not looked up."""
        for host in ("192.0.2.7", "2001:db8::7"):
            connecting = self.connect(host)
            self.assertEqual(self.reactor.tcpClients[-1][0], host)
            self.accept()
            self.successResultOf(connecting)
        self.assertEqual(self.resolver.asked, [])
        self.assertEqual(self.steps(), ["tcp", "tcp"])

    def test_lookup_fails(self) -> None:
        """The step and the name are told."""
        self.resolver.answer = fail(LookupProblem("api.example", "no such name", temporary=False))
        problem = self.problem(self.connect())
        self.assertEqual(problem.step, "dns")
        self.assertIn("api.example: no such name", problem.sentence)
        self.assertFalse(problem.retryable)
        self.assertIsInstance(problem.__cause__, LookupProblem)
        self.assertEqual(self.trace.attempt().error, problem.sentence)

    def test_lookup_too_slow(self) -> None:
        """A lookup that does not end is given up in time, and cancelled."""
        cancelled: list[object] = []
        self.resolver.answer = Deferred(cancelled.append)
        connecting = self.connect()
        self.reactor.advance(9.9)
        self.assertNoResult(connecting)
        self.reactor.advance(0.2)
        problem = self.problem(connecting)
        self.assertEqual((problem.step, problem.timed_out, problem.retryable), ("dns", True, True))
        self.assertIn("within 10 s (dns)", problem.sentence)
        self.assertEqual(len(cancelled), 1)

    def test_refused(self) -> None:
        """A refused connection is retryable, and says by whom."""
        connecting = self.connect()
        self.reactor.advance(0.3)
        self.refuse()
        problem = self.problem(connecting)
        self.assertEqual((problem.step, problem.retryable, problem.timed_out), ("tcp", True, False))
        self.assertEqual(problem.sentence, "api.example:443 refuses connections")

    def test_addresses_race(self) -> None:
        """The next address is tried after 0.3 s beside the first; the slower one is given up."""
        self.resolver.answer = succeed(
            [IPv6Address("TCP", "2001:db8::1", 443), IPv4Address("TCP", "192.0.2.1", 443)]
        )
        connecting = self.connect()
        self.assertEqual(len(self.reactor.tcpClients), 1)
        self.reactor.advance(0.3)
        self.assertEqual([client[0] for client in self.reactor.tcpClients], ["2001:db8::1", "192.0.2.1"])
        self.accept(1)
        self.successResultOf(connecting)
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)

    def test_tcp_too_slow(self) -> None:
        """The time of the lookup counts: all steps together have the one deadline."""
        self.resolver.answer = Deferred()
        connecting = self.connect()
        self.reactor.advance(6)
        self.resolver.answer.callback([IPv4Address("TCP", "192.0.2.1", 443)])
        self.reactor.pump([1, 1, 1, 0.9])
        self.assertNoResult(connecting)
        self.reactor.advance(0.2)
        problem = self.problem(connecting)
        self.assertEqual((problem.step, problem.timed_out), ("tcp", True))
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)

    def test_cancelled_at_each_step(self) -> None:
        """Cancelling ends the step under way, whichever it is, and says only that."""
        self.resolver.answer = Deferred()
        looking_up = self.connect()
        looking_up.cancel()
        self.failureResultOf(looking_up, CancelledError)

        self.resolver.answer = succeed([IPv4Address("TCP", "192.0.2.1", 443)])
        connecting = self.connect()
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertTrue(self.reactor.connectors[-1].stoppedConnecting)

        self.resolver.answer = succeed([IPv4Address("TCP", "192.0.2.1", 443)])
        shaking_hands = self.connect(tls=ClientTLS())
        _, transport = self.accept()
        self.assertNoResult(shaking_hands)
        shaking_hands.cancel()
        self.failureResultOf(shaking_hands, CancelledError)
        self.assertTrue(transport.aborted)
        self.assertEqual([step.error for step in self.trace.steps if step.error], ["cancelled"] * 3)

    def test_handshake_too_slow(self) -> None:
        """A server that is silent after TCP does not make a connection."""
        connecting = self.connect(tls=ClientTLS())
        protocol, transport = self.accept()
        self.assertTrue(transport.value())  # the client has said hello
        self.assertTrue(transport.no_delay)
        self.reactor.pump([1] * 9)
        self.assertNoResult(connecting)
        self.reactor.advance(1)
        problem = self.problem(connecting)
        self.assertEqual((problem.step, problem.timed_out, problem.retryable), ("tls", True, True))
        self.assertTrue(transport.aborted)
        self.assertEqual(self.steps(), ["dns", "tcp", "tls"])
        protocol.connectionLost(Failure(ConnectionAborted()))

    def test_file_is_missing(self) -> None:
        """A CA file that can't be read is named before anything is dialled."""
        problem = self.problem(self.connect(tls=ClientTLS(ca_file="/nonexistent/ca.pem")))
        self.assertEqual(problem.step, "tls")
        self.assertEqual(problem.sentence, "CA file /nonexistent/ca.pem: No such file or directory")
        self.assertFalse(problem.retryable)
        self.assertEqual(self.reactor.tcpClients, [])

    def test_bad_name_in_tls(self) -> None:
        """What is no host name can't be verified, and is refused before it is dialled."""
        problem = self.problem(self.connect("a" * 64 + ".example", tls=ClientTLS()))
        self.assertIn("no valid host name", problem.sentence)

    def test_endpoint_shows_where(self) -> None:
        """An endpoint's text is where it goes to; an IPv6 address is bracketed."""
        self.assertEqual(repr(self.connector.endpoint("2001:db8::1", 1)), "<endpoint [2001:db8::1]:1>")

    def test_agent_schemes(self) -> None:
        """The agent goes through the connector, and knows http and https only."""
        agent = self.connector.agent()
        asking = agent.request(b"GET", b"http://api.example/")
        self.assertEqual(self.resolver.asked, ["api.example"])
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.failureResultOf(agent.request(b"GET", b"ftp://api.example/"), SchemeNotSupported)

    def test_released_agent(self) -> None:
        """The connections of an agent that is let go end: an idle one at once, one in use when it is free."""

        def end(agent: IAgent, *, closing: bool) -> None:
            if closing:
                Deferred.fromCoroutine(self.connector.close())
            else:
                self.connector.release(agent)

        for busy, closing in product((False, True), repeat=2):
            self.resolver.answer = succeed([IPv4Address("TCP", "192.0.2.1", 80)])
            agent = self.connector.agent()
            asking = agent.request(b"GET", b"http://api.example/")
            protocol, transport = self.accept()
            if busy:
                end(agent, closing=closing)
                self.assertFalse(transport.disconnecting)
            protocol.dataReceived(b"HTTP/1.1 204 No Content\r\n\r\n")
            self.assertEqual(self.successResultOf(asking).code, 204)
            if not busy:
                self.assertFalse(transport.disconnecting)
                end(agent, closing=closing)
            self.reactor.advance(0)
            self.assertTrue(transport.disconnecting or transport.aborted)
            protocol.connectionLost(Failure(ConnectionAborted()))
