"""The README's two commands, and what is built on them."""

from __future__ import annotations

import re
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from tests.quality.checkout import texts
from tests.quality.ci import load

UNIT: Final = "deploy/systemd/pipeops-agent.service"


class CommandTests(SynchronousTestCase):
    """Each is one line that needs Python and nothing else."""

    def setUp(self) -> None:
        """Read both from the README, by the means that CI uses."""
        command = load("readme_command").readme_command
        self.commands = {name: command(name, texts()["README.md"]) for name in ("run", "test")}

    def test_set_up(self) -> None:
        """Both begin with a virtual environment of their own, and each other's is good enough for them."""
        for command in self.commands.values():
            self.assertTrue(command.startswith("python3 -m venv .venv && .venv/bin/pip install "), command)

    def test_no_other_program(self) -> None:
        """Every program after the first is one that the environment brings."""
        for command in self.commands.values():
            programs = [part.split()[0] for part in command.split(" && ")]
            self.assertEqual(programs[0], "python3")
            self.assertEqual([one for one in programs[1:] if not one.startswith(".venv/bin/")], [])

    def test_first_blocks(self) -> None:
        """They are the first command of the page and the first that runs trial: what a reader would take."""
        blocks = re.findall(r"```sh\n(.*?)\n```", texts()["README.md"], re.DOTALL)
        self.assertEqual(blocks[0], self.commands["run"])
        self.assertEqual(next(block for block in blocks if "trial" in block), self.commands["test"])

    def test_editable_in_a_way_that_twistd_sees(self) -> None:
        """A plain editable installation hides the drop-in from twistd; the compatible mode does not."""
        self.assertIn("--config-settings editable_mode=compat -e '.[test]'", self.commands["test"])


class UnitTests(SynchronousTestCase):
    """The systemd unit."""

    def test_starts_the_agent_in_the_foreground(self) -> None:
        """It runs C{twistd -n --pidfile= pipeops-agent}: systemd is told nothing by files."""
        self.assertRegex(texts()[UNIT], r"\nExecStart=\S+/twistd -n --pidfile= pipeops-agent ")

    def test_refusals_are_not_retried(self) -> None:
        """Statuses that only a person can do something about end it."""
        self.assertIn("\nRestartPreventExitStatus=77 78\n", texts()[UNIT])

    def test_no_token_in_the_environment(self) -> None:
        """The token is handed in as a credential, where no child process and no C{systemctl show} sees it."""
        settings = [line for line in texts()[UNIT].splitlines() if not line.startswith("#")]
        self.assertEqual([line for line in settings if re.search(r"PIPEOPS_TOKEN\b", line)], [])
        self.assertIn("Environment=PIPEOPS_TOKEN_FILE=%d/token", settings)
