"""Tests for L{pipeops_agent.web.websocket.upgrade}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.web.websocket.upgrade import offers_deflate
from tests.web.harness import TOKEN, Answer
from tests.web.websocket.harness import HubCase

GOOD = {
    "Host": "agent:8080",
    "Authorization": f"Bearer {TOKEN}",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class UpgradeTests(HubCase):
    """Requests that want to be a WebSocket."""

    def ask_ws(self, method: str = "GET", version: str = "HTTP/1.1", **changes: str | None) -> Answer | str:
        """The answer; where it is 101, the header C{Sec-WebSocket-Accept}."""
        headers = {**GOOD, **{name.replace("_", "-"): value for name, value in changes.items()}}
        lines = [f"{method} /ws {version}", *(f"{name}: {value}" for name, value in headers.items() if value)]
        client = self.connect()
        client.send("\r\n".join([*lines, "", ""]).encode())
        raw = client.transport.value()
        if raw.startswith(b"HTTP/1.1 101 "):
            client.transport.end()
            head = raw.partition(b"\r\n\r\n")[0].decode()
            (accept,) = (line for line in head.splitlines() if line.startswith("Sec-WebSocket-Accept: "))
            return str(accept.partition(": ")[2])
        self.clock.advance(1)  # what a wrong token costs
        (answer,) = client.answers(method)
        client.transport.end()
        return answer

    def refused(self, method: str = "GET", version: str = "HTTP/1.1", **changes: str | None) -> Answer:
        answer = self.ask_ws(method, version, **changes)
        assert isinstance(answer, Answer), answer
        return answer

    def test_accepted(self) -> None:
        """The answer is the one of RFC 6455, 1.3."""
        self.assertEqual(self.ask_ws(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")

    def test_spellings(self) -> None:
        """Names and tokens are found however they are written."""
        for changes in (
            {"Connection": "keep-alive, UPGRADE"},
            {"Upgrade": "WebSocket"},
            {"Connection": "keep-alive\r\nConnection: upgrade"},
        ):
            self.assertIsInstance(self.ask_ws(**changes), str, str(changes))

    def test_no_token(self) -> None:
        """Nobody is told anything without a token, whatever else is wrong."""
        for changes in ({"Authorization": None}, {"Authorization": "Bearer x"}):
            self.assertEqual(self.refused(**changes, Upgrade=None).code, 401)

    def test_no_upgrade(self) -> None:
        """What asks for no WebSocket is told that this is one."""
        for changes in ({"Upgrade": None}, {"Connection": "close"}, {"Upgrade": "h2c"}, {"Connection": None}):
            answer = self.refused(**changes)
            self.assertEqual((answer.code, answer.json["error"]["code"]), (426, "upgrade_required"))
            self.assertEqual(answer.headers["Upgrade"], "websocket")
        self.assertEqual(self.refused(version="HTTP/1.0").code, 426)
        self.assertEqual(self.refused("HEAD").code, 426)
        self.assertEqual(self.refused("POST").code, 405)

    def test_version(self) -> None:
        """Another version is told the one that is spoken."""
        for version in ("8", "0", "x", None):
            answer = self.refused(Sec_WebSocket_Version=version)
            self.assertEqual((answer.code, answer.headers["Sec-WebSocket-Version"]), (426, "13"))

    def test_key(self) -> None:
        """A key that is none is 400."""
        for key in (None, "short", "x" * 24, "dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: x"):
            self.assertEqual(self.refused(Sec_WebSocket_Key=key).code, 400, key)

    def test_origin(self) -> None:
        """The agent's own pages may connect, configured ones, and who has no page; others get 403."""
        self.origins = ("https://Dashboard.example/", "http://localhost:5173")
        for origin in (
            None,
            "http://agent:8080",
            "https://AGENT:8080",
            "https://dashboard.example",
            "http://localhost:5173",
        ):
            self.assertIsInstance(self.ask_ws(Origin=origin), str, origin)
        for origin in (
            "http://agent",
            "http://agent:8081",
            "http://evil.example",
            "null",
            "agent:8080",
            "https://dashboard.example.evil",
            "http://agent:8080\r\nOrigin: http://agent:8080",
            "http://[",
        ):
            answer = self.refused(Origin=origin)
            self.assertEqual((answer.code, answer.json["error"]["code"]), (403, "origin"), origin)

    def test_early_message(self) -> None:
        """A message that comes together with the request, or before the answer, is read after it."""
        lines = ["GET /ws HTTP/1.1", *(f"{name}: {value}" for name, value in GOOD.items()), "", ""]
        client = self.connect()
        ping = bytes([0x81, 0x80 | 15, 0, 0, 0, 0]) + b'{"type":"ping"}'
        client.send("\r\n".join(lines).encode() + ping)
        self.assertIn(b'"type":"pong"', client.transport.value())


class DeflateTests(SynchronousTestCase):
    """Which offers of compression are taken (RFC 7692)."""

    def test_taken(self) -> None:
        """Those that can be had with the whole window, in whatever place."""
        for offer in (
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "x-webkit-deflate-frame, permessage-deflate; server_no_context_takeover",
            'Permessage-Deflate; client_max_window_bits="10"',
            "permessage-deflate; server_max_window_bits=15",
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
        ):
            self.assertTrue(offers_deflate(offer), offer)

    def test_declined(self) -> None:
        """A smaller window can't be had; an offer that is malformed is none."""
        for offer in (
            "",
            "permessage-bzip2",
            "permessage-deflate; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; nonsense",
            "permessage-deflate; client_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            " " * 2000 + "permessage-deflate",
        ):
            self.assertFalse(offers_deflate(offer), offer)
