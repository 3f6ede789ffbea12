"""The answer to the question for the tunnel."""

from __future__ import annotations

import base64
import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.controlplane.errors import AnswerError
from pipeops_agent.controlplane.tunnel_answer import (
    TunnelAnswer,
    parse_address,
    parse_tunnel_answer,
)
from pipeops_agent.orders import Allocation, ServerAddress, TunnelOrder
from pipeops_agent.secrets import Secret

FINGERPRINT = base64.b64encode(bytes(range(32))).decode()


def answer(**fields: Any) -> bytes:
    whole = {
        "status": "ready",
        "tunnel_server_addr": "wss://tunnel.test",
        "forwards": [{"name": "k8s-api", "remote_port": 8000}],
        **fields,
    }
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


class AnswerTests(SynchronousTestCase):
    """L{parse_tunnel_answer}."""

    def parse(self, **fields: Any) -> TunnelAnswer:
        return parse_tunnel_answer(answer(**fields))

    def order(self, **fields: Any) -> TunnelOrder:
        order = self.parse(**fields).order
        assert order is not None
        return order

    def refused(self, **fields: Any) -> str:
        return str(self.assertRaises(AnswerError, parse_tunnel_answer, answer(**fields)))

    def test_wanted(self) -> None:
        """Each word for "wanted", in any case, makes an order with server and ports."""
        for word in ("ready", "READY", "Required", "ACTIVE", " active "):
            order = self.order(status=word)
            self.assertEqual(order.state, "wanted")
            self.assertEqual(order.allocations, (Allocation("k8s-api", 8000),))
            assert order.server is not None
            self.assertEqual(order.server.address, ServerAddress("tunnel.test"))
            self.assertIsNone(order.server.credentials)

    def test_not_wanted(self) -> None:
        """C{IDLE} and C{disabled} need no server; what stands beside them is not looked at."""
        self.assertEqual(self.order(status="IDLE", tunnel_server_addr=...), TunnelOrder(state="idle"))
        self.assertEqual(self.order(status="Disabled", forwards="junk"), TunnelOrder(state="disabled"))

    def test_unknown_status(self) -> None:
        """A word from the future changes nothing, and is handed on to be said once."""
        said = self.parse(status="PARTIAL", tunnel_server_addr=5, poll_frequency=7)
        self.assertEqual(said, TunnelAnswer(unknown_status="PARTIAL", poll_after=7))

    def test_status_must_be_there(self) -> None:
        """Without a status, or with one that is no string, nothing is known."""
        self.assertEqual(self.refused(status=...), "status: missing")
        self.assertEqual(self.refused(status=1), "status: expected a string, got a number")

    def test_poll_frequency(self) -> None:
        """Clamped to 1 s - 10 min; absent, null and 0 mean: as configured."""
        for given, expected in (
            (..., None),
            (None, None),
            (0, None),
            (0.01, 1),
            (30, 30),
            (2.5, 2.5),
            (10**400, 600),
        ):
            self.assertEqual(self.parse(poll_frequency=given).poll_after, expected)
        for bad in ("5", True, -1, [5]):
            self.assertIn("poll_frequency", self.refused(poll_frequency=bad))

    def test_ports(self) -> None:
        """Integers from 1 to 65535; a boolean is none, nor is a string or a fraction."""
        for bad in (0, -1, 65536, True, "8000", 8000.0, None):
            self.assertIn(
                "forwards[0].remote_port: expected a port",
                self.refused(forwards=[{"name": "x", "remote_port": bad}]),
            )
        for good in (1, 65535):
            self.assertEqual(
                self.order(forwards=[{"name": "x", "remote_port": good}]).allocations,
                (Allocation("x", good),),
            )

    def test_unique(self) -> None:
        """No name and no port twice."""
        one = {"name": "a", "remote_port": 1}
        self.assertIn("forwards[1].name: 'a'", self.refused(forwards=[one, {"name": "a", "remote_port": 2}]))
        self.assertIn(
            "forwards[1].remote_port: 1", self.refused(forwards=[one, {"name": "b", "remote_port": 1}])
        )

    def test_forwards_shape(self) -> None:
        """A list of objects with names; absent and null are an empty one."""
        self.assertIn("forwards: expected an array, got an object", self.refused(forwards={}))
        self.assertIn("forwards[0]: expected an object", self.refused(forwards=["x"]))
        self.assertIn("forwards[0].name: missing", self.refused(forwards=[{"remote_port": 1}]))
        self.assertIn("more than", self.refused(forwards=[{}] * 1001))
        cases: tuple[Any, ...] = (..., None, [])
        for nothing in cases:
            self.assertEqual(self.order(forwards=nothing).allocations, ())

    def test_either_field(self) -> None:
        """C{tunnel_server_addr} goes before C{tunnel_url}; without both there is no server."""
        order = self.order(tunnel_server_addr="", tunnel_url="https://other.test/x")
        assert order.server is not None
        self.assertEqual(order.server.address, ServerAddress("other.test", path="/x"))
        self.assertIn("missing", self.refused(tunnel_server_addr=...))
        self.assertIn("tunnel_server_addr: expected a string", self.refused(tunnel_server_addr=5))

    def test_fingerprint(self) -> None:
        """The base64 of a SHA-256, 44 characters; nothing else, and the MD5 form with a reason."""
        order = self.order(server_fingerprint=FINGERPRINT)
        assert order.server is not None
        self.assertEqual(order.server.fingerprint, FINGERPRINT)
        self.assertIn("old MD5 form", self.refused(server_fingerprint=":".join(["aB"] * 16)))
        for bad in ("x", FINGERPRINT[:-1], FINGERPRINT + "AAAA", "!" * 44, FINGERPRINT[:-2] + "9="):
            self.assertIn("44 characters", self.refused(server_fingerprint=bad))
        for other in (20, 31, 33, 48):
            of_another_length = base64.b64encode(b"k" * other).decode()
            self.assertIn("44 characters", self.refused(server_fingerprint=of_another_length))
        self.assertIn("expected a string", self.refused(server_fingerprint=5))

    def test_credentials(self) -> None:
        """C{user:password}, plain or in base64; the password is a secret and may hold colons."""
        for given in ("user:pa:ss", base64.b64encode(b"user:pa:ss").decode()):
            order = self.order(credentials=given)
            assert order.server is not None
            self.assertEqual(order.server.credentials, ("user", Secret("pa:ss")))
        for nothing in (..., None, ""):
            order = self.order(credentials=nothing)
            assert order.server is not None
            self.assertIsNone(order.server.credentials)

    def test_bad_credentials(self) -> None:
        """What is neither is refused, and never shown: not in the error, not in what is chained to it."""
        for bad in ("sesame-open", base64.b64encode(b"sesame").decode(), "c2VzYW1l/w=="):
            error = self.assertRaises(AnswerError, parse_tunnel_answer, answer(credentials=bad))
            self.assertEqual(str(error), "credentials: expected user:password, or its base64")
            self.assertTrue(error.__context__ is None or error.__suppress_context__)

    def test_plain_server(self) -> None:
        """Without TLS: only where the settings allow it, and then only with a fingerprint."""
        for url in ("ws://t.test", "http://t.test:81"):
            self.assertIn("tunnel.allow_insecure", self.refused(tunnel_server_addr=url))
            with self.assertRaises(AnswerError) as caught:
                parse_tunnel_answer(answer(tunnel_server_addr=url), allow_insecure=True)
            self.assertIn("server_fingerprint: missing", str(caught.exception))
            parsed = parse_tunnel_answer(
                answer(tunnel_server_addr=url, server_fingerprint=FINGERPRINT), allow_insecure=True
            )
            assert parsed.order is not None and parsed.order.server is not None
            self.assertFalse(parsed.order.server.address.tls)

    def test_allowed_servers(self) -> None:
        """A list of servers admits exactly those: by host, host and port, or all below a domain."""
        for pattern, url, allowed in (
            ("tunnel.test", "wss://tunnel.test:8443", True),
            ("Tunnel.TEST", "wss://TUNNEL.test.", True),
            ("tunnel.test", "wss://eviltunnel.test", False),
            ("tunnel.test:443", "wss://tunnel.test", True),
            ("tunnel.test:443", "wss://tunnel.test:8443", False),
            ("*.tunnel.test", "wss://eu.tunnel.test", True),
            ("*.tunnel.test", "wss://a.b.tunnel.test", True),
            ("*.tunnel.test", "wss://tunnel.test", False),
            ("*.tunnel.test", "wss://eviltunnel.test", False),
            ("*.tunnel.test", "wss://tunnel.test.evil.test", False),
            ("[2001:db8::1]", "wss://[2001:db8::1]", True),
            ("[2001:db8::1]:443", "wss://[2001:db8::1]", True),
        ):
            body = answer(tunnel_server_addr=url)
            if allowed:
                self.assertIsNotNone(parse_tunnel_answer(body, allowed_servers=(pattern,)).order, pattern)
            else:
                error = self.assertRaises(
                    AnswerError, parse_tunnel_answer, body, allowed_servers=(pattern, "x.test")
                )
                self.assertIn("not among tunnel.allowed_servers", str(error))

    def test_refused_server_is_named_by_its_field(self) -> None:
        """An error about the server names the field that it stood in."""
        for place in ("tunnel_server_addr", "tunnel_url"):
            fields = {"tunnel_server_addr": ..., "tunnel_url": ..., place: "wss://evil.test"}
            error = self.assertRaises(
                AnswerError, parse_tunnel_answer, answer(**fields), allowed_servers=("tunnel.test",)
            )
            self.assertEqual(str(error), f"{place}: evil.test is not among tunnel.allowed_servers")

    def test_not_json(self) -> None:
        """A page, an array, a duplicate: errors all."""
        for body in (b"<html>", b"[]", b'{"status": "ready", "status": "idle"}'):
            self.assertRaises(AnswerError, parse_tunnel_answer, body)


class AddressTests(SynchronousTestCase):
    """L{parse_address}."""

    def test_forms(self) -> None:
        """Every form that the contract names."""
        for text, expected in (
            ("wss://t.test", ServerAddress("t.test", 443, "/")),
            ("WSS://T.test/", ServerAddress("t.test", 443, "/")),
            ("wss://t.test:8443/a/b", ServerAddress("t.test", 8443, "/a/b")),
            ("https://t.test/x", ServerAddress("t.test", 443, "/x")),
            ("t.test", ServerAddress("t.test", 443, "/")),
            ("t.test:8443", ServerAddress("t.test", 8443, "/")),
            ("192.0.2.1:1", ServerAddress("192.0.2.1", 1, "/")),
            ("[2001:db8::1]", ServerAddress("2001:db8::1", 443, "/")),
            ("wss://[2001:db8::1]:8443", ServerAddress("2001:db8::1", 8443, "/")),
            ("ws://t.test", ServerAddress("t.test", 80, "/", tls=False)),
            ("http://t.test:81/x", ServerAddress("t.test", 81, "/x", tls=False)),
        ):
            self.assertEqual(parse_address(text, "field"), expected)

    def test_refused(self) -> None:
        """Everything else, by the field's name, never repeating the text."""
        for text in (
            "ftp://t.test",
            "wss://",
            "wss://t.test:0",
            "wss://t.test:65536",
            "wss://t.test:x",
            "wss://t.test:",
            "2001:db8::1",
            "wss://user:hidden@t.test",
            "wss://t.test/?q=hidden",
            "wss://t.test/#hidden",
            "wss://t.test\\hidden",
            "wss://t test",
            "wss://t.tést",
            "wss://[t.test]",
            "wss://t,test",
        ):
            error = self.assertRaises(AnswerError, parse_address, text, "field")
            self.assertTrue(str(error).startswith("field: "), text)
            self.assertNotIn("hidden", str(error))
