"""Tests for L{pipeops_agent.watch.options}."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.secrets import Secret
from pipeops_agent.watch.client import Target, WatchError
from pipeops_agent.watch.options import command_of, parse, target_of


class TargetTests(SynchronousTestCase):
    """Which agent, and with which token."""

    def target(self, *words: str, **environ: str) -> Target:
        return target_of(parse([*words, "status"]), environ)

    def test_default(self) -> None:
        """This machine's agent, and no token."""
        self.assertEqual(self.target(), Target(url="http://127.0.0.1:8080", token=None))

    def test_url(self) -> None:
        """The option goes before the variable."""
        self.assertEqual(self.target(PIPEOPS_WATCH_URL="http://a:1/").url, "http://a:1")
        found = self.target("--url", "https://b:2", PIPEOPS_WATCH_URL="http://a:1")
        self.assertEqual(found.url, "https://b:2")

    def test_bad_url(self) -> None:
        """What is none, or holds a password, is refused, and not repeated where it may be one."""
        for url in ("localhost:8080", "ftp://x", "http://", "http://user:secret@host"):
            error = self.assertRaises(WatchError, self.target, "--url", url)
            self.assertNotIn("secret", str(error))

    def test_token(self) -> None:
        """From the variable, or from a file, with its line break; never as an argument."""
        file = Path(self.mktemp())
        file.write_text("from-the-file\n")
        self.assertEqual(self.target(PIPEOPS_WATCH_TOKEN="t").token, Secret("t"))
        found = self.target("--token-file", str(file), PIPEOPS_WATCH_TOKEN="t")
        self.assertEqual(found.token, Secret("from-the-file"))
        with redirect_stderr(io.StringIO()):
            self.assertRaises(SystemExit, parse, ["--token", "t", "status"])

    def test_bad_token(self) -> None:
        """A file that can't be read, and a token that no header can carry; its text is not repeated."""
        self.assertRaises(WatchError, self.target, "--token-file", self.mktemp())
        error = self.assertRaises(WatchError, self.target, PIPEOPS_WATCH_TOKEN="s\u00e4cret\x00")
        self.assertNotIn("cret", str(error).replace("header can carry", ""))

    def test_plain_http(self) -> None:
        """A token goes over plain HTTP to this machine alone, unless that is asked for."""
        shown = {"Authorization": "Bearer t"}
        for url, plaintext in (
            ("http://127.0.0.1:1", False),
            ("http://[::1]:1", False),
            ("http://localhost:1", False),
            ("https://far.example", False),
            ("http://far.example", True),
        ):
            self.assertEqual(Target(url=url, token=Secret("t"), plaintext=plaintext).headers(), shown)
        self.assertRaises(WatchError, Target(url="http://far.example", token=Secret("t")).headers)
        self.assertEqual(Target(url="http://far.example", token=None).headers(), {})


class CommandTests(SynchronousTestCase):
    """What C{send} sends."""

    def command(self, *words: str) -> object:
        return command_of(parse(["send", *words]), msgspec.json.decode)

    def test_whole(self) -> None:
        """Target, arguments that may be JSON, a time limit."""
        words = ("scale", "deployment/web", "-n", "shop", "-a", "replicas=3", "-a", "why=more load")
        self.assertEqual(
            self.command(*words, "--timeout", "30"),
            {
                "type": "scale",
                "target": {"type": "deployment", "name": "web", "namespace": "shop", "container": ""},
                "command": [],
                "args": {"replicas": 3, "why": "more load"},
                "timeout": 30.0,
            },
        )

    def test_command_line(self) -> None:
        """What stands behind C{--} is the process's, options and all."""
        command = self.command("exec", "pod/web-0", "-n", "shop", "--", "ls", "-l", "--", "--json")
        assert isinstance(command, dict)
        self.assertEqual(command["command"], ["ls", "-l", "--", "--json"])

    def test_bad_argument(self) -> None:
        """An argument without a name or a value."""
        for bad in ("replicas", "=3"):
            self.assertRaises(WatchError, self.command, "scale", "-a", bad)

    def test_mistakes(self) -> None:
        """No action, one that there is not, a command behind another action: usage, and status 2."""
        for words in ([], ["nonsense"], ["status", "--", "ls"], ["metrics", "--interval", "0"]):
            with redirect_stderr(io.StringIO()):
                error = self.assertRaises(SystemExit, parse, words)
            self.assertEqual(error.code, 2)
