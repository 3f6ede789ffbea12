"""Tests for L{pipeops_agent.settings.expansion}, alone and in a settings file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.settings.expansion import Variables
from pipeops_agent.settings.problems import Unfit
from tests.settings.case import TOKEN, SettingsCase

_NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


class ExpandTests(SynchronousTestCase):
    """One text."""

    def expand(self, text: str, **environ: str) -> str:
        """Expand for a setting that is neither secret nor an address."""
        return Variables(environ).expand(text)

    def refusal(self, text: str, **environ: str) -> str:
        """The reason why C{text} is refused."""
        return str(self.assertRaises(Unfit, self.expand, text, **environ))

    def test_reference(self) -> None:
        """References stand for their variables, wherever they are."""
        self.assertEqual(self.expand("${A}", A="1"), "1")
        self.assertEqual(self.expand("x-${A}-${B}${A}", A="1", B="2"), "x-1-21")
        self.assertEqual(self.expand("none"), "none")

    def test_default(self) -> None:
        """A default stands in for an unset or empty variable, and may be empty."""
        self.assertEqual(self.expand("${A:-d}"), "d")
        self.assertEqual(self.expand("${A:-d}", A=""), "d")
        self.assertEqual(self.expand("${A:-d}", A="1"), "1")
        self.assertEqual(self.expand("<${A:-}>"), "<>")
        self.assertEqual(self.expand("${A:-a:-b c}"), "a:-b c")

    def test_escape(self) -> None:
        """Two dollar signs are one, and begin no reference."""
        self.assertEqual(self.expand("$$"), "$")
        self.assertEqual(self.expand("$${A}"), "${A}")
        self.assertEqual(self.expand("$$$${A}"), "$${A}")
        self.assertEqual(self.expand("$$${A}", A="1"), "$1")

    def test_not_again(self) -> None:
        """What a variable holds is not expanded in turn."""
        self.assertEqual(self.expand("${A}", A="${B} $$", B="2"), "${B} $$")

    def test_unset(self) -> None:
        """An unset variable without a default is named, with the remedy; an empty one is empty."""
        self.assertEqual(
            self.refusal("${HOST_IP}"), "variable HOST_IP is not set; set it, or write ${HOST_IP:-default}"
        )
        self.assertEqual(self.expand("${A}", A=""), "")

    def test_malformed(self) -> None:
        """A dollar sign that begins nothing is refused, whatever it was meant to be."""
        for text in (
            "$",
            "$A",
            "${",
            "${A",
            "${}",
            "${1A}",
            "${A-b}",
            "${A:b}",
            "${A:-${B}}",
            "${A B}",
            "100$",
        ):
            self.assertIn("is written as $$", self.refusal(text, A="1", B="2"))

    def test_secrets(self) -> None:
        """Variables that hold secrets are usable for secret settings alone."""
        for name in (
            "PIPEOPS_TOKEN", "token", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "API_KEY", "APIKEY",
            "GITHUB_PAT_TOKEN", "SSH_PASSPHRASE", "CREDENTIALS", "TLS_PRIVATE",
        ):  # fmt: skip
            variables = Variables({name: TOKEN})
            error = self.assertRaises(Unfit, variables.expand, f"x${{{name}}}")
            self.assertIn(name, str(error))
            self.assertNotIn(TOKEN, str(error))
            self.assertEqual(variables.expand(f"${{{name}}}", secret=True), TOKEN)

    def test_a_default_does_not_help(self) -> None:
        """A secret variable is refused with a default too: it would be used where it is set."""
        self.assertRaises(Unfit, Variables({}).expand, "${DB_PASSWORD:-x}")

    def test_no_secrets(self) -> None:
        """Names of files, and words that only contain such a word, are no secrets."""
        for name in ("PIPEOPS_TOKEN_FILE", "TLS_KEY_PATH", "SECRETS_DIR", "MONKEY", "PWD", "HOME", "BYPASS"):
            self.assertEqual(Variables({name: "x"}).expand(f"${{{name}}}"), "x")

    def test_bound_to_a_secret_setting(self) -> None:
        """The variable of a secret setting is one whatever its name."""
        self.assertRaises(Unfit, Variables({"PLAIN": "x"}, ["PLAIN"]).expand, "${PLAIN}")

    def test_ipv6_in_host_position(self) -> None:
        """A bare IPv6 address is bracketed where a host stands, and only there."""
        variables = Variables({"H": "fd00::1", "P": "443", "V4": "10.0.0.1", "B": "[fd00::1]"})
        for text, expanded in {
            "${H}:${P}": "[fd00::1]:443",
            "${H}:6443": "[fd00::1]:6443",
            "${V4}:${P}": "10.0.0.1:443",
            "${B}:${P}": "[fd00::1]:443",
            "[${H}]:${P}": "[fd00::1]:443",
            "https://${H}": "https://[fd00::1]",
            "https://${H}/x": "https://[fd00::1]/x",
            "https://${H}:${P}/x": "https://[fd00::1]:443/x",
            "${X:-::1}:1": "[::1]:1",
            "https://a/${H}": "https://a/fd00::1",
        }.items():
            self.assertEqual(variables.expand(text, host=True), expanded)
        self.assertEqual(variables.expand("${H}:${P}"), "fd00::1:443")

    @given(st.text())
    @hypothesis_settings(deadline=None)
    def test_escaping_is_safe(self, text: str) -> None:
        """Any text, its dollar signs doubled, comes back as it was."""
        self.assertEqual(Variables({}).expand(text.replace("$", "$$")), text)

    @given(st.lists(st.tuples(st.text().map(lambda text: text.replace("$", "")), _NAMES)), st.text())
    @hypothesis_settings(deadline=None)
    def test_references_are_replaced_once(self, parts: list[tuple[str, str]], value: str) -> None:
        """Each reference is replaced by the value as it is, whatever is in it."""
        variables = Variables({name: value for _, name in parts})
        text = "".join(f"{before}${{{name}}}" for before, name in parts)
        self.assertEqual(variables.expand(text, secret=True), "".join(before + value for before, _ in parts))

    @given(st.text(alphabet="${}:-AB_ \n"))
    @hypothesis_settings(deadline=None)
    def test_any_text(self, text: str) -> None:
        """Whatever comes is expanded or refused."""
        try:
            Variables({"A": "1"}).expand(text)
        except Unfit:
            return


class FileTests(SettingsCase):
    """Expansion in a settings file."""

    def test_typed(self) -> None:
        """What comes out is converted to the setting's type."""
        text = "server:\n  port: ${P}\nagent: {poll_interval: '${T}'}\ntunnel:\n  enabled: ${ON:-no}\n"
        settings = self.settings(text, {"PIPEOPS_TOKEN": TOKEN, "P": "9000", "T": "1m"})
        self.assertEqual((settings.server.port, settings.agent.poll_interval), (9000, 60.0))
        self.assertFalse(settings.tunnel.enabled)

    def test_no_structure(self) -> None:
        """A variable can't add a key, a list or a line: it is one text."""
        hostile = "a\nserver:\n  port: 1"
        lines = self.problems("agent: {cluster_name: '${V}'}", {"PIPEOPS_TOKEN": TOKEN, "V": hostile})
        self.assertEqual(
            lines,
            ["agent.cluster_name: line breaks and control characters are not allowed (config.yaml line 1)"],
        )
        settings = self.settings("agent: {labels: {a: '${V}'}}", {"PIPEOPS_TOKEN": TOKEN, "V": "{b: c}, [d]"})
        self.assertEqual(settings.agent.labels, {"a": "{b: c}, [d]"})

    def test_the_cluster_in_both_families(self) -> None:
        """The manifests' forward is right whether the cluster's address is IPv4 or IPv6."""
        text = (
            "tunnel:\n  forwards:\n    - name: kubernetes-api\n"
            "      local_addr: ${KUBERNETES_SERVICE_HOST}:${KUBERNETES_SERVICE_PORT}\n"
        )
        for host, target in {"10.96.0.1": ("10.96.0.1", 443), "fd00::1": ("fd00::1", 443)}.items():
            environ = {
                "PIPEOPS_TOKEN": TOKEN, "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443",
            }  # fmt: skip
            settings = self.settings(text, environ)
            self.assertEqual(settings.tunnel.forwards[0].target, target)

    def test_secret_in_a_secret_setting(self) -> None:
        """A token may come from a variable of another name."""
        settings = self.settings("pipeops: {token: '${MY_TOKEN}'}", {"MY_TOKEN": TOKEN})
        assert settings.pipeops.token is not None
        self.assertEqual(settings.pipeops.token.reveal(), TOKEN)

    def test_secret_elsewhere(self) -> None:
        """A token can't get into a label, and its text not into the error."""
        lines = self.problems("agent: {labels: {a: 'x-${PIPEOPS_TOKEN}'}}")
        self.assertEqual(
            lines,
            ["agent.labels.a: variable PIPEOPS_TOKEN holds a secret, which only a secret setting may use"
             " (config.yaml line 1)"],
        )  # fmt: skip

    def test_variables_are_not_expanded(self) -> None:
        """Only the file is expanded: a variable's or option's value is meant as it is."""
        settings = self.settings(
            environ={"PIPEOPS_TOKEN": "a$b${HOME}", "PIPEOPS_AGENT_NAME": "${HOME}", "HOME": "/h"},
            options={"cluster-name": "$$x"},
        )
        assert settings.pipeops.token is not None
        self.assertEqual(settings.pipeops.token.reveal(), "a$b${HOME}")
        self.assertEqual((settings.agent.name, settings.agent.cluster_name), ("${HOME}", "$$x"))

    def test_keys_are_not_expanded(self) -> None:
        """A key is a key."""
        settings = self.settings("agent: {labels: {'${A}': b}}", {"PIPEOPS_TOKEN": TOKEN, "A": "x"})
        self.assertEqual(settings.agent.labels, {"${A}": "b"})
