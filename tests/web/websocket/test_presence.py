"""Tests for L{pipeops_agent.web.presence} and L{pipeops_agent.web.websocket.signing_in}, on C{/ws}."""

from __future__ import annotations

from http.cookies import SimpleCookie

import msgspec

from pipeops_agent.settings.model_server import ClientLimits, LimitsSettings
from pipeops_agent.web.presence import REVIEW
from pipeops_agent.web.websocket.signing_in import KEY_TIMEOUT, MAX_EARLY
from tests.web.harness import TOKEN
from tests.web.websocket.harness import HubCase, Peer


class SigningInTests(HubCase):
    """A page, whose browser sends the session's cookie and no header of the page's own."""

    def setUp(self) -> None:
        super().setUp()
        self.board.identify("agent-1")
        self.let_in("read")
        answer = self.ask("/api/session", "POST", Authorization=f"Bearer {TOKEN}")
        (self.cookie,) = (
            f"{morsel.key}={morsel.value}" for morsel in SimpleCookie(answer.headers["Set-Cookie"]).values()
        )
        self.key: str = answer.json["key"]

    def page(self) -> Peer:
        """A page's connection, before it has said anything."""
        peer = self.try_peer(Cookie=self.cookie)
        self.assertEqual(peer.take(), [])
        return peer

    def closed(self, peer: Peer) -> None:
        """It was closed as one that may not be here, and nothing was told to it."""
        assert peer.closed is not None
        self.assertEqual(peer.closed[0], 1008)
        self.assertEqual(peer.take(), [])

    def test_key(self) -> None:
        """The key in the first message opens it: the state is told, and messages are answered."""
        peer = self.page()
        peer.send("session", {"key": self.key})
        self.assertEqual([each["type"] for each in peer.take()], ["status"])
        peer.send("ping")
        self.assertEqual(peer.one()["type"], "pong")

    def test_at_once(self) -> None:
        """What is sent right behind the key is handled after it."""
        peer = self.page()
        peer.protocol.send_text(b'{"type": "session", "data": {"key": "%b"}}' % self.key.encode())
        peer.protocol.send_text(b'{"type": "ping", "id": "p"}')
        peer.flush()
        self.assertEqual([each["type"] for each in peer.take()], ["status", "pong"])

    def test_wrong_key(self) -> None:
        """A wrong key costs what a wrong token does, and ends the connection."""
        peer = self.page()
        peer.send("session", {"key": "x" * 43})
        self.assertIsNone(peer.closed)
        for _ in range(MAX_EARLY):
            peer.send("ping")
        self.clock.advance(1)
        self.closed(peer)

    def test_flood(self) -> None:
        """Before it is known whose they are, few messages are kept."""
        peer = self.page()
        peer.send("session", {"key": "x" * 43})
        for _ in range(MAX_EARLY + 1):
            peer.send("ping")
        self.closed(peer)
        self.clock.advance(1)

    def test_something_else(self) -> None:
        """Anything but the key ends it, unanswered."""
        for first in (
            '{"type": "ping"}',
            "nonsense",
            '{"type": "session"}',
            '{"type": "session", "data": 1}',
        ):
            peer = self.page()
            peer.send_text(first.encode())
            self.closed(peer)
            peer.client.transport.end()

    def test_nothing(self) -> None:
        """Who says nothing is not waited for."""
        peer = self.page()
        self.clock.advance(KEY_TIMEOUT - 0.1)
        self.assertIsNone(peer.closed)
        self.clock.advance(0.1)
        self.closed(peer)

    def test_gone(self) -> None:
        """One that goes away meanwhile leaves nothing behind."""
        for message in (None, b'{"type": "session", "data": {"key": "xxxxxxxxxxxxxxxx"}}'):
            peer = self.page()
            if message is not None:
                peer.send_text(message)
            peer.client.transport.end()
            self.assertEqual(len(self.presences), 0)
        self.clock.advance(1)  # what the wrong key costs

    def test_no_session(self) -> None:
        """A cookie that stands for no session is 401, before anything is upgraded."""
        self.assertEqual(self.try_peer(Cookie=self.cookie[:-1] + "~").refused, 401)
        self.assertEqual(self.try_peer(Cookie="x=y").refused, 401)

    def test_another_site(self) -> None:
        """Another site's page can make a browser send the cookie, and gets nowhere with it."""
        self.assertEqual(self.try_peer(Cookie=self.cookie, Origin="https://evil.example").refused, 403)

    def test_known_already(self) -> None:
        """Who has come with a token needs no key."""
        peer = self.peer()
        peer.send("session", {"key": self.key})
        self.assertEqual(peer.one()["data"]["code"], "not_possible")

    def test_signed_out(self) -> None:
        """Signing out ends the connections of the session."""
        peer = self.page()
        peer.send("session", {"key": self.key})
        peer.take()
        answer = self.ask("/api/session", "DELETE", Cookie=self.cookie, X_Session_Key=self.key)
        self.assertEqual(answer.code, 204)
        self.clock.advance(REVIEW)
        self.closed(peer)


class ReviewTests(HubCase):
    """Whether somebody may stay."""

    def setUp(self) -> None:
        super().setUp()
        self.let_in("read", "operate")

    def test_stays(self) -> None:
        """Who still may does not notice."""
        peer = self.peer()
        for _ in range(3):
            self.clock.advance(REVIEW)
            peer.receive()
        self.assertEqual((peer.closed, peer.take()), (None, []))

    def test_taken_away(self) -> None:
        """A token that is taken away ends its connections."""
        peer = self.peer()
        self.let_in("read", "operate", token="another-0123456789ab")
        self.clock.advance(REVIEW)
        self.clock.advance(1)  # what a wrong token costs: it is one now
        assert peer.closed is not None
        self.assertEqual(peer.closed[0], 1008)

    def test_less(self) -> None:
        """Who may less than before comes again; who may more stays."""
        peer = self.peer()
        self.let_in("read", "operate", "operate:scale")
        self.clock.advance(REVIEW)
        self.assertIsNone(peer.closed)
        self.let_in("read")
        self.clock.advance(REVIEW)
        self.assertEqual(peer.closed, (1008, "you may less than when you came; come again"))


class NarrowTests(HubCase):
    """Who may see, or do, some things only."""

    def setUp(self) -> None:
        super().setUp()
        self.let_in("read:*:*:web")

    def test_narrow(self) -> None:
        """They are let in, and told who the agent is; not what it can do, how it is, or what happens."""
        peer = self.try_peer()
        self.assertEqual(peer.one()["data"], {"agent_id": "agent-1", "seq": 0, "features": {}})
        for name, data in (
            ("get_status", None),
            ("get_metrics", None),
            ("subscribe", {"channels": ["health"]}),
            ("logs", {"tail": 1}),
        ):
            peer.send(name, data)
            self.assertEqual(peer.one()["data"]["code"], "forbidden", name)
        self.assertEqual(len(self.logs) + len(self.events), 0)


class RoomTests(HubCase):
    """How many of one client there may be."""

    def test_client(self) -> None:
        """One more is 429; a place is free again when its owner has gone."""
        limits = LimitsSettings(client=ClientLimits(subscriptions=2))
        self.server = msgspec.structs.replace(self.server, limits=limits)
        peers = [self.peer(), self.peer()]
        self.assertEqual(self.try_peer().refused, 429)
        peers[0].client.transport.end()
        self.peer()
