"""Mutated clients: whatever comes, the hub stays whole."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.web.websocket.harness import HubCase, Peer

MESSAGES = (
    b'{"type":"ping","id":"1"}',
    b'{"type":"subscribe","data":{"channels":["health","tunnel"]}}',
    b'{"type":"unsubscribe","data":{"channels":["health"]}}',
    b'{"type":"logs","id":"7","data":{"tail":5,"follow":true}}',
    b'{"type":"cancel","data":{"id":"7"}}',
    b'{"type":"input","id":"7","data":{"data":"x"}}',
    b'{"type":"get_status","data":[[[[[{"a":1e999}]]]]]}',
    b"[" * 2000,
    '{"type":"grüße"}'.encode(),
)


class MutationTests(HubCase):
    """Frames and messages with bytes exchanged, left out, doubled, and cut anywhere."""

    most = 1000

    def attack(self, peer: Peer, other: Peer, dice: random.Random) -> None:
        for _ in range(dice.randrange(1, 12)):
            text = bytearray(dice.choice(MESSAGES))
            if dice.random() < 0.5:
                for _ in range(dice.randrange(1, 4)):
                    text[dice.randrange(len(text))] = dice.randrange(256)
            kind = dice.randrange(6)
            if kind == 0:
                peer.protocol.send_binary(bytes(text))
            elif kind == 1:
                peer.protocol.send_ping(bytes(text[:125]))
            else:
                peer.protocol.send_text(bytes(text))
            if peer.protocol.state.name != "OPEN":
                break
        data = bytearray(b"".join(peer.protocol.data_to_send()))
        if data and dice.random() < 0.6:
            for _ in range(dice.randrange(1, 6)):
                place = dice.randrange(len(data))
                data[place : place + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
        place = 0
        while place < len(data):
            step = dice.randrange(1, 400)
            peer.client.send(bytes(data[place : place + step]))
            place += step
            if dice.random() < 0.1:
                self.tell(count=dice.randrange(3))
            if dice.random() < 0.1:
                self.clock.advance(dice.random() * 30)
            other.receive()

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, 2**32))
    def test_mutated(self, seed: int) -> None:
        """No defect is logged, nobody else notices, and nothing is left when they are gone."""
        dice = random.Random(seed)
        attacker, other = self.connect(), self.peer()
        peer = Peer(attacker, deflate=dice.random() < 0.5)
        peer.open()
        peer.take()
        self.attack(peer, other, dice)
        other.send("ping", request="here")
        self.assertIn("here", [each.get("id") for each in other.take("pong")])
        for client in self.clients:
            client.transport.end()
        self.clients.clear()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual((len(self.hub), len(self.events), +self.hub.total), (0, 0, {}))
