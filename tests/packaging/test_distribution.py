"""What is in the wheel and in the source distribution. These tests build both, once."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent import __version__
from tests.packaging.wheel import sdist_names, wheel_metadata, wheel_names
from tests.quality.checkout import modules, texts

DROP_IN: Final = "twisted/plugins/pipeops_agent_plugin.py"

BROUGHT_ALONG: Final = {"_nvx_xormasker": "autobahn"}
"""Modules beside a distribution's own package, and whose they are."""

IMPORTED_AS: Final = {
    "pyopenssl": "OpenSSL",
    "prometheus-client": "prometheus_client",
    "pyyaml": "yaml",
    "service-identity": "service_identity",
    "zope-interface": "zope",
}
"""Distributions whose package has another name."""

NOT_IMPORTED: Final[dict[str, str]] = {
    "service-identity": "Twisted verifies host names with it, and only warns where it is missing",
}
"""Dependencies that no import statement shows, each with its reason."""


def project() -> dict[str, Any]:
    """The C{[project]} table."""
    table: dict[str, Any] = tomllib.loads(texts()["pyproject.toml"])["project"]
    return table


def dependencies() -> dict[str, str]:
    """Each run-time dependency with what follows its name."""
    pairs = (re.match(r"([a-z0-9-]+)(?:\[[a-z,]+\])?(.*)", line) for line in project()["dependencies"])
    return {match[1]: match[2] for match in pairs if match}


def imported() -> set[str]:
    """The top-level packages of others that the package imports."""
    found: set[str] = set()
    for name, tree in modules().items():
        if not name.startswith(("pipeops_agent/", "twisted/")):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"pipeops_agent"}


class WheelTests(SynchronousTestCase):
    """The wheel."""

    def test_only_the_drop_in_under_twisted(self) -> None:
        """Below C{twisted/} there is the drop-in and nothing else, whatever lay beside it in the checkout."""
        self.assertEqual([name for name in wheel_names() if name.startswith("twisted/")], [DROP_IN])

    def test_whole_package(self) -> None:
        """Every module of the package is there, a directory without C{__init__.py} not forgotten."""
        ours = {name for name in texts() if name.startswith("pipeops_agent/") and name.endswith(".py")}
        self.assertEqual(ours - set(wheel_names()), set())

    def test_nothing_else(self) -> None:
        """Neither tests nor anything that a used checkout has beside them."""
        tops = {name.partition("/")[0] for name in wheel_names()}
        self.assertEqual(tops, {"pipeops_agent", "twisted", f"pipeops_agent-{__version__}.dist-info"})

    def test_typed(self) -> None:
        """The package's annotations are for those who import it too."""
        self.assertIn("pipeops_agent/py.typed", wheel_names())

    def test_metadata(self) -> None:
        """Version, Python and license say what the project says."""
        metadata = wheel_metadata()
        for line in (f"Version: {__version__}", "Requires-Python: >=3.11", "License-Expression: MIT"):
            self.assertIn(f"\n{line}\n", metadata)


class SourceDistributionTests(SynchronousTestCase):
    """The source distribution."""

    def test_enough_to_test_and_to_carry_on(self) -> None:
        """All text files of the repository are there, except what only git reads."""
        missing = {name for name in texts() if not name.startswith(".git")} - set(sdist_names())
        self.assertEqual(missing, set())

    def test_nothing_left_by_tools(self) -> None:
        """What twistd and Python leave beside the sources stays out."""
        left = [name for name in sdist_names() if name.endswith((".cache", ".pyc"))]
        self.assertEqual(left, [])


class DependencyTests(SynchronousTestCase):
    """What C{pyproject.toml} names is what the package imports."""

    def test_every_import_is_declared(self) -> None:
        """The package imports no distribution that only a dependency of a dependency brings."""
        declared = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in dependencies()}
        brought = {module for module, by in BROUGHT_ALONG.items() if by in declared}
        self.assertEqual(imported() - declared - brought, set())

    def test_every_dependency_is_used(self) -> None:
        """Nothing is installed on every machine for no reason."""
        used = imported()
        unused = {
            name
            for name in dependencies()
            if IMPORTED_AS.get(name, name.replace("-", "_")) not in used and name not in NOT_IMPORTED
        }
        self.assertEqual(unused, set())

    def test_every_dependency_has_a_lower_bound(self) -> None:
        """A bound that is tested (C{.ci/run lowest}), never none."""
        self.assertEqual([name for name, bounds in dependencies().items() if not bounds.startswith(">=")], [])
