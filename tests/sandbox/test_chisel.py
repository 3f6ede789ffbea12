"""The chisel server, met by a small client in memory: every step, every fault, and the end."""

from __future__ import annotations

import json
from typing import Any, cast

from twisted.internet.protocol import Protocol
from twisted.test.iosim import IOPump
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.sandbox import bindings, faults, serving
from pipeops_agent.sandbox.bindings import Bound, Grant
from pipeops_agent.sandbox.chisel import ChiselServer, new_host_key
from pipeops_agent.sandbox.chisel_session import HANDSHAKE_TIMEOUT
from pipeops_agent.sandbox.faults import FaultBox
from pipeops_agent.sandbox.serving import IServerReactor
from pipeops_agent.secrets import Secret
from pipeops_agent.tunnel.carrier import MAX_MESSAGE
from pipeops_agent.tunnel.remotes import Remote
from tests.sandbox.memory import PEER, ChiselClient, Echo, Reactor, Response, join

API = Remote("kubernetes-api", 8000, "localhost", 6443)
HTTP = Remote("agent-http", 8001, "127.0.0.1", 8080)
ALL = ["upgrade", "ssh", "login", "config"]


class User(Protocol):
    """Somebody who connects to a bound port."""

    def __init__(self) -> None:
        self.received = b""
        self.gone = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: object = None) -> None:
        self.gone = True


class ChiselTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.box = FaultBox()
        self.open: dict[int, Bound] = {}
        self.key = new_host_key()
        self.server = ChiselServer(
            cast(IServerReactor, self.reactor),
            self.key,
            self.authenticate,
            self.box,
            self.opened,
            self.closed,
        )
        self.server.serve(7000)
        self.server.startService()
        self.pumps: list[IOPump] = []
        self.addCleanup(self.all_gone)

    def authenticate(self, user: str, password: Secret) -> Grant | None:
        if (user, password) == ("user", Secret("password")):
            return Grant("agent-1", {8000: "kubernetes-api", 8001: "agent-http"})
        return None

    def opened(self, bound: Bound) -> None:
        self.open[bound.port] = bound

    def closed(self, bound: Bound) -> None:
        del self.open[bound.port]

    def all_gone(self) -> None:
        """Stop, and see that nothing is left: no session, no port, no relay, no timer."""
        stopped = self.server.stopService()
        self.pump()
        self.successResultOf(stopped)
        self.assertEqual((self.server.sessions, len(self.server.relays), len(self.server.ports)), (0, 0, 0))
        self.assertEqual(self.open, {})
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def pump(self) -> None:
        for _ in range(3):
            for pump in self.pumps:
                pump.flush()

    def client(self, *remotes: Remote, **how: Any) -> ChiselClient:
        client = ChiselClient(self.reactor, remotes=remotes or (API, HTTP), **how)
        protocol = client.factory.buildProtocol(None)
        self.pumps.append(join(self.reactor, self.reactor.factory_of(7000), protocol))
        self.pump()
        return client

    def user(self, port: int) -> User:
        user = User()
        self.pumps.append(join(self.reactor, self.reactor.factory_of(port), user))
        self.pump()
        return user

    def wait(self, seconds: float) -> None:
        """Let time pass in steps, so that what is due happens in its order."""
        for _ in range(int(seconds)):
            self.reactor.advance(1)
            self.pump()

    def plain(self, *headers: str, path: str = "/") -> Response:
        """The answer to an ordinary request."""
        user = User()
        self.pumps.append(join(self.reactor, self.reactor.factory_of(7000), user))
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers, "", ""]
        assert user.transport is not None
        user.transport.write("\r\n".join(lines).encode())
        self.pump()
        return Response(user.received)


class SessionTests(ChiselTestCase):
    def test_every_step(self) -> None:
        """A client with the right key and password gets its ports, on loopback whatever it asks for."""
        client = self.client(fingerprint=self.server.fingerprint)
        self.assertEqual((client.steps, client.problem), (ALL, None))
        self.assertEqual(self.open[8000], Bound("agent-1", "kubernetes-api", 8000, "localhost:6443"))
        bound = {port: interface for port, _, _, interface in self.reactor.tcpServers if port != 7000}
        self.assertEqual(bound, {8000: "127.0.0.1", 8001: "127.0.0.1"})

    def test_a_connection_is_a_channel(self) -> None:
        """Each connection to a port becomes a channel that names the target; bytes go both ways."""
        client = self.client()
        user = self.user(8001)
        kind, target, echo = client.channels[0]
        self.assertEqual((kind, target), (b"chisel", b"127.0.0.1:8080"))
        assert user.transport is not None
        user.transport.write(b"hello")
        self.pump()
        self.assertEqual((echo.received, user.received), (b"hello", b"hello"))
        user.transport.loseConnection()
        self.pump()
        self.assertTrue(echo.closed)
        self.assertEqual(len(self.server.relays), 0)

    def test_a_refused_channel(self) -> None:
        """A channel that the client refuses ends the connection that it was for."""
        client = self.client()
        client.refuses_channels = True
        self.assertTrue(self.user(8000).gone)
        self.assertEqual(len(self.server.relays), 0)

    def test_session_lost(self) -> None:
        """With the session go its ports and the connections to them."""
        client = self.client()
        user = self.user(8000)
        client.carrier.transport.abortConnection()
        self.pump()
        self.assertEqual((self.open, len(self.server.ports), self.server.sessions), ({}, 0, 0))
        self.assertTrue(user.gone)

    def test_wrong_password(self) -> None:
        """Another password, another user: refused at the login."""
        for how in ({"password": "other"}, {"user": "other"}, {"user": "", "password": ""}):
            with self.subTest(how=how):
                client = self.client(**how)
                self.assertEqual(client.steps, ["upgrade", "ssh"])
                self.assertIn("the server refused the credentials", client.problem)

    def test_not_granted(self) -> None:
        """A port that is not this client's is refused in chisel's words, and nothing is bound."""
        client = self.client(API, Remote("other", 9999, "localhost", 1))
        self.assertEqual(client.problem, "server: access to 'R:0.0.0.0:9999' denied")
        self.assertEqual((self.open, len(self.server.ports)), ({}, 0))

    def test_taken(self) -> None:
        """A port that cannot be had is refused in chisel's words, and the others are let go."""
        self.reactor.taken.add(8001)
        client = self.client()
        self.assertEqual(client.problem, "server: Server cannot listen on R:8001=>8080")
        self.assertEqual((self.open, len(self.server.ports)), ({}, 0))

    def test_configured_once(self) -> None:
        """After a refusal the session can't be configured again; it ends when its time is up."""
        self.reactor.taken.add(8000)
        client = self.client(API)
        self.reactor.taken.clear()
        refused = client.connection.request(b"config", b"{}")
        self.pump()
        self.failureResultOf(refused)
        self.assertEqual(self.open, {})
        self.wait(10)
        self.assertIsNotNone(client.lost)

    def test_not_a_configuration(self) -> None:
        """Another request first, broken JSON, no reverse forward: a reason each, and nothing is bound."""
        remote = {"LocalHost": "", "LocalPort": "8000", "RemoteHost": "", "RemotePort": "1"}
        forward = json.dumps({"Version": "1", "Remotes": [remote]}).encode()
        for config, reason in (
            ((b"ping", b""), "server: expecting config request"),
            ((b"config", b"{"), "server: invalid config"),
            ((b"config", b'{"Version": "1", "Remotes": []}'), "server: invalid config: no remotes"),
            ((b"config", forward), "only reverse TCP remotes"),
        ):
            with self.subTest(config=config):
                client = self.client(config=config)
                self.assertIn(reason, client.problem or "")
        self.assertEqual(self.open, {})

    def test_pings(self) -> None:
        """A ping is answered with C{pong}; another request is refused; a WebSocket ping has its pong too."""
        client = self.client()
        client.ping()
        client.carrier.ping()
        refused = client.connection.request(b"hello")
        self.pump()
        self.assertEqual(client.pongs, [b"pong", b"frame"])
        self.failureResultOf(refused)

    def test_channels_of_the_client(self) -> None:
        """The client may not open channels: this is no way into the server's network."""
        client = self.client()
        opening = client.connection.open_channel(b"chisel", b"127.0.0.1:22", Echo())
        self.pump()
        self.assertEqual(self.failureResultOf(opening).getErrorMessage(), "only reverse forwards are served")

    def test_no_login(self) -> None:
        """A client that opens a WebSocket and says nothing is cut off in time."""
        client = ChiselClient(self.reactor)
        self.patch(client.transport, "connectionMade", lambda: None)
        self.patch(client.transport, "dataReceived", lambda data: None)
        self.pumps.append(
            join(self.reactor, self.reactor.factory_of(7000), client.factory.buildProtocol(None))
        )
        self.wait(HANDSHAKE_TIMEOUT - 1)
        self.assertEqual((client.steps, client.lost), (["upgrade"], None))
        self.wait(1)
        self.assertIsNotNone(client.lost)

    def test_no_configuration(self) -> None:
        """A client that logs in and does not say what it wants is cut off after 10 s."""
        client = self.client(config=(b"", b""))
        self.wait(9)
        self.assertEqual((client.steps, client.lost), (ALL[:3], None))
        self.wait(1)
        self.assertIsNotNone(client.lost)

    def test_a_dead_client(self) -> None:
        """The server asks every 25 s; a client that answers stays, one that does not loses its ports."""
        client = self.client()
        self.wait(60)
        self.assertEqual((client.pings, client.lost), (2, None))
        self.patch(client.transport, "dataReceived", lambda data: None)
        self.wait(60)
        self.assertIsNotNone(client.lost)
        self.assertEqual(self.open, {})

    def test_a_malformed_request(self) -> None:
        """A global request that is too short ends the session, with a reason and without a traceback."""
        client = self.client()
        client.transport.sendPacket(80, b"\0\0\0\xffx")
        self.pump()
        self.assertIn("a global request is malformed", client.problem or "")


class LimitTests(ChiselTestCase):
    def test_connections_to_the_server(self) -> None:
        """Beyond its limit the server takes no connection, until one goes."""
        self.patch(serving, "MAX_CONNECTIONS", 1)
        client = self.client()
        factory = self.reactor.factory_of(7000)
        self.assertIsNone(factory.buildProtocol(PEER))
        client.carrier.transport.abortConnection()
        self.pump()
        self.assertIsNotNone(factory.buildProtocol(PEER))

    def test_forwarded_connections(self) -> None:
        """Beyond its limit no connection to a port is taken; a session that is over takes none either."""
        self.patch(bindings, "MAX_RELAYS", 1)
        client = self.client()
        self.user(8000)
        factory = self.reactor.factory_of(8000)
        self.assertIsNone(factory.buildProtocol(PEER))
        client.carrier.transport.abortConnection()
        self.pump()
        self.assertEqual(len(self.server.relays), 0)
        self.assertIsNone(factory.buildProtocol(PEER))

    def test_long_messages(self) -> None:
        """A WebSocket message beyond the limit ends the session."""
        client = self.client()
        self.patch(client.carrier, "maxMessagePayloadSize", 0)
        client.carrier.sendMessage(bytes(MAX_MESSAGE + 1), isBinary=True)
        self.pump()
        self.assertIsNotNone(client.lost)
        self.assertEqual(self.server.sessions, 0)


class PlainTests(ChiselTestCase):
    def test_ordinary_http(self) -> None:
        """The same port answers health and version; anything else is not there."""
        self.assertEqual(self.plain(path="/health").body, b"OK\n")
        self.assertIn(b"sandbox", self.plain(path="/version").body)
        self.assertEqual(self.plain(path="/other").status, 404)

    def test_other_subprotocols(self) -> None:
        """A WebSocket of another subprotocol, or none, is not upgraded."""
        upgrade = (
            "Upgrade: websocket",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Version: 13",
        )
        for protocols in (
            (),
            ("Sec-WebSocket-Protocol: chisel-v2",),
            ("Sec-WebSocket-Protocol: a, chisel-v3",),
        ):
            with self.subTest(protocols=protocols):
                self.assertEqual(self.plain(*upgrade, *protocols, path="/x").status, 404)
        self.assertEqual(self.server.sessions, 0)


class FaultTests(ChiselTestCase):
    def test_refused_upgrade(self) -> None:
        """The upgrade is answered with a status and, where wished, a page."""
        self.box.add(faults.RefuseUpgrade(status=502, html=True, count=1))
        client = self.client()
        self.assertEqual(client.steps, [])
        self.assertIn("502", client.lost or "")
        self.assertEqual(self.client().steps, ALL)

    def test_silence_at_each_stage(self) -> None:
        """Silence at a stage: what is before it is passed, and then nothing comes, nor an end."""
        stages: tuple[faults.Stage, ...] = ("upgrade", "version", "auth", "config")
        for passed, stage in enumerate(stages):
            with self.subTest(stage=stage):
                self.box.add(faults.Silent(stage=stage, count=1))
                client = self.client()
                self.wait(120)
                self.assertEqual((client.steps, client.problem, client.lost), (ALL[:passed], None, None))
                client.carrier.transport.abortConnection()
                self.pump()
        self.assertEqual(self.server.sessions, 0)

    def test_silence_in_the_key_exchange(self) -> None:
        """Silence at C{kex}: the server's version comes, its part of the key exchange does not."""
        self.box.add(faults.Silent(stage="kex"))
        client = self.client()
        self.assertTrue(client.transport.gotVersion)
        self.assertEqual((client.steps, client.lost), (["upgrade"], None))

    def test_wrong_key(self) -> None:
        """Another host key: a client that knows the right one goes away before it logs in."""
        self.box.add(faults.WrongKey(count=1))
        client = self.client(fingerprint=self.server.fingerprint)
        self.assertEqual(client.steps, ["upgrade"])
        self.assertIn("host key", client.problem or "")
        self.assertEqual(self.client(fingerprint=self.server.fingerprint).steps, ALL)

    def test_wrong_password(self) -> None:
        """The right password is refused."""
        self.box.add(faults.WrongPassword(count=1))
        self.assertIn("the server refused the credentials", self.client().problem)
        self.assertEqual(self.client().steps, ALL)

    def test_bind_refused(self) -> None:
        """A forward by name or port, or all: chisel's words, and nothing is bound; others are not struck."""
        for named, port in ((("agent-http",), 8001), (("8001",), 8001), ((), 8000)):
            with self.subTest(named=named):
                self.box.clear()
                self.box.add(faults.BindRefused(forwards=named))
                client = self.client()
                self.assertIn(f"Server cannot listen on R:{port}=>", client.problem or "")
                self.assertEqual(self.open, {})
        self.box.clear()
        self.box.add(faults.BindRefused(forwards=("agent-http",)))
        self.assertEqual(self.client(API).steps, ALL)

    def test_swallow_what_is_there(self) -> None:
        """A session goes dead: nothing is answered or closed, also when the fault is cleared."""
        client = self.client()
        self.box.add(faults.Swallow(count=1))
        for _ in range(2):
            client.ping()
            client.carrier.ping()
            self.wait(120)
            self.assertEqual((client.pongs, client.pings, client.lost), ([], 0, None))
            self.box.clear()
        self.assertIn(8000, self.open)

    def test_swallow_what_comes(self) -> None:
        """A new session is accepted and then goes dead."""
        self.box.add(faults.Swallow())
        client = self.client()
        client.ping()
        self.wait(60)
        self.assertEqual((client.steps, client.pongs, client.lost), (ALL, [], None))

    def test_slow_ping(self) -> None:
        """A ping is answered late."""
        client = self.client()
        self.box.add(faults.SlowPing(seconds=3))
        client.ping()
        self.pump()
        self.wait(2)
        self.assertEqual(client.pongs, [])
        self.wait(1)
        self.assertEqual(client.pongs, [b"pong"])
        client.ping()
        self.pump()

    def test_drop(self) -> None:
        """Every session is reset."""
        clients = [self.client(API), self.client(HTTP)]
        self.server.drop_sessions("for a test")
        self.pump()
        self.assertEqual((self.server.sessions, self.open), (0, {}))
        self.assertNotIn(None, [client.lost for client in clients])
