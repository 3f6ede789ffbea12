"""Tests for L{pipeops_agent.tunnel.refusal}: what a person is told of a WebSocket that was not to be."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.refusal import explain_close, explain_loss, explain_refusal


class RefusalTests(SynchronousTestCase):
    """Answers to the upgrade that are none."""

    def test_all_of_it(self) -> None:
        """Status, where it leads, who says so, how the page begins, and a guess."""
        self.assertEqual(
            explain_refusal(
                b"HTTP/1.1 301 Moved Permanently\r\nServer: nginx\r\nLocation: https://new.example/\r\n\r\n"
                b"\n<html>moved\n</html>",
                "reason",
            ),
            "the server answered the upgrade with 301 Moved Permanently, location https://new.example/,"
            " server nginx, body begins '<html>moved' (a redirect is not followed: set the address it names)",
        )

    def test_guesses(self) -> None:
        """Each status that is met in the field says where to look."""
        for status in (200, 302, 307, 308, 400, 401, 403, 404, 405, 421, 426, 429, 500, 502, 503, 504):
            said = explain_refusal(b"HTTP/1.1 %d X\r\n\r\n" % status, "reason")
            self.assertRegex(said, rf"^the server answered the upgrade with {status} X \(.+\)$")
        self.assertIn("WebSockets", explain_refusal(b"HTTP/1.1 404 Not Found\r\n\r\n", "reason"))
        self.assertNotIn("(", explain_refusal(b"HTTP/1.1 418 Teapot\r\n\r\n", "reason"))

    def test_not_http(self) -> None:
        """An answer that is no refusal but wrong has Autobahn's reason."""
        for answer in (b"", b"SSH-2.0-x", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"):
            self.assertEqual(
                explain_refusal(answer, "odd\n"),
                "the upgrade to a WebSocket failed: odd\N{REPLACEMENT CHARACTER}",
            )

    def test_bounded(self) -> None:
        """What the peer says is cut and made printable."""
        said = explain_refusal(
            b"HTTP/1.1 404 " + b"a" * 999 + b"\x1b\r\nServer: " + b"s" * 999 + b"\r\n\r\n", ""
        )
        self.assertLess(len(said), 600)
        self.assertTrue(said.isprintable())

    def test_close(self) -> None:
        """A close frame's code and reason, where it has them."""
        self.assertEqual(explain_close(b""), "the peer closed the WebSocket")
        self.assertEqual(explain_close(b"\x03\xe9bye"), "the peer closed the WebSocket with code 1001 (bye)")

    def test_loss(self) -> None:
        """A client certificate that the server misses, which TLS 1.3 says after the handshake."""
        alert = SSL.Error([("SSL routines", "", "tlsv13 alert certificate required")])
        said = explain_loss(Failure(alert))
        self.assertIn("the server does not accept a missing client certificate", said)
        self.assertIn("tls.cert_file", said)
        self.assertEqual(explain_loss(Failure(ConnectionDone())), "")
