"""Tests for L{pipeops_agent.net.connect_proxy}: CONNECT, and what proxies answer."""

from __future__ import annotations

from base64 import b64decode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.net.connect_proxy import MAX_ANSWER, ConnectExchange
from pipeops_agent.net.problems import ProxyRefusal
from pipeops_agent.secrets import Secret

LOGIN = ("agent", Secret("corréct:horse"))
OK = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n"


class ConnectTests(SynchronousTestCase):
    """L{ConnectExchange}."""

    def exchange(self, credentials: tuple[str, Secret] | None = LOGIN) -> ConnectExchange:
        return ConnectExchange("api.example", 443, credentials)

    def refusal(self, answer: bytes, credentials: tuple[str, Secret] | None = LOGIN) -> ProxyRefusal:
        refusal: ProxyRefusal = self.assertRaises(ProxyRefusal, self.exchange(credentials).feed, answer)
        self.assertNotIn("horse", f"{refusal.reason} {refusal.remedy}")
        self.assertTrue(refusal.reason.isprintable())
        return refusal

    def test_request(self) -> None:
        """The target as it is named; the login in Basic, UTF-8; nothing else."""
        lines = self.exchange().begin().split(b"\r\n")
        self.assertEqual(lines[:2], [b"CONNECT api.example:443 HTTP/1.1", b"Host: api.example:443"])
        name, _, login = lines[2].partition(b": Basic ")
        self.assertEqual(name, b"Proxy-Authorization")
        self.assertEqual(b64decode(login).decode(), "agent:corréct:horse")
        self.assertEqual(lines[3:], [b"", b""])
        self.assertNotIn(b"Proxy-Auth", self.exchange(None).begin())
        self.assertIn(b"CONNECT [fd00::1]:8443 HTTP/1.1\r\n", ConnectExchange("fd00::1", 8443).begin())

    def test_no_host(self) -> None:
        """What is no host can't smuggle lines into the request."""
        for host in ("a b", "a\r\nX: y", "ä.example", ""):
            self.assertRaises(UnicodeError, ConnectExchange, host, 443)

    def test_split_anywhere(self) -> None:
        """However the answer is cut, it is the same; what follows it is the target's."""
        for whole in (
            OK + b"early",
            b"HTTP/1.1 103 Early\r\nA: b\r\n\r\n" + OK + b"early",
            b"HTTP/1.0 200\n\nearly",
        ):
            for cut in range(len(whole) + 1):
                exchange = self.exchange()
                self.assertEqual(exchange.feed(whole[:cut]), b"")
                early = len(whole) - cut if exchange.done else 0
                if not exchange.done:
                    exchange.feed(whole[cut:])
                self.assertTrue(exchange.done, cut)
                self.assertEqual(exchange.rest + whole[len(whole) - early :], b"early", cut)

    def test_byte_by_byte(self) -> None:
        """One byte at a time."""
        exchange = self.exchange()
        for number, byte in enumerate(OK, 1):
            exchange.feed(bytes([byte]))
            self.assertEqual(exchange.done, number == len(OK))

    def test_login(self) -> None:
        """A login that is wanted, one that is not accepted, and one that is not spoken."""
        for status in (b"401 Unauthorized", b"407 Proxy Authentication Required"):
            answer = b"HTTP/1.1 " + status + b'\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n'
            self.assertIn("wants a user and a password (4", self.refusal(answer, None).reason)
            wrong = self.refusal(answer)
            self.assertIn("does not accept the user and password (4", wrong.reason)
            self.assertFalse(wrong.retryable)
        other = self.refusal(
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n"
        )
        self.assertIn("it offers Negotiate, NTLM", other.reason)
        self.assertIn("Basic", other.remedy)

    def test_statuses(self) -> None:
        """Each status is a sentence, and says whether it may pass."""
        for answer, says, retryable in (
            (b"403 Filtered", "does not allow a connection to api.example:443 (403 Filtered)", False),
            (b"405 Method Not Allowed", "does not allow", False),
            (b"404 Not Found", "refuses a connection to api.example:443 (404 Not Found)", False),
            (b"429 Slow Down", "refuses a connection", True),
            (b"500 Unable to connect", "can't reach api.example:443 (500 Unable to connect)", True),
            (b"502 Bad Gateway", "can't reach", True),
            (b"503 Service Unavailable\r\nX-Squid-Error: ERR_DNS_FAIL 0", "Unavailable, ERR_DNS_FAIL)", True),
            (b"504 Gateway Timeout", "can't reach", True),
            (
                b"302 Found\r\nLocation: http://login.corp/",
                "a redirect to http://login.corp/ (302 Found)",
                False,
            ),
        ):
            refusal = self.refusal(b"HTTP/1.1 " + answer + b"\r\n\r\n<html>")
            self.assertIn(says, refusal.reason)
            self.assertEqual(refusal.retryable, retryable, answer)

    def test_not_http(self) -> None:
        """Another protocol is noticed at its first byte that HTTP can't have."""
        for answer in (b"<html>hello", b"\x05\x00", b"SSH-2.0-x\r\n", b"HTTP/2 200\r\n", b"x"):
            refusal = self.refusal(answer)
            self.assertIn("does not answer as an HTTP proxy", refusal.reason)
        self.assertIn("speaks TLS", self.refusal(b"\x15\x03\x03\x00\x02\x02\x28").reason)
        self.assertIn("https://", self.refusal(b"\x15\x03").remedy)
        for answer in (b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n", b"HTTP/1.12\r\n\r\n"):
            self.assertIn("does not answer as an HTTP proxy", self.refusal(answer).reason)

    def test_too_long(self) -> None:
        """Headers without an end are refused at the limit, at once or in pieces, and kept no further."""
        endless = b"HTTP/1.1 200 OK\r\nA: " + b"a" * MAX_ANSWER
        self.assertIn(f"more than {MAX_ANSWER} bytes", self.refusal(endless).reason)
        self.assertIn("more than", self.refusal(endless + b"\r\n\r\n").reason)
        exchange = self.exchange()
        exchange.feed(endless[: MAX_ANSWER - 1])
        self.assertRaises(ProxyRefusal, exchange.feed, b"a")

    def test_endless_interim_answers(self) -> None:
        """Interim answers may come, but not for ever."""
        exchange = self.exchange()

        def flood() -> None:
            for _ in range(MAX_ANSWER):
                exchange.feed(b"HTTP/1.1 100 Continue\r\n\r\n")

        self.assertRaises(ProxyRefusal, flood)

    @given(st.binary(max_size=100), st.sampled_from([b"", b"HTTP/1.1 200", b"HTTP/1.1 407 x\r\n"]))
    def test_anything(self, data: bytes, start: bytes) -> None:
        """Whatever comes: a connection, a refusal, or waiting; nothing else is raised."""
        exchange = self.exchange()
        try:
            exchange.feed(start + data)
        except ProxyRefusal as refusal:
            self.assertTrue(refusal.reason.isprintable())
