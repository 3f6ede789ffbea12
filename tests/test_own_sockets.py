"""Tests for what is known of the tunnel's own sockets."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.own_sockets import GRACE, MAX_CLOSED, OwnSockets

PLACE = ("127.0.0.1", 40_001)


class OwnSocketsTests(SynchronousTestCase):
    """Which forward a socket belongs to."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.sockets = OwnSockets(self.clock)

    def test_open(self) -> None:
        """A socket is known by address and port, both."""
        self.sockets.opened(PLACE, "agent-http")
        self.assertEqual(self.sockets.forward_of(PLACE), "agent-http")
        self.assertIsNone(self.sockets.forward_of(("127.0.0.1", 40_002)))
        self.assertIsNone(self.sockets.forward_of(("::1", 40_001)))

    def test_closed(self) -> None:
        """What it has sent may be read after its end: it is known for a while longer, then no more."""
        self.sockets.opened(PLACE, "agent-http")
        self.sockets.closed(PLACE)
        self.clock.advance(GRACE - 0.1)
        self.assertEqual(self.sockets.forward_of(PLACE), "agent-http")
        self.clock.advance(0.2)
        self.assertIsNone(self.sockets.forward_of(PLACE))
        self.assertEqual(len(self.sockets), 0)

    def test_port_used_again(self) -> None:
        """A port that is used again is the new socket's, also when the old one is forgotten."""
        self.sockets.opened(PLACE, "old")
        self.sockets.closed(PLACE)
        self.clock.advance(1)
        self.sockets.opened(PLACE, "new")
        self.clock.advance(GRACE * 3)
        self.assertEqual(self.sockets.forward_of(PLACE), "new")
        self.sockets.closed(PLACE)
        self.clock.advance(GRACE)
        self.assertIsNone(self.sockets.forward_of(PLACE))

    def test_bounded(self) -> None:
        """Somebody who opens and closes as fast as he can does not make the agent grow."""
        for port in range(MAX_CLOSED + 50):
            self.sockets.opened(("::1", port), "agent-http")
            self.sockets.closed(("::1", port))
        self.assertLessEqual(len(self.sockets), MAX_CLOSED + 1)
        self.assertEqual(self.sockets.forward_of(("::1", MAX_CLOSED + 49)), "agent-http")
        self.clock.advance(GRACE)
        self.assertIsNone(self.sockets.forward_of(PLACE))
        self.assertEqual(len(self.sockets), 0)
