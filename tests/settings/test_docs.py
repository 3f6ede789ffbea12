"""Tests for L{pipeops_agent.settings.docs}: the page, and that it is up to date."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.settings.definitions import DEFINITIONS
from pipeops_agent.settings.docs import main, render

_PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


class DocsTests(SynchronousTestCase):
    """C{docs/configuration.md}."""

    def run_main(self, *arguments: str) -> tuple[int, str]:
        """Exit status and output."""
        output = io.StringIO()
        with redirect_stdout(output):
            status = main(arguments)
        return status, output.getvalue()

    def test_fresh(self) -> None:
        """The page in the repository is what the definitions say today."""
        self.assertEqual(self.run_main("--check", str(_PAGE)), (0, ""))

    def test_every_setting(self) -> None:
        """Every setting has its heading, key, variable, option and text."""
        page = render()
        for path, definition in DEFINITIONS.items():
            _, _, part = page.partition(f"### `{path}`\n")
            part = part.partition("\n### ")[0]
            for expected in (
                definition.about.text,
                f"| key | `{path}` |",
                f"| variable | `{definition.variable}` |",
                f"| option | `{definition.option}` |" if definition.option else "| option | none |",
                "| change | live" if definition.about.live else "| change | needs a restart |",
            ):
                self.assertIn(expected, part)

    def test_defaults(self) -> None:
        """Defaults are written as they would be in a file."""
        page = render()
        self.assertIn("| default | `5m` |", page)
        self.assertIn("name: `kubernetes-api`, local_addr: `localhost:6443`, aliases: `k8s-api`<br>", page)

    def test_write_and_check(self) -> None:
        """It is written, then fresh; stale or missing is said, with the remedy, and is status 1."""
        file = self.mktemp()
        status, output = self.run_main("--check", file)
        self.assertEqual(status, 1)
        self.assertIn("run python -m pipeops_agent.settings.docs", output)
        self.assertEqual(self.run_main(file), (0, ""))
        self.assertEqual(self.run_main("--check", file), (0, ""))
        with Path(file).open("a") as page:
            page.write("more")
        self.assertEqual(self.run_main("--check", file)[0], 1)

    def test_usage(self) -> None:
        """Other arguments are explained."""
        for arguments in (("--chek",), ("a", "b")):
            status, output = self.run_main(*arguments)
            self.assertEqual((status, output.split(":")[0]), (2, "usage"))
