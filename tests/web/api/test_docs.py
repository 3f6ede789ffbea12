"""Tests for L{pipeops_agent.web.api.docs}: the page, and that it is up to date."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.web.api.docs import main, render
from pipeops_agent.web.api.operations import OPERATIONS

_PAGE = Path(__file__).parents[3] / "docs" / "api.md"


class DocsTests(SynchronousTestCase):
    """C{docs/api.md}."""

    def test_fresh(self) -> None:
        """The page in the repository is what the operations say today."""
        output = io.StringIO()
        with redirect_stdout(output):
            status = main(["--check", str(_PAGE)])
        self.assertEqual((status, output.getvalue()), (0, ""))

    def test_every_operation(self) -> None:
        """Each has its heading, its summary, every status that it can end with, and what it needs."""
        page = render()
        for operation in OPERATIONS:
            heading = f"### `{operation.method} {operation.path}`\n"
            self.assertEqual(page.count(heading), 1, operation.path)
            part = page.partition(heading)[2].partition("\n### ")[0]
            self.assertIn(operation.summary, part)
            for code in operation.all_answers:
                self.assertIn(f"\n| {code} | ", part)

    def test_links(self) -> None:
        """Every link leads to a heading of the page."""
        page = render()
        headings = {
            re.sub(r"[^a-z0-9 _-]", "", line.lstrip("# ").lower()).replace(" ", "-")
            for line in page.splitlines()
            if line.startswith("#")
        }
        links = set(re.findall(r"\]\(#([^)]*)\)", page))
        self.assertEqual(links - headings, set())
        self.assertGreater(len(links), 40)
