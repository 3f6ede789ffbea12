"""The client, the connector and a web server together, on real sockets of 127.0.0.1 with real TLS."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor  # noqa: TID251  # real sockets
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase
from twisted.web.server import Site

from pipeops_agent.clock import utc_now
from pipeops_agent.controlplane import ApiError, ControlPlaneClient, Registration
from pipeops_agent.events import EventHub
from pipeops_agent.net import Connector
from pipeops_agent.scheduling import sleep
from pipeops_agent.settings.model_pipeops import PipeopsSettings, TLSSettings
from pipeops_agent.status import StatusBoard
from tests.controlplane.fakes import FakeControlPlane, FakeTokens, Reply
from tests.controlplane.test_client import BEAT, UUID, registered
from tests.net.authority import Authority

REACTOR: Any = global_reactor


class CountingSite(Site):
    """Counts connections, and can drop those that are open."""

    def __init__(self, resource: FakeControlPlane) -> None:
        super().__init__(resource, reactor=REACTOR)
        self.noisy = False
        self.displayTracebacks = False
        self.connections: list[Any] = []

    def log(self, request: object) -> None:
        """No access log."""

    def buildProtocol(self, addr: Any) -> Any:
        protocol = super().buildProtocol(addr)
        self.connections.append(protocol)
        return protocol


class SocketTests(TestCase):
    """Calls as the agent makes them."""

    timeout = 20

    def setUp(self) -> None:
        self.authority = Authority("Our CA")
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.ca_file = self.authority.write(self.directory / "ca.pem")
        self.server = FakeControlPlane(Reply(200, registered()))
        self.site = CountingSite(self.server)
        self.connector = Connector(REACTOR, connect_timeout=5)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.connector.close()))

    def listen(self, factory: Any, **options: Any) -> int:
        identity = self.authority.issue("localhost", "127.0.0.1")
        wrapped = TLSMemoryBIOFactory(identity.server_options(**options), False, factory, clock=REACTOR)
        port = REACTOR.listenTCP(0, wrapped, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    def client(self, port: int, *, timeout: float = 5.0, **tls: Any) -> ControlPlaneClient:
        settings = PipeopsSettings(
            api_url=f"https://127.0.0.1:{port}",
            timeout=timeout,
            tls=TLSSettings(**{"ca_file": self.ca_file, **tls}),
        )
        self.board = StatusBoard(EventHub(utc_now), utc_now)
        return ControlPlaneClient(
            REACTOR, settings, FakeTokens("token-0123456789"), self.connector, self.board, utc_now
        )

    async def error(self, client: ControlPlaneClient) -> ApiError:
        try:
            await client.heartbeat(BEAT)
        except ApiError as error:
            self.assertNotIn("0123456789", f"{error.sentence} {error.response}")
            return error
        raise AssertionError("the call succeeded")

    def drop(self, number: int) -> None:
        """The server breaks off a connection."""
        self.site.connections[number]._channel.transport.abortConnection()

    async def test_one_connection(self) -> None:
        """Registration and heartbeats share one connection, over TLS 1.3 with our own CA."""
        client = self.client(self.listen(self.site))
        answer = await client.register(Registration(contract_version=1, agent_id="agent-1"))
        self.assertEqual(answer.cluster_id, UUID)
        for _ in range(3):
            await client.heartbeat(BEAT)
        self.assertEqual(len(self.site.connections), 1)

    async def test_stale_connection(self) -> None:
        """A server that drops the idle connection costs no heartbeat."""
        client = self.client(self.listen(self.site))
        await client.heartbeat(BEAT)
        self.drop(0)
        await client.heartbeat(BEAT)
        self.assertEqual(len(self.site.connections), 2)
        # Dropped, and this noticed before the next use.
        self.drop(1)
        await sleep(REACTOR, 0.05)
        await client.heartbeat(BEAT)
        self.assertEqual(len(self.server.seen), 3)

    async def test_old_tls(self) -> None:
        """A server with TLS 1.2 only: the sentence names the version and the setting."""
        port = self.listen(self.site, highest="1.2")
        error = await self.error(self.client(port))
        self.assertIn("does not speak TLS 1.3 or newer", error.sentence)
        self.assertIn("tls.min_version", error.sentence)
        self.assertFalse(error.retryable)
        await self.client(port, min_version="1.2").heartbeat(BEAT)

    async def test_other_authority(self) -> None:
        """A server of another CA; with a clock known to be wrong, the clock comes first."""
        port = self.listen(self.site)
        other = Authority("Other CA").write(self.directory / "other.pem")
        client = self.client(port, ca_file=other)
        self.assertIn("issued by CN=Our CA", (await self.error(client)).sentence)
        self.board.set_clock_skew(90)
        self.assertTrue((await self.error(client)).sentence.startswith("this machine's clock is 90 s behind"))

    async def test_missing_file(self) -> None:
        """A CA file that is not there is a matter of the settings."""
        client = self.client(self.listen(self.site), ca_file=str(self.directory / "missing.pem"))
        error = await self.error(client)
        self.assertTrue(error.unusable_settings)
        self.assertIn("missing.pem: No such file or directory (pipeops.tls)", error.sentence)

    async def test_client_certificate_missing(self) -> None:
        """With TLS 1.3 the server's refusal comes after the handshake; it is explained all the same."""
        error = await self.error(self.client(self.listen(self.site, client_authority=self.authority)))
        self.assertIn("does not accept a missing client certificate", error.sentence)

    async def test_refused(self) -> None:
        """Nobody listens: refused, and worth another try."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            error = await self.error(self.client(unused.getsockname()[1]))
        self.assertIn("refuses connections", error.sentence)
        self.assertTrue(error.retryable)

    async def test_endless_headers(self) -> None:
        """A server that sends headers without end is given up, and not kept in memory."""

        class Chatterbox(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(b"HTTP/1.1 200 OK\r\n" + b"X-More: of the same\r\n" * 100_000)

        factory = Factory.forProtocol(Chatterbox)
        factory.noisy = False
        error = await self.error(self.client(self.listen(factory), timeout=10.0))
        self.assertIn("the answer is longer than", error.sentence)

    async def test_slow_body(self) -> None:
        """A body that trickles for ever ends with the call's own deadline."""

        class Trickle(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

        factory = Factory.forProtocol(Trickle)
        factory.noisy = False
        error = await self.error(self.client(self.listen(factory), timeout=0.3))
        self.assertIn("within 0.3 s", error.sentence)

    async def test_close_leaves_nothing(self) -> None:
        """Closing the connector closes the idle connections; a later call opens another."""
        client = self.client(self.listen(self.site))
        await client.heartbeat(BEAT)
        await self.connector.close()
        await client.heartbeat(BEAT)
        self.assertEqual(len(self.site.connections), 2)
