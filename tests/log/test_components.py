"""Tests for L{pipeops_agent.log.components}."""

from __future__ import annotations

import ast
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import pipeops_agent
from pipeops_agent.log import agentlog
from pipeops_agent.log.components import COMPONENTS, is_component


def namespaces() -> set[str]:
    """The namespace of every logger of the package."""
    return {
        ast.literal_eval(keyword.value)
        for source in Path(pipeops_agent.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(source.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Logger"
        for keyword in node.keywords
        if keyword.arg == "namespace"
    }


class ComponentTests(SynchronousTestCase):
    """What levels can be set for."""

    def test_all_of_the_source(self) -> None:
        """The list is that of the loggers that there are, and of the log itself."""
        self.assertEqual(sorted({*namespaces(), agentlog._COMPONENT}), list(COMPONENTS))

    def test_is_component(self) -> None:
        """Own components by their whole names, libraries by the first part of theirs."""
        for name in ("tunnel", "tunnel.ssh", "twisted", "autobahn.twisted.websocket"):
            self.assertTrue(is_component(name), name)
        for name in ("tunel", "tunnel.sh", "Tunnel", "twiste", "tunnel."):
            self.assertFalse(is_component(name), name)
