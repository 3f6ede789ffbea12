"""Tests for L{pipeops_agent.net.socks5}: RFC 1928 and RFC 1929."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.net.problems import ProxyRefusal
from pipeops_agent.net.socks5 import Socks5Exchange
from pipeops_agent.secrets import Secret

LOGIN = ("agent", Secret("horse"))
REPLY = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
REQUEST = b"\x05\x01\x00\x03\x0bapi.example\x01\xbb"


class Socks5Tests(SynchronousTestCase):
    """L{Socks5Exchange}."""

    def exchange(self, credentials: tuple[str, Secret] | None = LOGIN) -> Socks5Exchange:
        exchange = Socks5Exchange("api.example", 443, credentials)
        exchange.begin()
        return exchange

    def refusal(self, *answers: bytes, credentials: tuple[str, Secret] | None = LOGIN) -> ProxyRefusal:
        exchange = self.exchange(credentials)
        for answer in answers[:-1]:
            exchange.feed(answer)
        refusal: ProxyRefusal = self.assertRaises(ProxyRefusal, exchange.feed, answers[-1])
        self.assertNotIn("horse", f"{refusal.reason} {refusal.remedy}")
        self.assertTrue(refusal.reason.isprintable())
        return refusal

    def test_without_login(self) -> None:
        """Greeting, request with the name as it is, reply."""
        exchange = Socks5Exchange("api.example", 443)
        self.assertEqual(exchange.begin(), b"\x05\x01\x00")
        self.assertEqual(exchange.feed(b"\x05\x00"), REQUEST)
        self.assertEqual(exchange.feed(REPLY + b"early"), b"")
        self.assertTrue(exchange.done)
        self.assertEqual(exchange.rest, b"early")

    def test_with_login(self) -> None:
        """User and password go out only where the proxy chooses so."""
        exchange = Socks5Exchange("api.example", 443, LOGIN)
        self.assertEqual(exchange.begin(), b"\x05\x02\x00\x02")
        self.assertEqual(exchange.feed(b"\x05\x02"), b"\x01\x05agent\x05horse")
        self.assertEqual(exchange.feed(b"\x01\x00"), REQUEST)
        self.assertEqual(self.exchange().feed(b"\x05\x00"), REQUEST)

    def test_addresses(self) -> None:
        """An address is sent as one."""
        for host, sent in (
            ("192.0.2.1", b"\x01\xc0\x00\x02\x01"),
            ("2001:db8::1", b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
        ):
            exchange = Socks5Exchange(host, 258)
            exchange.begin()
            self.assertEqual(exchange.feed(b"\x05\x00"), b"\x05\x01\x00" + sent + b"\x01\x02")
        for host in ("a b", "", "ä.example", "x" * 64):
            self.assertRaises(UnicodeError, Socks5Exchange, host, 443)

    def test_split_anywhere(self) -> None:
        """However the proxy's words are cut, the same is said and the rest is the target's."""
        for reply in (REPLY, b"\x05\x00\x00\x04" + bytes(18), b"\x05\x00\x00\x03\x03abc\x00\x50"):
            whole = b"\x05\x02" + b"\x01\x00" + reply
            for cut in range(len(whole) + 1):
                exchange = self.exchange()
                said = exchange.feed(whole[:cut])
                self.assertEqual(exchange.done, cut == len(whole))
                said += exchange.feed(whole[cut:])
                self.assertTrue(exchange.done, cut)
                self.assertEqual(said, b"\x01\x05agent\x05horse" + REQUEST)

    def test_login_refused(self) -> None:
        """No way to log in, a wrong password, a way that nobody offered."""
        self.assertIn("wants a user and a password", self.refusal(b"\x05\xff", credentials=None).reason)
        self.assertIn("wants a user and a password", self.refusal(b"\x05\x02", credentials=None).reason)
        self.assertIn("does not accept the user and password", self.refusal(b"\x05\xff").reason)
        wrong = self.refusal(b"\x05\x02", b"\x01\x01")
        self.assertEqual(wrong.reason, "does not accept the user and password (status 1)")
        self.assertFalse(wrong.retryable)
        self.assertIn("not offered (1)", self.refusal(b"\x05\x01").reason)

    def test_replies(self) -> None:
        """Each reply code is a sentence about the target; two bytes of it are enough."""
        for code, says, retryable in (
            (1, "general failure", True),
            (2, "does not allow a connection to api.example:443", False),
            (3, "network unreachable", True),
            (4, "host unreachable", True),
            (5, "can't reach api.example:443: connection refused", True),
            (6, "TTL expired", True),
            (7, "command not supported", False),
            (8, "kind of address", False),
            (99, "refuses api.example:443 (reply 99)", False),
        ):
            refusal = self.refusal(b"\x05\x00", bytes([5, code]))
            self.assertIn(says, refusal.reason)
            self.assertEqual(refusal.retryable, retryable, code)

    def test_not_socks(self) -> None:
        """Another protocol is noticed at its first byte, at each stage."""
        for answers in (
            (b"H",),
            (b"HTTP/1.1 400 Bad Request\r\n",),
            (b"\x04\x5a",),
            (b"\x05\x02", b"\x05\x00"),
            (b"\x05\x00", b"\x00\x5a"),
        ):
            self.assertIn("does not answer as a SOCKS 5 proxy", self.refusal(*answers).reason)
        self.assertIn("http://", self.refusal(b"HTTP/1.1 400").remedy)
        self.assertIn("unknown kind (9)", self.refusal(b"\x05\x00", b"\x05\x00\x00\x09\x00").reason)

    @given(st.lists(st.binary(max_size=20), max_size=6))
    def test_anything(self, pieces: list[bytes]) -> None:
        """Whatever comes: a connection, a refusal, or waiting, with no more kept than one reply is long."""
        exchange = self.exchange()
        try:
            for piece in (b"\x05\x02\x01\x00\x05\x00\x00", *pieces):
                if exchange.done:
                    break
                exchange.feed(piece)
                self.assertLessEqual(len(exchange._received), 262)
        except ProxyRefusal as refusal:
            self.assertTrue(refusal.reason.isprintable())
