"""Tests for sessions: what a client says, and what it is told."""

from __future__ import annotations

import json

from pipeops_agent.web.websocket.hub import PING_INTERVAL, STOP_GRACE
from pipeops_agent.web.websocket.messages import MAX_ID, MAX_NAME
from pipeops_agent.web.websocket.session import BURST, RATE
from pipeops_agent.web.websocket.wire import CLOSE_TIMEOUT, MAX_WAITING, PIECE
from tests.web.harness import TOKEN
from tests.web.websocket.harness import HubCase, Peer


class MessageTests(HubCase):
    """Messages and their answers."""

    def test_first(self) -> None:
        """On connecting a client is told the present state."""
        (message,) = self.try_peer().take()
        self.assertEqual(
            message,
            {
                "type": "status",
                "timestamp": "2024-01-15T10:30:00Z",
                "data": {"agent_id": "agent-1", "seq": 0},
            },
        )

    def test_ping(self) -> None:
        """C{ping} is answered with C{pong}; an id is repeated, and there is none where none was sent."""
        peer = self.peer()
        peer.send("ping", request="42")
        peer.send("ping")
        first, second = peer.take()
        self.assertEqual((first["type"], first["id"], first["data"]), ("pong", "42", {}))
        self.assertEqual((second["type"], "id" in second), ("pong", False))

    def test_snapshots(self) -> None:
        """Status and metrics are answered with what they are."""
        peer = self.peer()
        peer.send("get_status", {}, "a")
        peer.send("get_metrics", None, "b")
        answers = [(each["type"], each["id"], each["data"]) for each in peer.take()]
        self.assertEqual(
            answers, [("status_response", "a", {"detailed": True}), ("metrics_response", "b", {"cpu": 0.5})]
        )

    def test_bad_messages(self) -> None:
        """What is no message gets an C{error}; the connection stays."""
        peer = self.peer()
        for text in (
            b"",
            b"hello",
            b"[]",
            b"null",
            b"{",
            b"{}",
            b'{"type": 5}',
            b'{"type": null}',
            b'{"type": "ping", "id": 5}',
            b'{"type": "ping", "data": ]}',
            b'{"type": "' + b"x" * (MAX_NAME + 1) + b'"}',
            b'{"type": "ping", "id": "' + b"x" * (MAX_ID + 1) + b'"}',
            b'{"type": "ping", "data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"type": "ping"} {"type": "ping"}',
        ):
            peer.send_text(text)
            error = peer.one()
            self.assertEqual((error["type"], error["data"]["code"]), ("error", "bad_message"), text[:50])
            self.assertLess(len(error["data"]["message"]), 300)
        peer.send("ping")
        self.assertEqual(peer.one()["type"], "pong")

    def test_bad_data(self) -> None:
        """What has a type, and data that are not of that type, gets an C{error} with its id."""
        peer = self.peer()
        for name, data in (
            ("subscribe", None),
            ("subscribe", {"channels": "health"}),
            ("subscribe", {"channels": [1]}),
            ("subscribe", 5),
            ("cancel", {"id": 5}),
            ("logs", {"tail": 10**30}),
            ("logs", {"tail": -1}),
            ("logs", {"tail": 1001}),
            ("resize", {"cols": 0, "rows": 5}),
        ):
            peer.send(name, data, "7")
            error = peer.one()
            self.assertEqual(
                (error["type"], error["id"], error["data"]["code"]), ("error", "7", "bad_data"), name
            )

    def test_huge_numbers(self) -> None:
        """Numbers beyond all measure are data of another type."""
        peer = self.peer()
        for number in (b"1e400", b"-1e400", b"9" * 400, b"1e-400", b"0.1"):
            peer.send_text(b'{"type": "logs", "id": "7", "data": {"tail": ' + number + b"}}")
            error = peer.one()
            self.assertEqual((error["id"], error["data"]["code"]), ("7", "bad_data"), number[:9])

    def test_unknown_type(self) -> None:
        """A type that does not exist gets an C{error}; what was sent is not repeated."""
        peer = self.peer()
        peer.send("no such type", {"x": 1}, "7")
        error = peer.one()
        self.assertEqual((error["id"], error["data"]["code"]), ("7", "unknown_type"))
        self.assertNotIn("no such", error["data"]["message"])

    def test_unknown_fields(self) -> None:
        """Fields that nobody knows do not matter."""
        peer = self.peer()
        peer.send_text(b'{"type": "ping", "colour": "blue", "data": {"x": [1e999, {}]}}')
        self.assertEqual(peer.one()["type"], "pong")

    def test_rate(self) -> None:
        """Who sends too much is read more slowly: not for a while, and then again."""
        peer = self.peer()
        for _ in range(int(BURST)):
            peer.send("ping")
        transport = peer.client.transport
        self.assertEqual(transport.producerState, "producing")
        for _ in range(5):
            peer.send("ping")
        self.assertEqual(transport.producerState, "paused")
        self.assertEqual(len(peer.take("pong")), BURST + 1)
        self.clock.pump([1 / RATE] * 10)
        self.assertEqual(len(peer.take("pong")), 4)
        self.assertEqual(transport.producerState, "producing")

    def test_rate_at_worst(self) -> None:
        """However much comes in one piece, it is looked at little by little; none of it is lost."""
        peer = self.peer()
        for _ in range(2000):
            peer.protocol.send_text(b'{"type":"ping"}')
        peer.client.send(b"".join(peer.protocol.data_to_send()))
        self.assertEqual(peer.client.transport.producerState, "paused")
        answered = len(peer.take("pong"))
        self.assertLess(answered, BURST + PIECE // 21)
        for _ in range(5):
            self.clock.advance(1.0)
            answered += len(peer.take("pong"))
        self.assertLess(answered, BURST + 5 * RATE + PIECE // 10)
        self.clock.pump([0.1] * 200)
        answered += len(peer.take("pong"))
        self.assertEqual(answered, 2000)
        self.assertEqual(peer.client.transport.producerState, "producing")

    def test_rate_of_control_frames(self) -> None:
        """Pings, and frames that hold nothing, count as well."""
        for frame in (b"\x89\x80\0\0\0\0", b"\x00\x80\0\0\0\0"):
            peer = self.peer()
            peer.client.send(b"\x01\x80\0\0\0\0" + frame * 10_000)
            self.assertEqual(peer.client.transport.producerState, "paused")
            self.assertFalse(peer.client.lost)
            peer.client.transport.end()

    def test_gone_while_held(self) -> None:
        """Who goes away while nothing is read of it leaves no timer."""
        peer = self.peer()
        for _ in range(int(BURST) + 5):
            peer.send("ping")
        peer.client.transport.end()


class SubscriptionTests(HubCase):
    """Events."""

    def test_subscribe(self) -> None:
        """What is subscribed to is confirmed, and comes from then on; nothing else does."""
        peer = self.peer()
        self.tell()
        peer.send("subscribe", {"channels": ["tunnel", "health"]}, "1")
        message = peer.one()
        self.assertEqual((message["type"], message["id"]), ("subscribed", "1"))
        self.assertEqual(message["data"], {"channels": ["health", "tunnel"]})
        self.tell("tunnel", port=8000)
        self.tell("cluster")
        self.assertEqual(
            peer.one(),
            {
                "type": "event",
                "timestamp": "2024-01-15T10:30:00.001000Z",
                "data": {
                    "start": self.events_hub.start,
                    "seq": 2,
                    "time": "2024-01-15T10:30:00.001000Z",
                    "channel": "tunnel",
                    "event": "told",
                    "data": {"port": 8000},
                },
            },
        )

    def test_more_and_less(self) -> None:
        """Subscriptions add up; what is unsubscribed from comes no more."""
        peer = self.peer()
        peer.send("subscribe", {"channels": ["tunnel"]})
        peer.send("subscribe", {"channels": ["health", "health"]})
        peer.send("unsubscribe", {"channels": ["tunnel", "agent"]})
        channels = [each["data"]["channels"] for each in peer.take("subscribed")]
        self.assertEqual(channels, [["tunnel"], ["health", "tunnel"], ["health"]])
        self.tell("tunnel")
        self.tell("health")
        self.assertEqual([each["data"]["channel"] for each in peer.take()], ["health"])
        peer.send("unsubscribe", {"channels": ["health"]})
        self.tell("health")
        self.assertEqual([each["type"] for each in peer.take()], ["subscribed"])

    def test_narrowed(self) -> None:
        """Who may see some things alone is let in, and gets neither events nor the agent's own log."""
        self.let_in("read:logs:pods:shop")
        peer = self.peer()
        for name, data in (("subscribe", {"channels": ["health"]}), ("logs", {"tail": 1})):
            peer.send(name, data, "1")
            self.assertEqual(peer.one()["data"]["code"], "forbidden", name)
        peer.send("ping", {})
        self.assertEqual(peer.one()["type"], "pong")

    def test_unknown_channel(self) -> None:
        """A channel that does not exist changes nothing."""
        peer = self.peer()
        for name in ("subscribe", "unsubscribe"):
            peer.send(name, {"channels": ["health", "nope"]})
            self.assertEqual(peer.one()["data"]["code"], "unknown_channel")
        self.tell("health")
        self.assertEqual(peer.take(), [])

    def test_audit(self) -> None:
        """The channel C{audit} is for who may operate."""
        peer = self.peer()
        peer.send("subscribe", {"channels": ["audit"]})
        self.assertEqual(peer.one()["data"]["code"], "forbidden")
        self.let_in("read", "operate")
        peer = self.peer()
        peer.send("subscribe", {"channels": ["audit"]})
        self.tell("audit")
        self.assertEqual([each["type"] for each in peer.take()], ["subscribed", "event"])

    def test_encoded_once(self) -> None:
        """All clients get the same bytes, in the same piece."""
        peers = [self.peer() for _ in range(3)]
        for peer in peers:
            peer.send("subscribe", {"channels": ["health"]})
            peer.take()
            peer.raw = b""
        self.tell(count=3)
        for peer in peers:
            self.assertEqual(len(peer.take("event")), 3)
        self.assertEqual(len({peer.raw for peer in peers}), 1)

    def test_deflate(self) -> None:
        """Who has agreed to compression gets long messages compressed, and the same ones for all."""
        peers = [self.peer(deflate=True) for _ in range(2)]
        plain = self.peer()
        for peer in (*peers, plain):
            peer.send("subscribe", {"channels": ["health"]})
            peer.take()
            peer.raw = b""
        self.tell(count=3, text="many times the same, " * 50)
        for peer in (*peers, plain):
            self.assertEqual([each["data"]["seq"] for each in peer.take("event")], [1, 2, 3])
        self.assertEqual(peers[0].raw, peers[1].raw)
        self.assertLess(len(peers[0].raw) * 3, len(plain.raw))
        peers[0].raw = b""
        self.tell()
        peers[0].take()
        self.assertEqual(peers[0].raw[:1], b"\x81")  # too short to be worth it

    def test_gone(self) -> None:
        """A client that is gone has no reader left."""
        peer = self.peer()
        peer.send("subscribe", {"channels": ["health"]})
        self.assertEqual(len(self.events), 1)
        peer.client.transport.end()
        self.assertEqual((len(self.events), len(self.hub)), (0, 0))
        self.tell()


class SlowTests(HubCase):
    """Clients that do not read."""

    def stuck(self) -> Peer:
        peer = self.peer()
        peer.send("subscribe", {"channels": ["health"]})
        peer.take()
        peer.choke()
        return peer

    def test_events(self) -> None:
        """Events are dropped, oldest first; what was lost is said, then the state, then what is left."""
        peer = self.stuck()
        self.tell(count=3000)
        self.assertEqual(peer.client.transport.value(), b"")
        peer.read_again()
        dropped, state, *events = peer.take()
        self.assertEqual(dropped["type"], "dropped")
        self.assertEqual(
            dropped["data"], {"start": self.events_hub.start, "count": 952, "from": 1, "to": 952}
        )
        self.assertEqual((state["type"], state["data"]["seq"]), ("status", 3000))
        self.assertEqual([each["data"]["seq"] for each in events], list(range(953, 3001)))

    def test_answers(self) -> None:
        """Answers wait, and none is lost."""
        peer = self.stuck()
        for number in range(100):
            peer.send("ping", request=str(number))
        self.assertEqual(peer.client.transport.value(), b"")
        peer.read_again()
        self.assertEqual([each["id"] for each in peer.take()], [str(number) for number in range(100)])

    def test_too_many_answers(self) -> None:
        """Who takes no answers is closed with 1013, and no more than the limit is kept."""
        peer = self.stuck()
        session = next(iter(self.hub._sessions))
        size = 100_000
        for _ in range(MAX_WAITING // size):
            session.send("pong", "x" * size)
            self.assertLessEqual(session.wire.waiting_bytes, MAX_WAITING)
        self.assertIsNone(peer.closed)
        session.send("pong", "x" * size)
        self.assertEqual(peer.closed, (1013, "answers are not read"))
        self.assertEqual(session.wire.waiting_bytes, 0)
        session.send("pong", "x")
        self.clock.advance(CLOSE_TIMEOUT)
        self.assertTrue(peer.client.lost)

    def test_pongs(self) -> None:
        """Who pings and does not read gets the last answer alone, when it reads."""
        peer = self.stuck()
        for number in range(150):
            peer.protocol.send_ping(b"%d" % number)
            peer.flush()
        self.assertEqual(peer.client.transport.value(), b"")
        peer.read_again()
        self.assertEqual(peer.raw[-5:], b"\x8a\x03149")

    def test_others(self) -> None:
        """The others get everything."""
        self.stuck()
        peer = self.peer()
        peer.send("subscribe", {"channels": ["health"]})
        for _ in range(100):
            self.tell(count=40)
        self.assertEqual(len(peer.take("event")), 4000)


class LifeTests(HubCase):
    """How sessions begin and end."""

    def test_pings(self) -> None:
        """A ping every 20 s; who answers stays."""
        peer = self.peer()
        for number in range(1, 11):
            self.clock.advance(PING_INTERVAL)
            peer.receive()
            self.assertEqual(len(peer.pings), number)
        self.assertFalse(peer.client.lost)

    def test_unanswered_pings(self) -> None:
        """Who does not answer two of them is cut."""
        peer = self.peer()
        peer.answers_pings = False
        for _ in range(2):
            self.clock.advance(PING_INTERVAL)
            peer.receive()
            self.assertFalse(peer.client.lost)
        self.clock.advance(PING_INTERVAL)
        self.assertTrue(peer.client.lost)
        self.assertEqual(len(peer.pings), 2)

    def test_one_answer(self) -> None:
        """One answer is enough."""
        peer = self.peer()
        for number in range(8):
            peer.answers_pings = number % 2 == 0
            self.clock.advance(PING_INTERVAL)
            peer.receive()
        self.assertFalse(peer.client.lost)

    def test_room(self) -> None:
        """One more than may be gets 503; when one leaves there is room."""
        peers = [self.peer() for _ in range(self.most)]
        refused = self.try_peer()
        self.assertEqual(refused.refused, 503)
        peers[0].client.transport.end()
        self.peer()

    def test_stop(self) -> None:
        """At a stop every client gets 1001; nobody new comes in."""
        peers = [self.peer() for _ in range(2)]
        stopped = self.hub.stop()
        for peer in peers:
            self.assertEqual(peer.closed, (1001, "the agent stops"))
            self.assertTrue(peer.client.lost)
        self.successResultOf(stopped)
        refused = self.try_peer()
        self.assertEqual(refused.refused, 503)

    def test_stop_without_a_reply(self) -> None:
        """Who does not go along with the stop, or reads nothing, is cut soon."""
        silent, choked = self.peer(), self.peer()
        silent.answers_pings = False
        choked.choke()
        choked.client.transport.reads = choked.answers_pings = False
        stopped = self.hub.stop()
        self.clock.advance(STOP_GRACE * 0.9)
        self.assertNoResult(stopped)
        self.clock.advance(STOP_GRACE * 0.2)
        self.successResultOf(stopped)
        self.assertTrue(silent.client.lost and choked.client.lost)

    def test_stop_of_the_site(self) -> None:
        """The site's own end says the same, and cuts who does not go along."""
        peer = self.peer()
        peer.answers_pings = False
        closed = self.site.close_connections()
        self.assertEqual(peer.closed, (1001, "the agent stops"))
        self.assertNoResult(closed)
        self.clock.advance(CLOSE_TIMEOUT)
        self.successResultOf(closed)

    def test_binary(self) -> None:
        """A binary message closes with 1003."""
        peer = self.peer()
        peer.protocol.send_binary(b"{}")
        peer.flush()
        self.assertEqual(peer.closed, (1003, "only text is understood here"))
        self.assertTrue(peer.client.lost)

    def test_bad_text(self) -> None:
        """What is no UTF-8 closes with 1007."""
        peer = self.peer()
        peer.send_text(b'{"type": "\xff"}')
        closed = peer.closed
        assert closed is not None
        self.assertEqual(closed[0], 1007)

    def test_too_long(self) -> None:
        """Over 1 MiB closes with 1009, in one frame, in many, or compressed; what fits is read."""
        for deflate in (False, True):
            peer = self.peer(deflate=deflate)
            peer.send_text(json.dumps({"type": "ping", "data": {"x": "x" * (1024 * 1024 - 40)}}).encode())
            self.assertEqual(peer.one()["type"], "pong")
            peer.send_text(b"x" * (1024 * 1024 + 1))
            closed = peer.closed
            assert closed is not None
            self.assertEqual(closed[0], 1009, deflate)
            self.clock.advance(CLOSE_TIMEOUT)
        peer = self.peer()
        peer.protocol.send_text(b"x" * 65536, fin=False)
        for _ in range(16):
            peer.protocol.send_continuation(b"x" * 65536, fin=False)
        peer.flush()
        closed = peer.closed
        assert closed is not None
        self.assertEqual(closed[0], 1009)

    def test_goodbye(self) -> None:
        """A client that closes is answered, with its own code."""
        peer = self.peer()
        peer.protocol.send_close(4000, "enough")
        peer.flush()
        self.assertEqual(peer.closed, (4000, "enough"))
        self.assertTrue(peer.client.lost)

    def test_goodbye_unread(self) -> None:
        """One that closes and does not read the answer is cut."""
        peer = self.peer()
        peer.client.transport.reads = False
        peer.protocol.send_close(1000)
        peer.flush()
        self.assertFalse(peer.client.lost)
        self.clock.advance(CLOSE_TIMEOUT)
        self.assertTrue(peer.client.lost)

    def test_busy(self) -> None:
        """A WebSocket counts as a connection of the site, and does not give way to others."""
        peer = self.peer()
        for _ in range(self.limits.max_connections + 2):
            self.try_connect()
        self.assertFalse(peer.client.lost)
        peer.send("ping")
        self.assertEqual(peer.one()["type"], "pong")

    def test_timeouts(self) -> None:
        """The site's timeouts do not hold for it."""
        peer = self.peer()
        for _ in range(100):
            self.clock.advance(PING_INTERVAL)
            peer.receive()
        self.assertFalse(peer.client.lost)

    def test_counted(self) -> None:
        """An upgrade is a request that was answered with 101."""
        self.peer()
        self.assertEqual(self.counted()["GET", "/ws", "101"], 1)

    def test_token_not_kept(self) -> None:
        """The connection is told nothing of the caller's token."""
        peer = self.peer()
        self.assertNotIn(TOKEN, repr(vars(peer.wire)))
