"""Tests for browsers' sessions."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.access.sessions import MAX_SESSIONS, PER_TOKEN, Lifetime, Opened, Sessions
from pipeops_agent.secrets import Secret

TOKEN = Secret("tok-5f2c6a1d9e8b7c4f3a")


class SessionsTests(SynchronousTestCase):
    """How long a session holds, and for whom."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.lifetime = Lifetime(100, 30)
        self.sessions = Sessions(self.clock, lambda: self.lifetime)

    def holds(self, opened: Opened) -> bool:
        return self.sessions.find(opened.identifier) is not None

    def test_open(self) -> None:
        """A session stands for its token, and knows its key; both are long and never the same."""
        first, second = self.sessions.open(TOKEN), self.sessions.open(TOKEN)
        session = self.sessions.find(first.identifier)
        assert session is not None
        self.assertEqual(session.token, TOKEN)
        self.assertTrue(session.fits(first.key))
        for wrong in (second.key, first.identifier, Secret(""), Secret("\udc80")):
            self.assertFalse(session.fits(wrong))
        texts = {
            first.identifier.reveal(),
            first.key.reveal(),
            second.identifier.reveal(),
            second.key.reveal(),
        }
        self.assertEqual((len(texts), min(map(len, texts))), (4, 43))
        self.assertIsNone(self.sessions.find(first.key))

    def test_lifetime(self) -> None:
        """However much it is used it ends."""
        opened = self.sessions.open(TOKEN)
        for _ in range(9):
            self.clock.advance(11)
            self.sessions.use(opened.identifier)
        self.assertTrue(self.holds(opened))
        self.clock.advance(1)
        self.assertFalse(self.holds(opened))
        self.assertEqual(len(self.sessions), 0)

    def test_idle(self) -> None:
        """Not used, it ends earlier; looking at it is no use of it."""
        opened = self.sessions.open(TOKEN)
        self.clock.advance(29)
        self.assertTrue(self.holds(opened))
        self.clock.advance(1)
        self.assertFalse(self.holds(opened))

    def test_shorter_from_now_on(self) -> None:
        """A changed setting holds for those that are open."""
        opened = self.sessions.open(TOKEN)
        self.clock.advance(10)
        self.lifetime = Lifetime(10, 10)
        self.assertFalse(self.holds(opened))

    def test_closed(self) -> None:
        """A session that is closed is gone; the others are not."""
        first, second = self.sessions.open(TOKEN), self.sessions.open(TOKEN)
        self.sessions.close(first.identifier)
        self.sessions.close(first.identifier)
        self.sessions.use(first.identifier)
        self.assertEqual((self.holds(first), self.holds(second)), (False, True))

    def test_per_token(self) -> None:
        """One token has so many; the one that was used least lately gives way."""
        opened = [self.sessions.open(TOKEN) for _ in range(PER_TOKEN)]
        self.sessions.use(opened[0].identifier)
        other = self.sessions.open(Secret("another-token"))
        self.sessions.open(TOKEN)
        self.assertEqual([self.holds(one) for one in opened[:3]], [True, False, True])
        self.assertTrue(self.holds(other))
        self.assertEqual(len(self.sessions), PER_TOKEN + 1)

    def test_bounded(self) -> None:
        """All tokens together have so many."""
        opened = [self.sessions.open(Secret(f"token-{number}")) for number in range(MAX_SESSIONS + 5)]
        self.assertEqual(len(self.sessions), MAX_SESSIONS)
        self.assertEqual([self.holds(one) for one in opened[4:6]], [False, True])

    def test_repr(self) -> None:
        """What is kept can be shown, and nothing of it can be used."""
        opened = self.sessions.open(TOKEN)
        session = self.sessions.find(opened.identifier)
        shown = f"{opened!r} {session!r} {vars(self.sessions)}"
        for secret in (opened.identifier, opened.key, TOKEN):
            self.assertNotIn(secret.reveal(), shown)
