"""
The agent's tunnel session against every chisel server there is: one suite, on real sockets.

The sandbox's server, the Go peer, and chisel itself where C{CHISEL} names it. What passes here is what the
agent relies on; a fake that passes it may stand in for the real thing.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pipeops_agent.net import ClientTLS
from pipeops_agent.orders import TunnelServer
from pipeops_agent.sandbox.bindings import Grant
from pipeops_agent.sandbox.chisel import ChiselServer, new_host_key
from pipeops_agent.sandbox.faults import FaultBox
from pipeops_agent.scheduling import bounded, sleep
from pipeops_agent.secrets import Secret
from pipeops_agent.tunnel.errors import RemotesRefused, SessionError
from pipeops_agent.tunnel.session import ChiselSession
from pipeops_agent.tunnel.ssh.client import ChiselClientTransport
from pipeops_agent.tunnel.ssh.negotiation import KEY_EXCHANGES, STRICT_CLIENT
from pipeops_agent.tunnel.ssh.suites import CIPHERS, MACS
from tests.peers.client import Client, Leftovers, remote_to
from tests.peers.harness import CREDENTIALS, Peer, Peers, Services, free_port, tunnel_server
from tests.peers.processes import real_reactor

MEBIBYTE = 1 << 20

if TYPE_CHECKING:
    _Base = TestCase
else:
    _Base = object  # mixed with a TestCase by each variant: trial runs the variants alone


class Conversation(Protocol):
    """A TCP client in a test: collects what comes, and says when enough has."""

    transport: Any

    def __init__(self) -> None:
        self.data = bytearray()
        self.over: Deferred[None] = Deferred()
        self._wanted = 0
        self._enough: Deferred[bytes] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        if self._enough is not None and len(self.data) >= self._wanted:
            enough, self._enough = self._enough, None
            enough.callback(bytes(self.data))

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # no default here
        self.over.callback(None)
        if self._enough is not None:
            self._enough.errback(reason)

    def read(self, count: int) -> Deferred[bytes]:
        """Fires when C{count} bytes have come in all."""
        enough: Deferred[bytes] = Deferred()
        if len(self.data) >= count:
            enough.callback(bytes(self.data))
        else:
            self._wanted, self._enough = count, enough
        return enough


class SandboxPeer:
    """The sandbox's chisel server in this process; a L{Peer}."""

    def __init__(self, reactor: Any) -> None:
        self.credentials = CREDENTIALS
        self._server = ChiselServer(
            reactor, new_host_key(), self._check, FaultBox(), lambda _: None, lambda _: None
        )
        self._listener = self._server.serve()
        self._server.startService()
        self.fingerprint = self._server.fingerprint
        self.url = f"ws://127.0.0.1:{self._listener.port}"

    def _check(self, user: str, password: Secret) -> Grant | None:
        return Grant(user) if (user, password) == self.credentials else None

    async def stop(self) -> None:
        if self._server.running:
            await self._server.stopService()

    async def kill(self) -> None:
        self._server.drop_sessions("a power cut")
        await self.stop()


class SessionCase(_Base):
    """A test with a session to some server, and services behind it."""

    peers: Peers
    services: Services
    server: Peer
    client: Client

    async def make_server(self) -> Peer:
        """The server of this variant."""
        raise NotImplementedError

    async def prepare(self) -> None:
        """Start services, server and client."""
        self.reactor: Any = real_reactor()
        self.peers = Peers(self.reactor, self)
        self.services = await self.peers.services()
        self.client = Client(self.reactor)
        self.server = await self.make_server()

    @property
    def target(self) -> TunnelServer:
        """The server as an order names it."""
        return tunnel_server(self.server)

    async def forward(self, service: str, **changes: Any) -> tuple[ChiselSession, int]:
        """A session with one forward, to C{service}, and the server's port of it."""
        port = free_port()
        session = await self.client.open(self.target, remote_to(self.services[service], port), **changes)
        self.addCleanup(session.close, "the test is over")
        return session, port

    async def talk(self, port: int) -> Conversation:
        """A connection to C{port}."""
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", port)
        talk: Any = await endpoint.connect(Factory.forProtocol(Conversation))

        def hang_up() -> Deferred[Any]:
            talk.transport.abortConnection()
            return cast(Deferred[Any], talk.over)

        self.addCleanup(lambda: None if talk.over.called else hang_up())
        conversation: Conversation = talk
        return conversation

    async def in_time(self, waiting: Deferred[Any], what: str) -> Any:
        """Wait at most ten seconds."""
        return await bounded(self.reactor, 10, waiting, what)

    async def settled(self, name: str = "test") -> None:
        """Wait until no channel of the forward C{name} is open any more."""
        counters = self.client.traffic.forward(name)
        for _ in range(100):
            if counters.open == 0:
                return
            await sleep(self.reactor, 0.05)
        raise AssertionError(f"{counters.open} channels are still open")


class SessionContract(SessionCase):
    """What a session does with any server."""

    async def test_steps_are_kept(self) -> None:
        """A session goes through all its steps, each with its time, and knows its round trip."""
        await self.prepare()
        session, _ = await self.forward("echo")
        assert self.client.trace is not None
        names = [step.name for step in self.client.trace.steps if step.name != "tls"]
        assert names == ["tcp", "upgrade", "ssh", "login", "configuration", "ping"], names
        assert self.target.address.tls == any(step.name == "tls" for step in self.client.trace.steps)
        assert session.rtt is not None
        assert 0 < session.rtt < 1

    async def test_a_megabyte_each_way(self) -> None:
        """Bytes arrive as they were sent, several connections at once, and are counted."""
        await self.prepare()
        _, port = await self.forward("load")
        figures = await self.peers.load("both", f"127.0.0.1:{port}", n=8 * MEBIBYTE, c=8)
        assert figures["ok"], figures
        traffic = self.client.traffic.forward("test")
        assert traffic.bytes_in >= 8 * MEBIBYTE
        assert traffic.bytes_out >= 8 * MEBIBYTE

    async def test_a_hundred_mebibytes_each_way(self) -> None:
        """So do a hundred mebibytes each way, with checksums."""
        await self.prepare()
        _, port = await self.forward("load", ping_timeout=5.0)
        figures = await self.peers.load("both", f"127.0.0.1:{port}", n=100 * MEBIBYTE)
        assert figures["ok"], figures
        assert figures["checked"], figures

    async def test_rekeying_in_the_middle(self) -> None:
        """The client renews the keys every 200 KB in the middle of a transfer."""
        await self.prepare()
        _, port = await self.forward("load", rekey_bytes=200_000.0, ping_timeout=5.0)
        figures = await self.peers.load("both", f"127.0.0.1:{port}", n=8 * MEBIBYTE, c=2)
        assert figures["ok"], figures

    async def test_every_algorithm(self) -> None:
        """Each key exchange, cipher and MAC that is offered carries data, through new keys too."""
        await self.prepare()
        choices = [("supportedCiphers", name) for name in CIPHERS]
        choices += [("supportedMACs", name) for name in MACS]
        choices += [("supportedKeyExchanges", name) for name in KEY_EXCHANGES]
        for attribute, name in choices:
            for other, names in (
                ("supportedCiphers", [b"aes128-ctr"] if attribute == "supportedMACs" else list(CIPHERS)),
                ("supportedMACs", list(MACS)),
                ("supportedKeyExchanges", list(KEY_EXCHANGES)),
            ):
                offered = [name] if other == attribute else names
                strict = [STRICT_CLIENT] if other == "supportedKeyExchanges" else []
                self.patch(ChiselClientTransport, other, offered + strict)
            session, port = await self.forward("load", rekey_bytes=200_000.0, ping_timeout=5.0)
            agreed = session._transport._agreement
            assert name in agreed, (name, agreed)
            figures = await self.peers.load("both", f"127.0.0.1:{port}", n=MEBIBYTE, c=2)
            assert figures["ok"], (name, figures)
            await session.close("on to the next")

    async def test_server_speaks_first(self) -> None:
        """A database greets before its client says a word."""
        await self.prepare()
        _, port = await self.forward("database")
        talk = await self.talk(port)
        greeting = await self.in_time(talk.read(29), "the greeting")
        assert greeting.startswith(b"220 "), greeting
        talk.transport.write(b"hello\r\n")
        answer = await self.in_time(talk.read(29 + 70), "the answer")
        assert hashlib.sha256(b"hello").hexdigest().encode() in answer, answer

    async def test_http_keep_alive_and_upgrade(self) -> None:
        """Several requests on one connection, and an upgrade to another protocol."""
        await self.prepare()
        _, port = await self.forward("http")
        talk = await self.talk(port)
        for number in range(3):
            del talk.data[:]
            talk.transport.write(b"GET /%d HTTP/1.1\r\nHost: test\r\n\r\n" % number)
            answer = await self.in_time(talk.read(100), "an answer")
            assert answer.startswith(b"HTTP/1.1 200 OK"), answer
        del talk.data[:]
        talk.transport.write(
            b"GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
        )
        answer = await self.in_time(talk.read(60), "the upgrade")
        assert answer.startswith(b"HTTP/1.1 101"), answer
        del talk.data[:]
        talk.transport.write(b"over there")
        echoed = await self.in_time(talk.read(10), "the echo")
        assert echoed == b"over there", echoed

    async def test_half_close_to_the_target(self) -> None:
        """The target sees the end of what it is sent, though the server does not pass on ours."""
        await self.prepare()
        _, port = await self.forward("closefirst")
        talk = await self.talk(port)
        await self.in_time(talk.over, "the end of the connection")
        await self.settled()

    async def test_refusing_target(self) -> None:
        """A connection to a dead target ends at once; the reason is reported; others go on."""
        await self.prepare()
        refused, alive = free_port(), free_port()
        session = await self.client.open(
            self.target,
            remote_to(self.services["refuse"], refused, "dead"),
            remote_to(self.services["echo"], alive, "alive"),
        )
        self.addCleanup(session.close, "the test is over")
        talk = await self.talk(refused)
        await self.in_time(talk.over, "the end of the connection")
        [(name, problem)] = self.client.dials
        assert name == "dead"
        assert "refuses connections" in (problem or "")
        living = await self.talk(alive)
        living.transport.write(b"x")
        assert await self.in_time(living.read(1), "the echo") == b"x"

    async def test_stuck_target_holds_nobody_up(self) -> None:
        """A target that never accepts is given up in time, and does not delay its neighbours."""
        await self.prepare()
        stuck, alive = free_port(), free_port()
        session = await self.client.open(
            self.target,
            remote_to(self.services["stuck"], stuck, "stuck"),
            remote_to(self.services["echo"], alive, "alive"),
        )
        self.addCleanup(session.close, "the test is over")
        waiting = await self.talk(stuck)
        living = await self.talk(alive)
        living.transport.write(b"x")
        assert await self.in_time(living.read(1), "the echo") == b"x"
        await self.in_time(waiting.over, "the end of the dial")

    async def test_reader_that_never_reads(self) -> None:
        """A far side that takes nothing is held at the window; its neighbour runs at full speed."""
        await self.prepare()
        _, port = await self.forward("load", ping_timeout=5.0)
        greedy = await self.talk(port)
        greedy.transport.pauseProducing()
        greedy.transport.write(b"D\0" + (1 << 30).to_bytes(8, "big"))
        figures = await self.peers.load("down", f"127.0.0.1:{port}", n=16 * MEBIBYTE)
        assert figures["ok"], figures

    async def test_a_thousand_connections(self) -> None:
        """A thousand connections at once are all served."""
        await self.prepare()
        # A burst keeps this process, which is both ends of the tunnel, busy for seconds on a loaded machine;
        # what its deadlines do is shown by other tests, and none of them is to strike here.
        _, port = await self.forward("load", dial_timeout=60.0, ping_timeout=60.0)
        figures = await self.peers.load("conn", f"127.0.0.1:{port}", n=2000, c=1000)
        assert figures["ok"], figures
        await self.settled()

    async def test_wrong_password(self) -> None:
        """Wrong credentials are refused at the login, and that is final."""
        await self.prepare()
        wrong = TunnelServer(
            self.target.address, self.target.fingerprint, ("agent", Secret("not the password"))
        )
        try:
            await self.client.open(wrong, remote_to(self.services["echo"], free_port()))
        except SessionError as error:
            assert error.step == "login", error.step
            assert not error.retryable
            assert "not the password" not in str(error)
        else:
            raise AssertionError("a session with a wrong password")

    async def test_wrong_fingerprint(self) -> None:
        """A server with another key is left before it is told any credentials."""
        await self.prepare()
        wrong = TunnelServer(self.target.address, "A" * 43 + "=", self.target.credentials)
        try:
            await self.client.open(wrong, remote_to(self.services["echo"], free_port()))
        except SessionError as error:
            assert error.step == "ssh", error.step
            assert not error.retryable
            assert self.server.fingerprint in error.sentence
        else:
            raise AssertionError("a session with a wrong server")

    async def test_taken_port(self) -> None:
        """A port that another session holds is refused by number."""
        await self.prepare()
        _, port = await self.forward("echo")
        try:
            await self.client.open(self.target, remote_to(self.services["http"], port))
        except RemotesRefused as error:
            assert error.ports == {port}, error
        else:
            raise AssertionError("two sessions with one port")

    async def test_killed_server(self) -> None:
        """The death of the server ends the session, and the connections with it."""
        await self.prepare()
        session, port = await self.forward("echo")
        talk = await self.talk(port)
        talk.transport.write(b"x")
        await self.in_time(talk.read(1), "the echo")
        lost = session.when_lost()
        await self.server.kill()
        assert await self.in_time(lost, "the loss")
        await self.settled()

    async def test_close_is_quick_and_clean(self) -> None:
        """A session with open connections closes in under two seconds and leaves nothing."""
        await self.prepare()
        before = Leftovers.now(self.reactor)
        session, port = await self.forward("echo")
        talks = [await self.talk(port) for _ in range(20)]
        for talk in talks:
            talk.transport.write(b"x")
            await self.in_time(talk.read(1), "the echo")
        await bounded(self.reactor, 2, session.close("enough"), "closing")
        await DeferredList([talk.over for talk in talks])
        await self.settled()
        after = Leftovers.now(self.reactor)
        assert after.timers == before.timers, (before, after)

    async def test_silence_is_noticed(self) -> None:
        """Pings are answered for as long as the session lives."""
        await self.prepare()
        session, _ = await self.forward("echo", ping_interval=0.1, ping_timeout=2.0)
        lost = session.when_lost()
        await sleep(self.reactor, 1.0)
        assert not lost.called


class SandboxServer(SessionContract, TestCase):
    """The sandbox's chisel server."""

    timeout = 120

    async def make_server(self) -> Peer:
        peer = SandboxPeer(self.reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(peer.stop()))
        return peer


class GoServer(SessionContract, TestCase):
    """A server on Go's own SSH and WebSocket, as chisel's is."""

    timeout = 120

    async def make_server(self) -> Peer:
        return await self.peers.gochisel_server()


class GoServerOverTLS(SessionContract, TestCase):
    """The same behind TLS, as it is deployed."""

    timeout = 120

    async def make_server(self) -> Peer:
        server = await self.peers.gochisel_server(tls=True)
        self.client.tls = ClientTLS(ca_file=self.peers.pem_file(server.ca))
        return server

    async def test_unknown_authority(self) -> None:
        """A server whose certificate nobody vouches for is left, whatever its fingerprint."""
        await self.prepare()
        self.client.tls = ClientTLS()
        try:
            await self.client.open(self.target, remote_to(self.services["echo"], free_port()))
        except SessionError as error:
            assert error.step == "tls", error
        else:
            raise AssertionError("a session with a server that TLS does not know")

    async def test_fingerprint_instead_of_authority(self) -> None:
        """Without verification the fingerprint vouches; without either there is no session."""
        await self.prepare()
        self.client.tls = ClientTLS(verify=False)
        remote = remote_to(self.services["echo"], free_port())
        session = await self.client.open(self.target, remote)
        await session.close("enough")
        nobody = TunnelServer(self.target.address, None, self.target.credentials)
        try:
            await self.client.open(nobody, remote)
        except SessionError as error:
            assert error.step == "tls", error
        else:
            raise AssertionError("a session with a server that nobody vouches for")


class ChiselServerItself(SessionContract, TestCase):
    """Chisel, where C{CHISEL} names it."""

    timeout = 120

    async def make_server(self) -> Peer:
        return await self.peers.chisel_server()
