"""Who holds a port that the server refuses."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.tunnel.holders import MAX_REMEMBERED, PortHolders
from pipeops_agent.tunnel.remotes import Remote
from tests.tunnel.scripted import ScriptedSession, make_server, wall_of

API = Remote("api", 8000, "localhost", 6443)
WEB = Remote("web", 8001, "localhost", 80)
IN_USE = "Server cannot listen on R:8000=>localhost:6443"


class HoldersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.holders = PortHolders(lambda: wall_of(self.clock))
        self.server = make_server()

    def session(self, *remotes: Remote, host: str = "tunnel.example") -> ScriptedSession:
        return ScriptedSession(self.clock, make_server(host), remotes)

    def said(self, reason: str = IN_USE, remote: Remote = API) -> str:
        return self.holders.explain(self.server, remote, reason)

    def test_which_port(self) -> None:
        """The sentence names port and forward, and has the server's own words."""
        self.assertTrue(self.said().startswith(f"port 8000 for api: {IN_USE} ("))

    def test_somebody_else(self) -> None:
        """A port that was never ours: another's, or an earlier run's."""
        self.holders.carry([self.session(WEB)])
        self.assertIn("held by somebody else: an earlier run of this agent", self.said())

    def test_our_own_dead_session(self) -> None:
        """A port of a session of ours that has ended: since when; said the same however often it is asked."""
        self.holders.carry([self.session(API)])
        self.clock.advance(60)
        self.holders.carry([])
        said = self.said()
        self.assertIn("our own session that ended at 2023-11-14T22:14:20Z", said)
        self.clock.advance(12)
        self.holders.carry([self.session(WEB)])
        self.assertEqual(self.said(), said)

    def test_had_again(self) -> None:
        """A port that is ours again is no dead session's any more."""
        for sessions in ([self.session(API)], [], [self.session(API)]):
            self.holders.carry(sessions)
        self.assertIn("another session of this agent holds it", self.said())

    def test_another_server(self) -> None:
        """The same port of another server is another port; unless that is the same server."""
        self.holders.carry([self.session(API, host="other.example")])
        self.assertIn("held by our session to wss://other.example:443/, should that be the same", self.said())
        self.holders.carry([])
        self.assertIn("somebody else", self.said())

    def test_not_allowed(self) -> None:
        """A port that the server's rules deny is held by nobody."""
        said = self.said("access to 'R:0.0.0.0:8000' denied")
        self.assertIn("the server's rules do not give this port to our user", said)
        self.assertNotIn("held", said)

    def test_not_named(self) -> None:
        """Where the reason names another port, or none, nothing is guessed."""
        self.assertEqual(self.said(remote=WEB), f"port 8001 for web: {IN_USE}")
        self.assertEqual(self.said("bad config"), "port 8000 for api: bad config")

    def test_bounded(self) -> None:
        """So many ports of dead sessions are remembered; the oldest are forgotten."""
        for port in range(1, MAX_REMEMBERED + 100):
            self.holders.carry([self.session(Remote("x", port, "h", 1))])
            self.holders.carry([])
        self.assertEqual(len(self.holders._ended), MAX_REMEMBERED)
