"""The connector on real sockets of loopback: dead addresses, and a proxy that speaks TLS itself."""

from __future__ import annotations

import contextlib  # its suppress, at the top of a module, would mean something to trial
import socket
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor  # noqa: TID251  # real sockets
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pipeops_agent.clock import utc_now
from pipeops_agent.net import ClientTLS, Connector, ConnectProblem, Trace
from pipeops_agent.net.resolver import Address
from pipeops_agent.settings.proxies import Proxies
from pipeops_agent.settings.proxy_url import parse_proxy
from tests.net.authority import Authority

REACTOR: Any = global_reactor

MEGABYTE = 1 << 20


class Addresses:
    """Every name has these addresses."""

    def __init__(self, *hosts: str) -> None:
        self._hosts = hosts

    def resolve(self, host: str, port: int) -> Deferred[list[Address]]:
        return succeed([IPv4Address("TCP", each, port) for each in self._hosts])


class Full:
    """A listener whose queue is full, so that the kernel drops what else wants to connect: a dead address."""

    def __init__(self, host: str) -> None:
        self._sockets = [socket.create_server((host, 0), backlog=0)]
        self.port: int = self._sockets[0].getsockname()[1]
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect((host, self.port))
            self._sockets.append(filler)

    def close(self) -> None:
        for each in self._sockets:
            each.close()


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class Counter(Protocol):
    """Waits for so many bytes."""

    def __init__(self, length: int = 0) -> None:
        self._left = length
        self.all: Deferred[None] = Deferred()
        self.gone: Deferred[None] = Deferred()

    def expect(self, length: int) -> Deferred[None]:
        self._left = length
        return self.all

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left == 0:
            self.all.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone.callback(None)


class Pipe(Protocol):
    """One end of a pair."""

    def __init__(self, other: Protocol) -> None:
        self._other = other

    def dataReceived(self, data: bytes) -> None:
        assert self._other.transport is not None
        self._other.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._other.transport is not None:
            self._other.transport.loseConnection()


class ConnectProxy(Protocol):
    """A proxy that leads everything to the same port of loopback, whatever it is asked for."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._asked = b""
        self._pipe: Pipe | None = None

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        if self._pipe is not None:
            assert self._pipe.transport is not None
            self._pipe.transport.write(data)
            return
        self._asked += data
        if self._asked.endswith(b"\r\n\r\n"):
            self._pipe = Pipe(self)
            endpoint = TCP4ClientEndpoint(REACTOR, "127.0.0.1", self._target)
            reached: Any = connectProtocol(endpoint, self._pipe)
            reached.addCallback(self._reached)

    def _reached(self, _: object) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 200 OK\r\n\r\n")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._pipe is not None and self._pipe.transport is not None:
            self._pipe.transport.loseConnection()


class SocketCase(TestCase):
    timeout = 60

    def serve(self, factory: Any, host: str = "127.0.0.1", port: int = 0) -> int:
        factory.noisy = False
        listening = REACTOR.listenTCP(port, factory, interface=host)
        self.addCleanup(listening.stopListening)
        return int(listening.getHost().port)


class DeadAddressTests(SocketCase):
    """Happy eyeballs."""

    async def reach(self, connector: Connector, port: int, trace: Trace) -> str:
        endpoint = connector.endpoint("many.test", port, trace=trace)
        protocol: Any = await endpoint.connect(Factory.forProtocol(Counter))
        host: str = protocol.transport.getPeer().host
        protocol.transport.abortConnection()
        await protocol.gone
        return host

    async def test_first_is_dead(self) -> None:
        """A first address that drops every packet costs at most 300 ms."""
        full = Full("127.0.0.2")
        self.addCleanup(full.close)
        self.serve(Factory.forProtocol(Echo), port=full.port)
        connector = Connector(REACTOR, connect_timeout=20, resolver=Addresses("127.0.0.2", "127.0.0.1"))
        took: list[float] = []
        while len(took) < 20 and min(took, default=1.0) > 0.3:  # again where a busy machine was slower
            trace = Trace(REACTOR, utc_now)
            self.assertEqual(await self.reach(connector, full.port, trace), "127.0.0.1")
            took.append(trace.steps[-1].seconds)
        self.assertLessEqual(min(took), 0.3)
        self.assertGreaterEqual(min(took), 0.2, "the first address was not dead at all")

    async def test_proxy_with_a_dead_address(self) -> None:
        """The same holds for the addresses of a proxy."""
        full = Full("127.0.0.2")
        self.addCleanup(full.close)
        target = self.serve(Factory.forProtocol(Echo))
        factory: Any = Factory()
        factory.buildProtocol = lambda _: ConnectProxy(target)
        self.serve(factory, port=full.port)
        proxy = parse_proxy(f"http://proxy.test:{full.port}")
        connector = Connector(
            REACTOR,
            connect_timeout=10,
            resolver=Addresses("127.0.0.2", "127.0.0.1"),
            proxies=lambda: Proxies(http=proxy),
        )
        trace = Trace(REACTOR, utc_now)
        await self.reach(connector, 80, trace)
        self.assertEqual([step.name for step in trace.steps], ["dns", "tcp", "proxy"])

    async def test_all_dead(self) -> None:
        """Where all are dead it ends at the deadline."""
        full = Full("127.0.0.2")
        self.addCleanup(full.close)
        connector = Connector(REACTOR, connect_timeout=0.6, resolver=Addresses("127.0.0.2", "127.0.0.2"))
        with self.assertRaises(ConnectProblem) as caught:
            await self.reach(connector, full.port, Trace(REACTOR, utc_now))
        self.assertTrue(caught.exception.timed_out)


class SecureProxyTests(SocketCase):
    """A proxy whose URL begins with C{https://}."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.theirs = Authority("The proxy's CA")
        self.ours = Authority("The target's CA")
        self.tls = ClientTLS(ca_file=self.ours.write(self.directory / "ours.pem"))
        self.trace = Trace(REACTOR, utc_now)

    def start(self, proxy_name: str) -> Connector:
        """Start a target, and before it a proxy with a certificate for C{proxy_name}."""
        identity = self.ours.issue("api.test")
        echo = Factory.forProtocol(Echo)
        echo.noisy = False
        target = self.serve(TLSMemoryBIOFactory(identity.server_options(), False, echo, clock=REACTOR))
        factory: Any = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda _: ConnectProxy(target)
        options = self.theirs.issue(proxy_name).server_options(highest="1.2")
        port = self.serve(TLSMemoryBIOFactory(options, False, factory, clock=REACTOR))
        proxy = parse_proxy(f"https://user:horse-battery@proxy.test:{port}")
        return Connector(
            REACTOR,
            connect_timeout=20,
            resolver=Addresses("127.0.0.1"),
            proxies=lambda: Proxies(https=proxy),
            proxy_tls=ClientTLS(min_version="1.2", ca_file=self.theirs.write(self.directory / "theirs.pem")),
        )

    async def problem(self, connector: Connector, host: str) -> ConnectProblem:
        try:
            await connector.endpoint(host, 443, tls=self.tls, trace=self.trace).connect(
                Factory.forProtocol(Counter)
            )
        except ConnectProblem as problem:
            self.assertNotIn("horse", str(problem))
            return problem
        raise AssertionError("it was reached")

    async def test_through(self) -> None:
        """TLS within TLS carries a megabyte each way, and its end arrives."""
        endpoint = self.start("proxy.test").endpoint("api.test", 443, tls=self.tls, trace=self.trace)
        protocol: Any = await endpoint.connect(Factory.forProtocol(Counter))
        self.assertEqual([step.name for step in self.trace.steps], ["dns", "tcp", "proxy", "tls"])
        all_of_it = protocol.expect(MEGABYTE)
        protocol.transport.write(b"x" * MEGABYTE)
        await all_of_it
        protocol.transport.loseConnection()
        await protocol.gone

    async def test_other_proxy(self) -> None:
        """A proxy that is not who it should be is refused before it learns who asks, and for what."""
        problem = await self.problem(self.start("other.test"), "api.test")
        self.assertEqual(problem.step, "proxy")
        self.assertIn("the certificate of the proxy proxy.test:", problem.sentence)
        self.assertIn("not for this name, but for other.test", problem.sentence)

    async def test_unknown_authority(self) -> None:
        """What vouches for a proxy is the system, not C{tls.ca_file}; the remedy says so."""
        connector = self.start("proxy.test")
        self.ours.write(self.directory / "theirs.pem")
        problem = await self.problem(connector, "api.test")
        self.assertIn("is issued by CN=The proxy's CA", problem.sentence)
        self.assertIn("the system's authorities", problem.remedy)

    async def test_other_target(self) -> None:
        """The target is verified through the proxy as without."""
        problem = await self.problem(self.start("proxy.test"), "elsewhere.test")
        self.assertEqual(problem.step, "tls")
        self.assertIn("elsewhere.test:443 is not for this name, but for api.test", problem.sentence)
