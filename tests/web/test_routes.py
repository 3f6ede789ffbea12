"""Tests for L{pipeops_agent.web.routes}."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.web.replies import Reply
from pipeops_agent.web.request import AgentRequest
from pipeops_agent.web.routes import Match, Route, Router


def nothing(request: AgentRequest, parameters: Mapping[str, str]) -> Reply:
    return Reply()


def router(*routes: tuple[str, str]) -> Router:
    return Router(Route(method, template, nothing) for method, template in routes)


class RouterTests(SynchronousTestCase):
    """From a path to a route."""

    def found(self, table: Router, path: bytes) -> Match:
        match = table.match(path)
        assert match is not None
        return match

    def test_fixed_before_open(self) -> None:
        """Where both fit, the fixed segment wins, whatever the order in the table."""
        table = router(("GET", "/a/{x}"), ("GET", "/a/b"), ("GET", "/{y}/b"))
        self.assertEqual(self.found(table, b"/a/b").template, "/a/b")
        self.assertEqual(self.found(table, b"/a/c").template, "/a/{x}")
        self.assertEqual(self.found(table, b"/c/b").template, "/{y}/b")
        self.assertIsNone(table.match(b"/c/c"))

    def test_parameters(self) -> None:
        """What stands for a segment is decoded; nothing does not stand for one."""
        table = router(("GET", "/a/{x}/{y}"))
        self.assertEqual(self.found(table, b"/a/%C3%A9/%2F").parameters, {"x": "é", "y": "/"})
        for path in (b"/a//b", b"/a/b/", b"/a/b/c/d", b"/a/%ff/b", b"a/b/c", b""):
            self.assertIsNone(table.match(path), path)

    def test_braces_in_a_path(self) -> None:
        """A path that looks like a template fits it like any other."""
        match = self.found(router(("GET", "/a/{x}")), b"/a/{x}")
        self.assertEqual((match.template, match.parameters), ("/a/{x}", {"x": "{x}"}))

    def test_methods(self) -> None:
        """One path may have several methods; HEAD comes with GET, OPTIONS always."""
        table = router(("POST", "/s"), ("DELETE", "/s"), ("GET", "/t"))
        self.assertEqual(self.found(table, b"/s").allow, "DELETE, OPTIONS, POST")
        self.assertIsNone(self.found(table, b"/s").handler("HEAD"))
        self.assertEqual(self.found(table, b"/t").allow, "GET, HEAD, OPTIONS")
        self.assertIsNotNone(self.found(table, b"/t").handler("HEAD"))

    def test_twice(self) -> None:
        """Two handlers for one method of one template are a mistake, told at the start."""
        self.assertRaises(ValueError, router, ("GET", "/a"), ("GET", "/a"))
