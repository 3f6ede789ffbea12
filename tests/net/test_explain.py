"""What is said of an error from the network."""

from __future__ import annotations

import errno
import socket
from datetime import UTC, datetime

from OpenSSL import SSL
from twisted.internet import error
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.net import (
    CertificateProblem,
    ClientTLS,
    ConnectProblem,
    LookupProblem,
    ProxyRefusal,
    TLSFileProblem,
    explain,
)
from pipeops_agent.net.problems import CertificateFault
from pipeops_agent.scheduling import DeadlineExceeded

PLACE = "api.example:443"


def certificate(fault: CertificateFault) -> CertificateProblem:
    return CertificateProblem(
        fault,
        subject="api.example",
        issuer="CN=Corporate CA",
        not_before=datetime(2026, 5, 6, 7, 8, tzinfo=UTC),
        not_after=datetime(2026, 6, 7, 8, 9, tzinfo=UTC),
        detail="details",
    )


def tls_error(reason: str) -> SSL.Error:
    return SSL.Error([("SSL routines", "", reason)])


class ExplainTests(SynchronousTestCase):
    """L{explain}."""

    def test_lookup(self) -> None:
        """A name that is not found is named; only a silent DNS can get better by itself."""
        wrong = explain(LookupProblem("apj.example", "no such name", temporary=False), PLACE)
        self.assertIn("apj.example: no such name", wrong.sentence)
        self.assertFalse(wrong.retryable)
        silent = explain(LookupProblem("api.example", "try again", temporary=True), PLACE)
        self.assertTrue(silent.retryable)
        self.assertIn("DNS", silent.remedy)

    def test_refused(self) -> None:
        """A refused connection can be tried again."""
        said = explain(error.ConnectionRefusedError(), PLACE)
        self.assertEqual(said.sentence, "api.example:443 refuses connections")
        self.assertTrue(said.retryable)
        self.assertFalse(said.timed_out)

    def test_timed_out(self) -> None:
        """Every way in which time runs out is called that."""
        for late in (DeadlineExceeded("x"), error.TimeoutError(), error.TCPTimedOutError()):
            said = explain(late, PLACE)
            self.assertIn("no answer from api.example:443", said.sentence)
            self.assertTrue(said.retryable and said.timed_out)

    def test_lost(self) -> None:
        """A connection that ended is told from one that broke."""
        self.assertIn("closed the connection", explain(error.ConnectionDone(), PLACE).sentence)
        broken = explain(error.ConnectionLost(), PLACE)
        self.assertIn("broke off the connection", broken.sentence)
        self.assertTrue(broken.retryable)

    def test_system(self) -> None:
        """The system's own reason is passed on."""
        unreachable = error.getConnectError(OSError(errno.EHOSTUNREACH, "No route to host"))
        said = explain(unreachable, PLACE)
        self.assertIn("No route to host", said.sentence)
        self.assertTrue(said.retryable)
        self.assertIn("unreachable", explain(OSError(101, "Network is unreachable"), PLACE).sentence)
        self.assertFalse(explain(socket.gaierror(-2, "unknown"), PLACE).retryable)

    def test_certificates(self) -> None:
        """Each fault of a certificate has a sentence of its own, with what one needs to know."""
        name = explain(certificate("name"), PLACE)
        self.assertIn("but for api.example", name.sentence)
        expired = explain(certificate("expired"), PLACE)
        self.assertIn("expired at 2026-06-07 08:09 UTC", expired.sentence)
        self.assertIn("clock", expired.remedy)
        early = explain(certificate("not yet valid"), PLACE)
        self.assertIn("not valid before 2026-05-06 07:08 UTC", early.sentence)
        self.assertIn("clock", early.remedy)
        for said in (name, expired, early, explain(certificate("other"), PLACE)):
            self.assertFalse(said.retryable)
        self.assertIn("details", explain(certificate("other"), PLACE).sentence)

    def test_unknown_authority(self) -> None:
        """The issuer is named, and where it was looked for."""
        for fault in ("unknown CA", "self-signed"):
            system = explain(certificate(fault), PLACE, ClientTLS())
            self.assertIn("CN=Corporate CA", system.sentence)
            self.assertIn("the system's authorities", system.sentence)
            own = explain(certificate(fault), PLACE, ClientTLS(ca_file="/etc/ca.pem"))
            self.assertIn("the CA file /etc/ca.pem", own.sentence)
            self.assertIn("tls.ca_file", own.remedy)

    def test_other_origin(self) -> None:
        """Of TLS that no C{tls.*} setting describes none is named."""
        tls = ClientTLS(ca_data=b"PEM", cert_data=b"PEM", origin="the kubeconfig", ca_remedy="another CA")
        unknown = explain(certificate("unknown CA"), PLACE, tls)
        self.assertIn("not among the authorities of the kubeconfig", unknown.sentence)
        self.assertEqual(unknown.remedy, "another CA")
        refused = explain(tls_error("tlsv1 alert unknown ca"), PLACE, tls)
        self.assertIn("does not accept the client certificate of the kubeconfig", refused.sentence)
        self.assertEqual(refused.remedy, "")

    def test_version(self) -> None:
        """A server that is too old: the version, and the setting that lets it in."""
        for reason in ("tlsv1 alert protocol version", "unsupported protocol"):
            said = explain(tls_error(reason), PLACE, ClientTLS())
            self.assertIn("does not speak TLS 1.3 or newer", said.sentence)
            self.assertIn("min_version", said.remedy)
        lowest = explain(tls_error("tlsv1 alert protocol version"), PLACE, ClientTLS(min_version="1.2"))
        self.assertEqual(lowest.remedy, "")

    def test_client_certificate(self) -> None:
        """A server that wants a client certificate says so in an alert."""
        missing = explain(tls_error("tlsv13 alert certificate required"), PLACE, ClientTLS())
        self.assertIn("a missing client certificate", missing.sentence)
        given = explain(tls_error("tlsv1 alert unknown ca"), PLACE, ClientTLS(cert_file="me.pem"))
        self.assertIn("the client certificate me.pem", given.sentence)

    def test_alerts(self) -> None:
        """What a server says before it hangs up has a sentence and a remedy."""
        for reason, says, remedy in (
            ("tlsv1 unrecognized name", "does not know the name that it was asked for", "certificate for it"),
            ("tlsv1 alert no application protocol", "wants a protocol (ALPN)", "port"),
            ("ssl/tls alert handshake failure", "ended the TLS handshake", "client certificate"),
            ("tlsv1 alert internal error", "failed during the TLS handshake", "log"),
        ):
            said = explain(tls_error(reason), PLACE)
            self.assertEqual(said.sentence[:15], PLACE)
            self.assertIn(says, said.sentence)
            self.assertIn(f"({reason})", said.sentence)
            self.assertIn(remedy, said.remedy)
        self.assertIn("failed: tlsv1 alert odd", explain(tls_error("tlsv1 alert odd"), PLACE).sentence)
        closed = explain(tls_error("unexpected eof while reading"), PLACE)
        self.assertEqual(closed.sentence, f"{PLACE} closed the connection")
        self.assertTrue(closed.retryable and closed.lost)

    def test_known_clock(self) -> None:
        """A clock that is known to be wrong is the remedy of a certificate's dates, and of nothing else."""
        note = "this machine's clock is 600 s behind the control plane's"
        for fault in ("expired", "not yet valid"):
            self.assertEqual(explain(certificate(fault), PLACE, clock_note=note).remedy, note)
        self.assertNotIn("clock", explain(certificate("name"), PLACE, clock_note=note).remedy)

    def test_proxy(self) -> None:
        """A proxy's refusal is a sentence about the proxy."""
        said = explain(ProxyRefusal("says no", remedy="ask", retryable=True), "the proxy p:1")
        self.assertEqual((said.sentence, said.remedy), ("the proxy p:1 says no", "ask"))
        self.assertTrue(said.retryable)

    def test_not_tls(self) -> None:
        """A port that speaks something else is told from a broken TLS."""
        self.assertIn("does not speak TLS (", explain(tls_error("wrong version number"), PLACE).sentence)
        self.assertIn("failed: odd", explain(tls_error("odd"), PLACE).sentence)
        self.assertIn("failed: Error", explain(SSL.Error(), PLACE).sentence)

    def test_own_problems(self) -> None:
        """What has been explained already stays as it is."""
        problem = ConnectProblem("tls", "said", retryable=True, remedy="done", timed_out=True)
        said = explain(problem, PLACE)
        self.assertEqual((said.sentence, said.remedy), ("said", "done"))
        self.assertTrue(said.retryable and said.timed_out)
        self.assertEqual(str(problem), "said (done)")
        self.assertEqual(explain(TLSFileProblem("key file x: gone")).sentence, "key file x: gone")

    def test_anything(self) -> None:
        """An error that nobody foresaw is named with its type; a bad host name is called that."""
        self.assertEqual(explain(ValueError("odd")).sentence, "ValueError: odd")
        self.assertIn("no valid host name", explain(UnicodeError("label too long"), "x:1").sentence)
