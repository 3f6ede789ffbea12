"""Tests for L{pipeops_agent.options}: the command line as a dictionary."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

from twisted.python.usage import Options as TwistedOptions
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent import __version__
from pipeops_agent.options import Options
from pipeops_agent.settings.definitions import DEFINITIONS

_SECRET = "tok-5f2c-never-to-be-shown"


class OptionsTests(SynchronousTestCase):
    """What is understood, and what is refused."""

    def parse(self, *arguments: str) -> Options:
        """The options after C{arguments}."""
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def refusal(self, *arguments: str) -> str:
        """The text of the usage error."""
        return str(self.assertRaises(UsageError, self.parse, *arguments))

    def test_none(self) -> None:
        """Nothing given: every setting is None, every order off."""
        options = self.parse()
        for definition in DEFINITIONS.values():
            if definition.option:
                self.assertIsNone(options[definition.option.removeprefix("--")])
        self.assertIsNone(options["config"])
        for name in ("check-config", "status", "reset-state", "sandbox"):
            self.assertFalse(options[name])

    def test_settings(self) -> None:
        """Values are texts as they were given, good or bad: they are judged with all others."""
        options = self.parse("--port", "99999", "--api-url=x", "--log-level", "")
        self.assertEqual((options["port"], options["api-url"], options["log-level"]), ("99999", "x", ""))

    def test_orders(self) -> None:
        """Each order alone, and with a sandbox; two orders exclude each other."""
        for order in ("check-config", "status", "reset-state"):
            self.assertTrue(self.parse(f"--{order}", "--sandbox")[order])
        self.assertEqual(
            self.refusal("--status", "--check-config"), "--check-config and --status can't be used together"
        )

    def test_no_token(self) -> None:
        """There is no option for a token, not even abbreviated; the error says where it goes instead."""
        for arguments in (("--token", _SECRET), (f"--token={_SECRET}",)):
            text = self.refusal(*arguments)
            self.assertIn("set PIPEOPS_TOKEN", text)
            self.assertNotIn(_SECRET, text)
        for arguments in ((f"--tok={_SECRET}",), (f"--token-file={_SECRET}",), (_SECRET,)):
            self.assertNotIn(_SECRET, self.refusal(*arguments))

    def test_unknown(self) -> None:
        """An unknown option, or a missing value, is a usage error."""
        self.assertIn("--prt", self.refusal("--prt", "1"))
        self.assertIn("--port", self.refusal("--port"))

    def test_help(self) -> None:
        """The help names every option, shows how to run it, and stays short."""
        text = str(Options())
        for definition in DEFINITIONS.values():
            if definition.option:
                self.assertIn(f"{definition.option}=", text)
        for expected in (
            "--check-config",
            "--config=",
            "twistd -n --pidfile= pipeops-agent --sandbox",
            "PIPEOPS_TOKEN",
        ):
            self.assertIn(expected, text)
        self.assertTrue(len(text.split("\n")) < 70)

    def test_synopsis(self) -> None:
        """Below twistd the first line of the help is the whole command, once."""
        parent = TwistedOptions()
        parent.subCommand = "pipeops-agent"
        options = Options()
        options.parent = parent
        self.assertTrue(options.getSynopsis().endswith(" pipeops-agent [options]"))
        self.assertEqual(options.getSynopsis().count("pipeops-agent"), 1)

    def test_version(self) -> None:
        """C{--version} is the agent's, and ends with 0."""
        output = io.StringIO()
        with redirect_stdout(output):
            end = self.assertRaises(SystemExit, self.parse, "--version")
        self.assertEqual((end.code, output.getvalue()), (0, f"pipeops-agent {__version__}\n"))

    def test_light(self) -> None:
        """Importing the options imports neither a reactor nor a large library: help must be quick."""
        heavy = ("twisted.internet.reactor", "treq", "autobahn", "kubernetes", "cryptography", "psutil",
                 "twisted.web.client", "twisted.conch", "prometheus_client")  # fmt: skip
        program = f"import sys, pipeops_agent.options; print([m for m in {heavy!r} if m in sys.modules])"
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        self.assertEqual(done.stdout, "[]\n")
