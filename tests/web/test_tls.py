"""Tests for TLS on the agent's own interface: which certificate is shown, and the site behind it."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ClientEndpoint, TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from pipeops_agent.build import describe
from pipeops_agent.clock import utc_now
from pipeops_agent.errors import ExitStatus, FatalError
from pipeops_agent.events import EventHub
from pipeops_agent.health import standard_checks
from pipeops_agent.metrics import Metrics
from pipeops_agent.net.problems import TLSFileProblem
from pipeops_agent.settings.model_server import ServerSettings, ServerTLSSettings
from pipeops_agent.status import StatusBoard
from pipeops_agent.web import fetch_status
from pipeops_agent.web.channel import MAX_BODY
from pipeops_agent.web.listener import Listener
from pipeops_agent.web.site import build_site
from pipeops_agent.web.tls import (
    LIFETIME,
    RENEWED,
    FileCertificate,
    OwnCertificate,
    fingerprint,
    self_signed,
    server_tls,
)
from tests.web.harness import START, Limits, one_token

GET = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


def write_pair(directory: Path, name: str = "agent.test") -> tuple[Path, Path, str]:
    """A certificate and its key, moved to their places; and the certificate's fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = self_signed(key, [name], utc_now())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for place, content in (("tls.crt", certificate.public_bytes(Encoding.PEM)), ("tls.key", pem)):
        fresh = directory / "fresh"
        fresh.write_bytes(content)
        fresh.rename(directory / place)
    return directory / "tls.crt", directory / "tls.key", fingerprint(certificate)


class FileTests(SynchronousTestCase):
    """A certificate in files."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)  # type: ignore[arg-type]  # any case

    def said(self, words: str) -> int:
        return sum(words in str(event.get("log_format")) for event in self.events)

    def test_replaced(self) -> None:
        """It is read once, and again when it was replaced; each time the log has its fingerprint."""
        cert, key, first = write_pair(self.directory)
        certificate = FileCertificate(str(cert), str(key))
        before = certificate.context()
        self.assertIs(certificate.context(), before)
        _, _, second = write_pair(self.directory)
        self.assertIsNot(certificate.context(), before)
        shown = [event["fingerprint"] for event in self.events if "fingerprint" in event]
        self.assertEqual(shown, [first, second])
        self.assertRegex(first, r"^([0-9A-F]{2}:){31}[0-9A-F]{2}$")

    def test_half_replaced(self) -> None:
        """While only one of the two has been replaced the old pair is shown, and that is said once."""
        cert, key, _ = write_pair(self.directory)
        certificate = FileCertificate(str(cert), str(key))
        before = certificate.context()
        old_key = key.read_bytes()
        write_pair(self.directory)
        new_key = key.read_bytes()
        key.write_bytes(old_key)
        for _ in range(3):
            self.assertIs(certificate.context(), before)
        self.assertEqual(self.said("stays in use"), 1)
        key.write_bytes(new_key)
        self.assertIsNot(certificate.context(), before)

    def test_unusable_later(self) -> None:
        """What is not there any more, or is none, does not take the certificate away."""
        cert, key, _ = write_pair(self.directory)
        certificate = FileCertificate(str(cert), str(key))
        before = certificate.context()
        cert.write_text("no certificate")
        self.assertIs(certificate.context(), before)
        cert.unlink()
        self.assertIs(certificate.context(), before)

    def test_unusable_at_first(self) -> None:
        """Without any there is an error that names the file; nothing of a key is in it."""
        cert, key, _ = write_pair(self.directory)
        other = self.directory / "other"
        other.mkdir()
        _, stranger, _ = write_pair(other)
        for files, words in (
            ((str(self.directory / "none"), ""), "none"),
            ((str(cert), str(self.directory / "none")), "none"),
            ((str(cert), str(stranger)), "do not belong together"),
            ((str(key), str(cert)), "no certificate"),
        ):
            error = self.assertRaises(TLSFileProblem, FileCertificate(*files).context)
            self.assertIn(words, str(error))
            self.assertNotIn("PRIVATE", str(error))

    def test_one_file(self) -> None:
        """Certificate and key may be in one file."""
        cert, key, _ = write_pair(self.directory)
        both = self.directory / "both.pem"
        both.write_bytes(cert.read_bytes() + key.read_bytes())
        FileCertificate(str(both), "").context()


class OwnTests(SynchronousTestCase):
    """A certificate of the agent's own making."""

    def test_renewed(self) -> None:
        """One is made, and another before it ends; its fingerprint is in the log."""
        events = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)  # type: ignore[arg-type]  # any case
        now = START
        certificate = OwnCertificate(lambda: now, ["host", "127.0.0.1"])
        first = certificate.context()
        now = START + LIFETIME - RENEWED - timedelta(seconds=1)
        self.assertIs(certificate.context(), first)
        now += timedelta(seconds=1)
        self.assertIsNot(certificate.context(), first)
        self.assertEqual(len([event for event in events if "fingerprint" in event]), 2)

    def test_names(self) -> None:
        """It is for the names that this agent is reached by, signs no others, and holds from a while ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self_signed(key, ["host", "::1", "10.0.0.7"], START)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual([str(name.value) for name in names], ["host", "::1", "10.0.0.7"])
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        self.assertFalse(constraints.ca)
        self.assertLess(certificate.not_valid_before_utc, START)

    def test_settings(self) -> None:
        """The settings say whether there is TLS, and which certificate."""
        self.assertIsNone(server_tls(ServerSettings(), utc_now, "host"))
        for mode, kind in (("auto", OwnCertificate), ("files", FileCertificate)):
            tls = ServerTLSSettings(mode=mode, cert_file="/c")  # type: ignore[arg-type]  # one of them
            made = server_tls(ServerSettings(tls=tls), utc_now, "host")
            assert made is not None
            self.assertIsInstance(made.certificate, kind)


class Client(Protocol):
    """Keeps what comes, and what was shown."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: Deferred[BaseException | None] = Deferred()
        self.heard: list[tuple[bytes, Deferred[None]]] = []

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        for words, waiting in tuple(self.heard):
            if words in self.data:
                self.heard.remove((words, waiting))
                waiting.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)

    def hears(self, words: bytes) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        self.heard.append((words, waiting))
        self.dataReceived(b"")
        return waiting

    def say(self, data: bytes) -> None:
        cast(Any, self.transport).write(data)

    async def hang_up(self) -> None:
        cast(Any, self.transport).loseConnection()
        await self.lost

    @property
    def shown(self) -> str:
        """The fingerprint of the certificate that was shown."""
        return fingerprint(cast(Any, self.transport).getPeerCertificate().to_cryptography())


class SocketTests(TestCase):
    """The site behind TLS, on a real port."""

    timeout = 30

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251 (real sockets need the real reactor)

        self.reactor = cast(Any, reactor)
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir()
        self.cert, self.key, self.first = write_pair(self.directory)

    def serve(self, limits: Limits | None = None, **tls: Any) -> Listener:
        board = StatusBoard(EventHub(utc_now), utc_now)
        build = describe("1.2.3", None)
        site = build_site(
            self.reactor,
            board,
            standard_checks(),
            Metrics(board, utc_now, build),
            limits or Limits(request_timeout=5.0, idle_timeout=5.0),
            utc_now,
            access=one_token(self.reactor, board),
            build=build,
        )
        files: dict[str, Any] = {"mode": "files", "cert_file": str(self.cert), "key_file": str(self.key)}
        settings = ServerSettings(port=0, tls=ServerTLSSettings(**{**files, **tls}))
        listener = Listener(self.reactor, site, settings, utc_now, "host")
        listener.startService()
        self.addCleanup(listener.stopService)
        return listener

    async def connect(self, listener: Listener, **options: Any) -> Client:
        port = int(listener.address.rpartition(":")[2])
        client = Client()
        options = options or {"raiseMinimumTo": TLSVersion.TLSv1_3}
        endpoint = SSL4ClientEndpoint(self.reactor, "127.0.0.1", port, CertificateOptions(**options))
        await connectProtocol(endpoint, client)
        return client

    async def test_answers(self) -> None:
        """Requests are answered over TLS 1.3, one after the other on one connection."""
        client = await self.connect(self.serve())
        for count in (1, 2):
            client.data = b""
            client.say(GET)
            await client.hears(b'"healthy"')
            self.assertTrue(client.data.startswith(b"HTTP/1.1 200 "), count)
        self.assertEqual(client.shown, self.first)
        await client.hang_up()

    async def test_no_older_version(self) -> None:
        """TLS 1.2 is refused."""
        client = await self.connect(self.serve(), lowerMaximumSecurityTo=TLSVersion.TLSv1_2)
        self.assertIsInstance(await client.lost, SSL.Error)

    async def test_no_plain_http(self) -> None:
        """Plain HTTP is answered with nothing of the site's."""
        port = int(self.serve().address.rpartition(":")[2])
        client = Client()
        await connectProtocol(TCP4ClientEndpoint(self.reactor, "127.0.0.1", port), client)
        client.say(GET)
        await client.lost
        self.assertNotIn(b"HTTP/", client.data)

    async def test_replaced(self) -> None:
        """A replaced certificate is shown to the next; the connection that was there goes on."""
        listener = self.serve()
        old = await self.connect(listener)
        old.say(GET)
        await old.hears(b'"healthy"')
        _, _, second = write_pair(self.directory)
        new = await self.connect(listener)
        for client in (old, new):
            client.data = b""
            client.say(GET)
            await client.hears(b'"healthy"')
        self.assertEqual((old.shown, new.shown), (self.first, second))
        for client in (old, new):
            await client.hang_up()

    async def test_refusal_is_read(self) -> None:
        """Who sends too much reads the answer to that, whole, although he is still sending."""
        client = await self.connect(self.serve())
        head = f"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n"
        client.say(head.encode() + bytes(MAX_BODY))
        await client.lost
        self.assertTrue(client.data.startswith(b"HTTP/1.1 413 "), client.data[:50])
        self.assertIn(b'"body_too_large"', client.data)

    async def test_close(self) -> None:
        """C{Connection: close} closes after the answer, cleanly."""
        client = await self.connect(self.serve())
        client.say(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await client.lost
        self.assertIn(b'"healthy"', client.data)

    async def test_silence(self) -> None:
        """Who opens a connection and says nothing, not even a handshake, is cut."""
        port = int(self.serve(Limits(idle_timeout=0.2)).address.rpartition(":")[2])
        client = Client()
        await connectProtocol(TCP4ClientEndpoint(self.reactor, "127.0.0.1", port), client)
        await client.lost

    async def test_full(self) -> None:
        """Where all connections are busy one more is closed; nothing breaks."""
        listener = self.serve(Limits(max_connections=1, idle_timeout=5.0))
        first = await self.connect(listener)
        first.say(GET)
        await first.hears(b'"healthy"')
        second = await self.connect(listener)
        second.say(GET)
        await second.hears(b'"healthy"')
        await first.lost
        await second.hang_up()

    async def test_status(self) -> None:
        """C{--status} asks over TLS as well, whoever has signed the certificate."""
        own: dict[str, Any] = {"mode": "auto", "cert_file": "", "key_file": ""}
        for tls in ({}, own):
            port = int(self.serve(None, **tls).address.rpartition(":")[2])
            text, _ = await fetch_status(self.reactor, "127.0.0.1", port, tls=True)
            self.assertIn("healthy", text)
            text, _ = await fetch_status(self.reactor, "127.0.0.1", port)
            self.assertIn("no pipeops-agent", text)

    def test_unusable(self) -> None:
        """A certificate that can't be used ends the start, with the status of wrong settings."""
        os.unlink(self.key)
        error = self.assertRaises(FatalError, self.serve)
        self.assertEqual(error.status, ExitStatus.CONFIG)
        self.assertIn("server.tls", error.sentence)
