"""TLS through the connector, on real sockets of 127.0.0.1: OpenSSL can't be simulated."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet import reactor as global_reactor  # noqa: TID251  # real sockets
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pipeops_agent.clock import utc_now
from pipeops_agent.net import ClientTLS, Connector, ConnectProblem, Trace
from pipeops_agent.net.resolver import Address
from tests.net.authority import Authority, Identity

REACTOR: Any = global_reactor


def write(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)


class Greeting(Protocol):
    """A server that speaks at once."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")


class Listener(Protocol):
    """The client's side: what it was told, in order."""

    def __init__(self) -> None:
        self.heard = b""
        self.greeted: Deferred[bytes] = Deferred()
        self.lost: Deferred[Failure] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if len(self.heard) >= 5 and not self.greeted.called:
            self.greeted.callback(self.heard)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)  # type: ignore[arg-type]  # only that it came


class ToLoopback:
    """Every name is 127.0.0.1."""

    def resolve(self, host: str, port: int) -> Deferred[list[Address]]:
        return succeed([IPv4Address("TCP", "127.0.0.1", port)])


class TLSTests(TestCase):
    """What the connector accepts and refuses, against real servers."""

    timeout = 20

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.authority = Authority("Our CA")
        self.ca_file = self.authority.write(self.directory / "ca.pem")
        self.identity = self.authority.issue("cp.test", "127.0.0.1")
        self.connector = Connector(REACTOR, connect_timeout=5, resolver=ToLoopback())
        self.trace = Trace(REACTOR, utc_now)

    def listen(self, options: CertificateOptions | None, protocol: type[Protocol] = Greeting) -> int:
        """Start a server for this test; return its port."""
        factory: Any = Factory.forProtocol(protocol)
        factory.noisy = False
        if options is not None:
            factory = TLSMemoryBIOFactory(options, False, factory, clock=REACTOR)
        port = REACTOR.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    async def connect(self, port: int, tls: ClientTLS, host: str = "cp.test") -> Listener:
        endpoint = self.connector.endpoint(host, port, tls=tls, trace=self.trace)
        protocol = await endpoint.connect(Factory.forProtocol(Listener))
        assert isinstance(protocol, Listener)
        return protocol

    async def works(self, port: int, tls: ClientTLS, host: str = "cp.test") -> None:
        """Connecting succeeds, and the server's first bytes arrive."""
        protocol = await self.connect(port, tls, host)
        self.assertEqual(await protocol.greeted, b"hello")
        assert protocol.transport is not None
        protocol.transport.loseConnection()
        await protocol.lost

    async def refused(self, port: int, tls: ClientTLS, host: str = "cp.test") -> ConnectProblem:
        """Connecting fails in the TLS step, with the problem returned."""
        try:
            await self.connect(port, tls, host)
        except ConnectProblem as problem:
            self.assertEqual(problem.step, "tls")
            self.assertEqual(self.trace.steps[-1].name, "tls")
            self.assertEqual(self.trace.steps[-1].error, problem.sentence)
            return problem
        raise AssertionError("the connection was accepted")

    def trusting(self, **changes: Any) -> ClientTLS:
        return ClientTLS(ca_file=self.ca_file, **changes)

    async def test_accepted(self) -> None:
        """A server with a certificate of the CA file, for its name: connected when TLS 1.3 is up."""
        await self.works(self.listen(self.identity.server_options()), self.trusting())
        self.assertEqual([step.name for step in self.trace.steps], ["dns", "tcp", "tls"])

    async def test_address(self) -> None:
        """A certificate for an IP address is accepted for that address, and for no other."""
        port = self.listen(self.identity.server_options())
        await self.works(port, self.trusting(), "127.0.0.1")
        other = self.listen(self.authority.issue("192.0.2.1").server_options())
        problem = await self.refused(other, self.trusting(), "127.0.0.1")
        self.assertIn("is not for this name, but for 192.0.2.1", problem.sentence)

    async def test_old_server(self) -> None:
        """A server with TLS 1.2 only is refused by default, and let in by the setting."""
        port = self.listen(self.identity.server_options(highest="1.2"))
        problem = await self.refused(port, self.trusting())
        self.assertIn("does not speak TLS 1.3 or newer", problem.sentence)
        self.assertIn('min_version: "1.2"', problem.remedy)
        self.assertFalse(problem.retryable)
        await self.works(port, self.trusting(min_version="1.2"))

    async def test_other_authority(self) -> None:
        """A certificate of another CA is refused; its issuer and our CA file are named."""
        port = self.listen(Authority("Their CA").issue("cp.test").server_options())
        problem = await self.refused(port, self.trusting())
        self.assertIn("issued by CN=Their CA", problem.sentence)
        self.assertIn(self.ca_file, problem.sentence)

    async def test_system_authorities(self) -> None:
        """Without a CA file the system's are trusted, and ours is not among them."""
        problem = await self.refused(self.listen(self.identity.server_options()), ClientTLS())
        self.assertIn("not among the system's authorities", problem.sentence)

    async def test_expired(self) -> None:
        """A certificate that has expired; the clock is named as the other suspect."""
        old = self.authority.issue("cp.test", begin=timedelta(days=-9), end=timedelta(days=-2))
        problem = await self.refused(self.listen(old.server_options()), self.trusting())
        self.assertIn("expired at", problem.sentence)
        self.assertIn("clock", problem.remedy)

    async def test_not_yet_valid(self) -> None:
        """A certificate from the future."""
        early = self.authority.issue("cp.test", begin=timedelta(days=2), end=timedelta(days=3))
        problem = await self.refused(self.listen(early.server_options()), self.trusting())
        self.assertIn("is not valid before", problem.sentence)

    async def test_other_name(self) -> None:
        """A certificate for another name, and one for none."""
        other = self.authority.issue("other.test", "www.other.test")
        problem = await self.refused(self.listen(other.server_options()), self.trusting())
        self.assertIn("but for other.test, www.other.test", problem.sentence)
        nameless = await self.refused(self.listen(self.authority.issue().server_options()), self.trusting())
        self.assertIn("no host name at all", nameless.sentence)

    async def test_insecure(self) -> None:
        """Without verification anybody is accepted, still over TLS."""
        stranger = Authority("Their CA").issue("other.test")
        await self.works(self.listen(stranger.server_options()), ClientTLS(verify=False))

    async def test_client_certificate(self) -> None:
        """A server that asks for a client certificate gets the one of the files."""
        me = self.authority.issue("agent")
        port = self.listen(self.identity.server_options(client_authority=self.authority))
        await self.works(port, self.trusting(**self.files(me)))

    async def test_one_file_for_both(self) -> None:
        """Certificate and key may stand in one file."""
        me = self.authority.issue("agent")
        both = self.directory / "both.pem"
        both.write_bytes(me.certificate_pem + me.key_pem())
        port = self.listen(self.identity.server_options(client_authority=self.authority))
        await self.works(port, self.trusting(cert_file=str(both)))

    async def test_client_certificate_missing(self) -> None:
        """With TLS 1.2 the server's refusal ends the handshake, and is explained."""
        options = self.identity.server_options(highest="1.2", client_authority=self.authority)
        problem = await self.refused(self.listen(options), self.trusting(min_version="1.2"))
        self.assertIn("ended the TLS handshake", problem.sentence)
        self.assertIn("client certificate", problem.remedy)

    def files(self, identity: Identity, password: bytes | None = None) -> dict[str, str]:
        certificate, key = self.directory / "me.pem", self.directory / "me.key"
        certificate.write_bytes(identity.certificate_pem)
        key.write_bytes(identity.key_pem(password))
        return {"cert_file": str(certificate), "key_file": str(key)}

    async def test_unusable_files(self) -> None:
        """Each file that can't be used is named, with the reason."""
        me = self.authority.issue("agent")
        port = self.listen(self.identity.server_options())

        async def sentence(**changes: Any) -> str:
            try:
                await self.connect(port, self.trusting(**changes))
            except ConnectProblem as problem:
                return problem.sentence
            raise AssertionError("accepted")

        self.assertIn("encrypted", await sentence(**self.files(me, b"secret")))
        files = self.files(me)
        write(files["key_file"], self.authority.issue("other").key_pem())
        self.assertIn("do not belong together", await sentence(**files))
        write(files["key_file"], b"nonsense")
        self.assertIn("no private key in PEM form", await sentence(**files))
        write(files["cert_file"], b"nonsense")
        self.assertIn("no certificate in PEM form", await sentence(**files))
        write(self.ca_file, b"x" * (4 << 20) + b"x")
        self.assertIn("larger than", await sentence())

    async def test_replaced_ca_file(self) -> None:
        """The CA file is read for each connection: a replaced one counts from then on."""
        old, new = self.listen(self.identity.server_options()), Authority("Next CA")
        renewed = self.listen(new.issue("cp.test").server_options())
        tls = self.trusting()
        await self.works(old, tls)
        await self.refused(renewed, tls)
        new.write(Path(self.ca_file))
        await self.works(renewed, tls)
        await self.refused(old, tls)

    async def test_dropped_in_handshake(self) -> None:
        """A server that hangs up during the handshake fails the connect; it can be tried again."""

        class HangsUp(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.loseConnection()

        problem = await self.refused(self.listen(None, HangsUp), self.trusting())
        self.assertTrue(problem.retryable)
        self.assertIn("the connection during the TLS handshake", problem.sentence)

    async def test_silent_server(self) -> None:
        """A server that never answers the hello is given up at the deadline."""
        self.connector = Connector(REACTOR, connect_timeout=0.2, resolver=ToLoopback())
        problem = await self.refused(self.listen(None, Protocol), self.trusting())
        self.assertTrue(problem.timed_out)

    async def test_not_tls(self) -> None:
        """A server of another protocol is called that."""
        problem = await self.refused(self.listen(None, Greeting), self.trusting())
        self.assertIn("does not speak TLS", problem.sentence)

    async def test_http_instead(self) -> None:
        """A server that speaks plain HTTP on this port is called that, with where to look."""

        class PlainHTTP(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                self.transport.loseConnection()

        problem = await self.refused(self.listen(None, PlainHTTP), self.trusting())
        self.assertIn("does not speak TLS", problem.sentence)
        self.assertIn("https://", problem.remedy)

    async def test_purpose(self) -> None:
        """A certificate that is for clients only is refused, with what is wrong with it and by whom it is."""
        client = self.authority.issue("cp.test", usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        problem = await self.refused(self.listen(client.server_options()), self.trusting())
        self.assertIn("the certificate may not be used for this", problem.sentence)
        self.assertIn("issued by CN=Our CA", problem.sentence)

    async def test_clock(self) -> None:
        """Where this machine's clock is known to be wrong, it is named instead of being suspected."""
        note = "this machine's clock is 600 s behind the control plane's"
        self.connector = Connector(REACTOR, connect_timeout=5, resolver=ToLoopback(), clock_note=lambda: note)
        early = self.authority.issue("cp.test", begin=timedelta(minutes=5), end=timedelta(days=3))
        problem = await self.refused(self.listen(early.server_options()), self.trusting())
        self.assertEqual(problem.remedy, note)

    async def test_protocol_that_fails(self) -> None:
        """An application's protocol that can't start fails the connect and leaves no connection."""

        class Broken(Protocol):
            def connectionMade(self) -> None:
                raise ValueError("broken")

        endpoint = self.connector.endpoint(
            "cp.test", self.listen(self.identity.server_options()), tls=self.trusting()
        )
        with self.assertRaises(ValueError):
            await endpoint.connect(Factory.forProtocol(Broken))
