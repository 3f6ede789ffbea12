"""The command line of C{twistd pipeops-sandbox}."""

from __future__ import annotations

from pathlib import Path

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.sandbox.service import SandboxError, SandboxSettings
from pipeops_agent.sandbox.tap import DEFAULT_PORT, TOKEN_VARIABLE, Options, find_token
from pipeops_agent.secrets import Secret

GOOD = "a-token-that-is-long-enough"


def parsed(*arguments: str, token: str = "") -> SandboxSettings:
    """What a command line comes to, with a token in the environment."""
    options = Options({TOKEN_VARIABLE: token})
    options.parseOptions(list(arguments))
    return options.settings


class SettingsTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        """Without options: loopback, a fixed port, no TLS, and a made-up token that is written to a file."""
        settings = parsed()
        self.assertEqual(settings, SandboxSettings(port=DEFAULT_PORT, write_token=True))
        self.assertFalse(settings.public)

    def test_all(self) -> None:
        """Each option finds its setting."""
        settings = parsed(
            *("--port", "0", "--listen", "10.1.2.3", "--tls", "--tls-dir", "there", "--stand-ins"),
            *("--poll-frequency", "9", "--name", "one.test", "--name", "two.test"),
            token=GOOD,
        )
        self.assertEqual(
            settings,
            SandboxSettings(
                listen="10.1.2.3",
                port=0,
                tls=True,
                names=("one.test", "two.test"),
                directory="there",
                token=Secret(GOOD),
                stand_ins=True,
                poll_frequency=9,
            ),
        )

    def test_log_format(self) -> None:
        """The log is for people unless programs read it; another format is a usage error."""
        for arguments, expected in (((), "text"), (("--log-format", "json"), "json")):
            options = Options({})
            options.parseOptions(list(arguments))
            self.assertEqual(options["log-format"], expected)
        self.assertRaises(UsageError, parsed, "--log-format", "xml")

    def test_numbers(self) -> None:
        """What is no number, or out of range, is a usage error."""
        for arguments in (
            ("--port", "x"),
            ("--port", "65536"),
            ("--port", "-1"),
            ("--poll-frequency", "601"),
        ):
            with self.subTest(arguments=arguments):
                self.assertRaises(UsageError, parsed, *arguments)

    def test_not_loopback(self) -> None:
        """Other machines are let in with TLS and a token that was given, and not otherwise."""
        wanted = ("--listen", "0.0.0.0", "--tls")
        self.assertRaises(UsageError, parsed, *wanted[:2], token=GOOD)
        self.assertRaises(UsageError, parsed, *wanted)
        self.assertTrue(parsed(*wanted, token=GOOD).public)

    def test_the_service_looks_again(self) -> None:
        """Settings that did not come from here are checked all the same."""
        for settings in (
            SandboxSettings(listen="0.0.0.0"),
            SandboxSettings(listen="::", tls=True),
            SandboxSettings(listen="10.0.0.1", token=Secret(GOOD)),
        ):
            with self.subTest(settings=settings):
                self.assertRaises(SandboxError, settings.check)


class TokenTests(SynchronousTestCase):
    def test_a_file_goes_first(self) -> None:
        """A file's token is used, without the end of its line, before the environment's."""
        path = Path(self.mktemp())
        path.write_text(f"{GOOD}\n")
        self.assertEqual(find_token({TOKEN_VARIABLE: "y" * 20}, str(path)), Secret(GOOD))
        self.assertEqual(find_token({TOKEN_VARIABLE: "y" * 20}, ""), Secret("y" * 20))
        self.assertIsNone(find_token({}, ""))

    def test_no_token(self) -> None:
        """No file, nothing in it, a token too short or unprintable: said without the token."""
        empty, binary, long = Path(self.mktemp()), Path(self.mktemp()), Path(self.mktemp())
        empty.write_text("\n")
        binary.write_bytes(b"\xff" * 40)
        long.write_text("x" * 5000)
        for file in (self.mktemp(), str(empty), str(binary), str(long)):
            with self.subTest(file=file):
                error = self.assertRaises(UsageError, find_token, {TOKEN_VARIABLE: GOOD}, file)
                self.assertIn(file, str(error))
        for text in ("short-secret", "secret with\nnewline in it"):
            with self.subTest(text=text):
                error = self.assertRaises(UsageError, find_token, {TOKEN_VARIABLE: text}, "")
                self.assertIn(TOKEN_VARIABLE, str(error))
                self.assertNotIn("secret", str(error))
