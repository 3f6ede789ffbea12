"""The page where canaries come home."""

from __future__ import annotations

from pipeops_agent.web.canary import canary_route
from tests.web.harness import SiteCase


class CanaryPageTests(SiteCase):
    def test_known_and_unknown(self) -> None:
        """A nonce that is out is answered with its answer; at any other there is nothing, as anywhere."""
        self.build(canary_route({"abc": "xyz"}.get))
        answer = self.ask("/canary/abc")
        self.assertEqual((answer.code, answer.body), (200, b"xyz"))
        self.assertEqual(self.ask("/canary/abd").json, self.ask("/nothing/here").json)
        self.assertEqual(self.ask("/canary/abd").code, 404)
        self.assertEqual(self.ask("/canary/").code, 404)
