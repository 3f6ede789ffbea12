"""Tests for L{pipeops_agent.settings.report}: the text of C{--check-config}."""

from __future__ import annotations

import re

from pipeops_agent.settings import Loaded, report
from pipeops_agent.settings.definitions import DEFINITIONS
from tests.settings.case import TOKEN, SettingsCase


class ReportTests(SettingsCase):
    """Every value with its origin."""

    def rows(self, loaded: Loaded) -> dict[str, tuple[str, str]]:
        """Value and origin by path, from the block between the empty lines."""
        block = report(loaded).split("\n\n")[1]
        rows = [re.split(r" {2,}", line) for line in block.split("\n")]
        return {path: (value, origin) for path, value, origin in rows}

    def test_every_setting(self) -> None:
        """Every setting has a line, or one for each of its elements."""
        rows = self.rows(self.load())
        for path in DEFINITIONS:
            self.assertTrue(any(row == path or row.startswith(f"{path}[") for row in rows), path)

    def test_origins(self) -> None:
        """Each source is named, with the file's line; a list's elements have lines of their own."""
        loaded = self.load(
            "agent:\n  labels:\n    env: prod\n    tier: '1'\ntunnel:\n  forwards:\n"
            "    - name: db\n      local_addr: localhost:5432\n      aliases:\n        - pg\n",
            {"PIPEOPS_TOKEN": TOKEN, "PIPEOPS_TIMEOUT": "90s", "PIPEOPS_ACCESS_DENY_VERBS": "exec"},
            {"port": "9000"},
        )
        rows = self.rows(loaded)
        for path, row in {
            "agent.labels.env": ("prod", "config.yaml line 3"),
            "agent.labels.tier": ("1", "config.yaml line 4"),
            "tunnel.forwards[0].name": ("db", "config.yaml line 7"),
            "tunnel.forwards[0].local_addr": ("localhost:5432", "config.yaml line 8"),
            "tunnel.forwards[0].remote_port": ("0", "default"),
            "tunnel.forwards[0].aliases[0]": ("pg", "config.yaml line 10"),
            "pipeops.timeout": ("1m30s", "variable PIPEOPS_TIMEOUT"),
            "access.deny.verbs[0]": ("exec", "variable PIPEOPS_ACCESS_DENY_VERBS"),
            "server.port": ("9000", "option --port"),
            "server.bind": ("127.0.0.1", "default"),
            "tunnel.poll_interval": ("as agent.poll_interval", "default"),
            "tunnel.allowed_servers": ("(none)", "default"),
            "agent.id": ("''", "default"),
        }.items():
            self.assertEqual(rows[path], row, path)
        self.assertNotIn("tunnel.forwards[1].name", rows)

    def test_emptied_list(self) -> None:
        """A list that was written empty says where."""
        rows = self.rows(self.load("agent: {labels: {}}\ntunnel:\n  forwards: []\n"))
        self.assertEqual(rows["tunnel.forwards"], ("(none)", "config.yaml line 3"))
        self.assertEqual(rows["agent.labels"], ("(none)", "config.yaml line 1"))

    def test_implied_alias(self) -> None:
        """An alias that nobody wrote is a default, though its forward was written."""
        rows = self.rows(self.load("tunnel: {forwards: [{name: kubernetes-api, local_addr: 'a:1'}]}"))
        self.assertEqual(rows["tunnel.forwards[0].aliases[0]"], ("k8s-api", "default"))

    def test_secret(self) -> None:
        """A secret is its length and a short hash."""
        text = report(self.load())
        self.assertNotIn(TOKEN, text)
        self.assertIn(f"<secret, {len(TOKEN)} characters, sha256 ", text)
        self.assertIn("(none)", self.rows(self.load(environ={}, token_required=False))["pipeops.token"])

    def test_aligned(self) -> None:
        """The columns are as wide as what is in them; one line per row, whatever the value."""
        block = report(self.load("agent: {cluster_name: ' x '}")).split("\n\n")[1].split("\n")
        starts = {line.rindex("  ") for line in block if line.endswith("  default")}
        self.assertEqual(len(starts), 1)
        self.assertTrue(any("' x '" in line for line in block))

    def test_frame(self) -> None:
        """Above stands the file, below what was ignored and what is dangerous."""
        self.assertTrue(report(self.load()).startswith("settings file: none (looked for config.yaml and ~/"))
        loaded = self.load(
            "tunnel: {allow_insecure: yes}",
            {"PIPEOPS_TOKEN": TOKEN},
            ignore=frozenset(["pipeops.token"]),
            token_required=False,
        )
        parts = report(loaded).split("\n\n")
        self.assertEqual(parts[0], f"settings file: {self.cwd / 'config.yaml'}")
        self.assertEqual(parts[2], "control plane: reached directly")
        self.assertEqual(parts[3], "ignored: pipeops.token (variable PIPEOPS_TOKEN)")
        self.assertEqual(parts[4], "caution: tunnel.allow_insecure: a tunnel server without TLS is accepted")
