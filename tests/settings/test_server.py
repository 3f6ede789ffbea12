"""Tests for the settings of the HTTP interface: tokens, TLS, limits."""

from __future__ import annotations

from pipeops_agent.caller import Grant
from pipeops_agent.secrets import Secret
from pipeops_agent.settings import compare
from pipeops_agent.settings.model_server import LEAST_TOKEN, LimitsSettings
from pipeops_agent.settings.report import report
from tests.settings.case import TOKEN, SettingsCase

CI = "ci-5f2c6a1d9e8b7c4f3a"


class TokenTests(SettingsCase):
    """C{server.tokens}."""

    def test_read(self) -> None:
        """A name, a token or a file, and scopes, which are understood here."""
        (first, second) = self.settings(
            f"""
            server:
              tokens:
                - {{name: ci, token: {CI}, scopes: ['operate:scale@shop', read]}}
                - {{name: grafana, file: ~/t, scopes: [read]}}
            """
        ).server.tokens
        self.assertEqual((first.name, first.token, first.file), ("ci", Secret(CI), ""))
        self.assertEqual(
            first.scopes, (Grant("operate", frozenset({"scale"}), cluster="shop"), Grant("read"))
        )
        self.assertEqual((second.token, second.file), (None, str(self.home / "t")))

    def test_from_a_variable(self) -> None:
        """The token itself may come from the environment."""
        environ = {"PIPEOPS_TOKEN": TOKEN, "CI_TOKEN": CI}
        text = "server: {tokens: [{name: ci, token: '${CI_TOKEN}', scopes: [read]}]}"
        self.assertEqual(self.settings(text, environ).server.tokens[0].token, Secret(CI))

    def test_variable(self) -> None:
        """All of them may be in one variable."""
        tokens = f"[{{name: ci, token: {CI}, scopes: [read]}}]"
        environ = {"PIPEOPS_TOKEN": TOKEN, "PIPEOPS_SERVER_TOKENS": tokens}
        self.assertEqual(self.settings(environ=environ).server.tokens[0].token, Secret(CI))

    def test_wrong(self) -> None:
        """What is wrong is named with its place; the token is not repeated."""
        for token, path, words in (
            (f"name: a, token: {CI}, file: /t, scopes: [read]", ".file", "keep one"),
            ("name: a, scopes: [read]", "", "needs a token or a file"),
            (f"name: a, token: {CI}, scopes: []", ".scopes", "at least one"),
            (f"name: a, token: {CI}", ".scopes", "required"),
            (f"name: a, token: {CI}, scopes: [write]", ".scopes[0]", "expected read or operate"),
            (f"name: a, token: {CI}, scopes: ['read:scale']", ".scopes[0]", "is a verb of operate"),
            (f"token: {CI}, scopes: [read]", ".name", "required"),
            (f"name: a, token: {CI[: LEAST_TOKEN - 1]}, scopes: [read]", ".token", "can be guessed"),
            (f"name: a, token: '{CI} x', scopes: [read]", ".token", "space"),
        ):
            (problem,) = self.problems(f"server: {{tokens: [{{{token}}}]}}")
            self.assertTrue(problem.startswith(f"server.tokens[0]{path}: "), problem)
            self.assertIn(words, problem)
            self.assertNotIn(CI[: LEAST_TOKEN - 1], problem)

    def test_names(self) -> None:
        """Two tokens of one name could not be told apart in the audit records."""
        one = f"{{name: ci, token: {CI}, scopes: [read]}}"
        self.assertEqual(
            self.problems(f"server: {{tokens: [{one}, {one}]}}"),
            ["server.tokens[1].name: 'ci' is server.tokens[0].name already (config.yaml line 1)"],
        )

    def test_never_shown(self) -> None:
        """The report of the settings has a token's length and hash, and its scopes as they are written."""
        text = report(
            self.load(f"server: {{tokens: [{{name: ci, token: {CI}, scopes: ['operate:scale']}}]}}")
        )
        self.assertNotIn(CI, text)
        self.assertIn("server.tokens[0].scopes[0]", text)
        self.assertIn("operate:scale", text)

    def test_exposed(self) -> None:
        """A token in a file that everybody can read is cautioned, by its place."""
        self.write(f"server: {{tokens: [{{name: ci, token: {CI}, scopes: [read]}}]}}", mode=0o644)
        (caution,) = self.load().cautions
        self.assertTrue(caution.startswith("server.tokens[0].token: every user"), caution)
        environ = {"PIPEOPS_TOKEN": TOKEN, "CI_TOKEN": CI}
        self.write("server: {tokens: [{name: ci, token: '${CI_TOKEN}', scopes: [read]}]}", mode=0o644)
        self.assertEqual(self.load(environ=environ).cautions, ())

    def test_live(self) -> None:
        """Tokens, limits and lifetimes change without a restart; what is listened with does not."""
        old = self.settings()
        new = self.settings(
            f"""
            server:
              tokens: [{{name: ci, token: {CI}, scopes: [read]}}]
              limits: {{client: {{requests: 7}}, tunnel: {{commands: 7}}, total: {{log_streams: 7}}}}
              session_lifetime: 1h
              tls: {{mode: auto}}
            """
        )
        changes = compare(old, new)
        self.assertEqual(
            set(changes.live),
            {
                "server.tokens",
                "server.limits.client.requests",
                "server.limits.tunnel.commands",
                "server.limits.total.log_streams",
                "server.session_lifetime",
            },
        )
        self.assertEqual(changes.restart, ("server.tls.mode",))

    def test_plaintext(self) -> None:
        """Tokens in the clear are cautioned at each start, unless there is TLS."""
        self.assertIn("unencrypted", self.load("server: {allow_plaintext_tokens: true}").cautions[0])
        self.assertEqual(self.load("server: {allow_plaintext_tokens: true, tls: {mode: auto}}").cautions, ())


class TLSTests(SettingsCase):
    """C{server.tls}."""

    def test_modes(self) -> None:
        """Off by default; a certificate from files is named, and only then."""
        self.assertEqual(self.settings().server.tls.mode, "off")
        tls = self.settings("server: {tls: {mode: files, cert_file: /c.pem}}").server.tls
        self.assertEqual((tls.cert_file, tls.key_file), ("/c.pem", ""))
        self.assertIn("server.tls.cert_file: required", self.problems("server: {tls: {mode: files}}")[0])
        for mode in ("off", "auto"):
            (problem,) = self.problems(f"server: {{tls: {{mode: {mode}, cert_file: /c.pem}}}}")
            self.assertIn("needs server.tls.mode: files", problem)


class LimitTests(SettingsCase):
    """C{server.limits}."""

    def test_defaults(self) -> None:
        """One client gets less than the tunnel, and that less than all: nobody can take everything."""
        limits: LimitsSettings = self.settings().server.limits
        for name in ("requests", "commands", "log_streams"):
            client, tunnel, total = (
                getattr(part, name) for part in (limits.client, limits.tunnel, limits.total)
            )
            self.assertTrue(client < tunnel < total, name)
        self.assertLess(limits.tunnel.connections, self.settings().server.max_connections)
        both = 2 * self.settings().realtime.max_connections  # WebSockets, and event streams besides
        self.assertLess(limits.tunnel.subscriptions, both)
        self.assertLess(limits.client.subscriptions, limits.tunnel.subscriptions)
