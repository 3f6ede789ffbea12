"""The connector's way through a proxy, in memory: its steps, and how each can end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.net import ClientTLS, Connector, ConnectProblem, LookupProblem, Trace
from pipeops_agent.settings.proxies import Proxies
from pipeops_agent.settings.proxy_url import parse_proxy
from tests.net.test_connector import FakeResolver, NoDelayTransport

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
OK = b"HTTP/1.1 200 OK\r\n\r\n"


class Keeper(Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard = b""
        self.lost = 0

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost += 1


class ProxyCase(SynchronousTestCase):
    """A connector with a proxy for everything."""

    url = "http://agent:horse-battery@proxy.corp:3128"

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.resolver = FakeResolver()
        self.found = True
        self.trace = Trace(self.reactor, lambda: NOON)
        self.use(self.url)
        self.addCleanup(lambda: self.assertEqual(self.reactor.getDelayedCalls(), []))

    def use(self, url: str) -> None:
        proxy = parse_proxy(url, "HTTPS_PROXY")
        self.port = proxy.port
        self.proxies = Proxies(https=proxy, http=proxy)
        self.connector = Connector(
            cast(Any, self.reactor), connect_timeout=10, resolver=self.resolver, proxies=lambda: self.proxies
        )

    def connect(self, host: str = "api.example", tls: ClientTLS | None = None) -> Deferred[IProtocol]:
        if self.found:
            self.resolver.answer = succeed([IPv4Address("TCP", "192.0.2.9", self.port)])
        endpoint = self.connector.endpoint(host, 443, tls=tls, trace=self.trace)
        return endpoint.connect(Factory.forProtocol(Keeper))

    def accept(self) -> tuple[Any, NoDelayTransport]:
        """Let the connection to the proxy succeed."""
        factory = self.reactor.tcpClients[-1][2]
        transport = NoDelayTransport()
        protocol: Any = factory.buildProtocol(IPv4Address("TCP", "192.0.2.9", 3128))
        protocol.makeConnection(transport)
        return protocol, transport

    def steps(self) -> list[str]:
        return [step.name for step in self.trace.steps]

    def problem(self, connecting: Deferred[IProtocol], step: str = "proxy") -> ConnectProblem:
        problem = cast(ConnectProblem, self.failureResultOf(connecting, ConnectProblem).value)
        self.assertEqual(problem.step, step)
        self.assertEqual(self.trace.attempt().error, problem.sentence)
        shown = f"{problem} {problem!r} {self.trace.attempt()}"
        for part in ("horse-battery", "agent:"):
            self.assertNotIn(part, shown)
        return problem


class ConnectTests(ProxyCase):
    """Through an HTTP proxy."""

    def test_plain(self) -> None:
        """The proxy's name is looked up, never the target's; the application starts once it is through."""
        connecting = self.connect()
        self.assertEqual(self.resolver.asked, ["proxy.corp"])
        protocol, transport = self.accept()
        self.assertTrue(transport.value().startswith(b"CONNECT api.example:443 HTTP/1.1\r\n"))
        transport.clear()
        self.assertNoResult(connecting)
        protocol.dataReceived(OK[:5])
        protocol.dataReceived(OK[5:] + b"early")
        application = cast(Keeper, self.successResultOf(connecting))
        self.assertEqual((application.heard, transport.value()), (b"early", b"hello"))
        self.assertTrue(transport.no_delay)
        protocol.dataReceived(b", late")
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((application.heard, application.lost), (b"early, late", 1))
        self.assertEqual(self.steps(), ["dns", "tcp", "proxy"])

    def test_tls(self) -> None:
        """TLS begins with the target, after the proxy is done, and is a step of its own."""
        connecting = self.connect(tls=ClientTLS())
        protocol, transport = self.accept()
        transport.clear()
        protocol.dataReceived(OK)
        self.assertEqual(transport.value()[:2], b"\x16\x03")
        self.assertIn(b"api.example", transport.value())
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertTrue(transport.aborted)
        self.assertEqual(self.steps(), ["dns", "tcp", "proxy", "tls"])

    def test_time(self) -> None:
        """The time that the proxy took is its step's; and all steps have the one deadline."""
        connecting = self.connect(tls=ClientTLS())
        protocol, _ = self.accept()
        self.reactor.advance(6)
        protocol.dataReceived(OK)
        self.assertEqual(self.trace.steps[-1].seconds, 6)
        self.reactor.advance(4)
        self.assertIn(
            "no answer from api.example:443 within 10 s (tls)", self.problem(connecting, "tls").sentence
        )

    def test_silence(self) -> None:
        """A proxy that takes the connection and says nothing is given up in time."""
        connecting = self.connect()
        _, transport = self.accept()
        self.reactor.advance(10)
        problem = self.problem(connecting)
        self.assertEqual(problem.sentence, "no answer from the proxy proxy.corp:3128 within 10 s (proxy)")
        self.assertTrue(problem.timed_out and problem.retryable and transport.aborted)

    def test_unreachable(self) -> None:
        """Whose name, and whose port, is said: the proxy's."""
        self.found = False
        self.resolver.answer = fail(LookupProblem("proxy.corp", "no such name", temporary=False))
        self.assertIn("no address found for proxy.corp", self.problem(self.connect(), "dns").sentence)
        self.found = True
        self.trace = Trace(self.reactor, lambda: NOON)
        connecting = self.connect()
        self.reactor.tcpClients[-1][2].clientConnectionFailed(self.reactor.connectors[-1], Failure(Refused()))
        problem = self.problem(connecting, "tcp")
        self.assertEqual(problem.sentence, "the proxy proxy.corp:3128 refuses connections")

    def test_refused(self) -> None:
        """The proxy's no is the step's error, and ends the connection."""
        for answer, says in (
            (
                b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
                "does not accept the user and password (407 ",
            ),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", "does not allow a connection to api.example:443"),
            (b"<html>", "does not answer as an HTTP proxy"),
            (b"HTTP/1.1 200 OK\r\n" + b"a" * 20000, "answers CONNECT with more than 16384 bytes"),
        ):
            self.trace = Trace(self.reactor, lambda: NOON)
            connecting = self.connect()
            protocol, transport = self.accept()
            protocol.dataReceived(answer)
            self.assertIn(f"the proxy proxy.corp:3128 {says}", self.problem(connecting).sentence)
            self.assertTrue(transport.aborted)
            protocol.dataReceived(b"more")
            protocol.connectionLost(Failure(ConnectionDone()))

    def test_closes(self) -> None:
        """A proxy that hangs up, before or within its answer."""
        for answer in (b"", b"HTTP/1.1 200"):
            self.trace = Trace(self.reactor, lambda: NOON)
            connecting = self.connect()
            protocol, _ = self.accept()
            protocol.dataReceived(answer)
            protocol.connectionLost(Failure(ConnectionDone()))
            problem = self.problem(connecting)
            self.assertEqual(
                problem.sentence,
                "the proxy proxy.corp:3128 closed the connection before api.example:443 was reached",
            )
            self.assertTrue(problem.retryable)

    def test_cancelled(self) -> None:
        """Cancelling ends the conversation with the proxy."""
        connecting = self.connect()
        protocol, transport = self.accept()
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertTrue(transport.aborted)
        protocol.dataReceived(OK)
        self.assertEqual(self.trace.steps[-1].error, "cancelled")

    def test_no_protocol(self) -> None:
        """An application that makes no protocol leaves no connection."""

        class Nobody(Factory):
            def buildProtocol(self, addr: object) -> None:
                return None

        self.resolver.answer = succeed([IPv4Address("TCP", "192.0.2.9", self.port)])
        connecting = self.connector.endpoint("api.example", 443).connect(Nobody())
        protocol, transport = self.accept()
        protocol.dataReceived(OK)
        self.failureResultOf(connecting)
        self.assertTrue(transport.aborted)

    def test_no_name(self) -> None:
        """What is no host name is refused before anything is dialled."""
        problem = self.failureResultOf(self.connect("a b"), ConnectProblem).value
        self.assertEqual(str(problem), "a b:443 has no valid host name")
        self.assertEqual(self.reactor.tcpClients, [])

    def test_never_for_loopback(self) -> None:
        """Loopback is reached directly; so is what the settings of the moment exempt."""
        self.connect("127.0.0.1").addErrback(lambda _: None).cancel()
        self.connect("::1").addErrback(lambda _: None).cancel()
        self.connect("localhost").addErrback(lambda _: None).cancel()
        self.assertEqual(self.resolver.asked, ["localhost"])
        endpoint = self.connector.endpoint("api.example", 443)
        self.proxies = Proxies()
        endpoint.connect(Factory.forProtocol(Keeper)).addErrback(lambda _: None).cancel()
        self.assertEqual(self.resolver.asked[-1], "api.example")

    def test_agent(self) -> None:
        """HTTP calls go the same way, those without TLS too."""
        self.resolver.answer = succeed([IPv4Address("TCP", "192.0.2.9", self.port)])
        asking = self.connector.agent().request(b"GET", b"http://api.example/path")
        protocol, transport = self.accept()
        self.assertIn(b"CONNECT api.example:80 ", transport.value())
        transport.clear()
        protocol.dataReceived(OK)
        self.assertTrue(transport.value().startswith(b"GET /path HTTP/1.1\r\n"))
        self.assertNotIn(b"Proxy-Authorization", transport.value())
        asking.addErrback(lambda _: None).cancel()
        protocol.connectionLost(Failure(ConnectionDone()))


class SocksTests(ProxyCase):
    """Through a SOCKS proxy."""

    url = "socks5h://agent:horse-battery@proxy.corp"

    def test_through(self) -> None:
        """The conversation goes to and fro; then the application has the connection."""
        connecting = self.connect()
        self.assertEqual(self.reactor.tcpClients[-1][:2], ("192.0.2.9", 1080))
        protocol, transport = self.accept()
        self.assertEqual(transport.value(), b"\x05\x02\x00\x02")
        protocol.dataReceived(b"\x05\x02")
        protocol.dataReceived(b"\x01\x00")
        self.assertIn(b"\x0bapi.example\x01\xbb", transport.value())
        transport.clear()
        protocol.dataReceived(b"\x05\x00\x00\x01" + bytes(6) + b"early")
        application = cast(Keeper, self.successResultOf(connecting))
        self.assertEqual((application.heard, transport.value()), (b"early", b"hello"))
        self.assertEqual(self.steps(), ["dns", "tcp", "proxy"])

    def test_refused(self) -> None:
        """A reply code is the step's error."""
        connecting = self.connect()
        protocol, transport = self.accept()
        protocol.dataReceived(b"\x05\x00\x05\x02")
        self.assertEqual(
            self.problem(connecting).sentence,
            "the proxy proxy.corp:1080 does not allow a connection to api.example:443 (its rules forbid it)",
        )
        self.assertTrue(transport.aborted)
