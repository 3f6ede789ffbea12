"""Tests for L{pipeops_agent.settings.changes}: what a SIGHUP can take in."""

from __future__ import annotations

from pipeops_agent.secrets import Secret
from pipeops_agent.settings import Changes, Settings, compare, take_live
from tests.settings.case import TOKEN, SettingsCase


class ChangesTests(SettingsCase):
    """Two readings compared."""

    def test_same(self) -> None:
        """The same values from other places are no change."""
        old = self.settings("server: {port: 9000}")
        new = self.settings("server: {}", options={"port": "9000"})
        self.assertEqual(compare(old, new), Changes((), ()))
        self.assertFalse(compare(old, new))

    def test_live_and_restart(self) -> None:
        """Each changed setting is on its list, by path."""
        changes = compare(
            self.settings("server: {port: 9000}"),
            self.settings(
                "server: {port: 9001}\nlogging: {level: debug, format: text}\nagent: {labels: {a: b}}\n"
                "tunnel: {forwards: []}\naccess: {read_only: yes, deny: {verbs: [exec]}}",
                {"PIPEOPS_TOKEN": "new"},
            ),
        )
        self.assertTrue(changes)
        self.assertEqual(
            changes.live,
            (
                "agent.labels",
                "pipeops.token",
                "tunnel.forwards",
                "logging.level",
                "access.read_only",
                "access.deny.verbs",
            ),
        )
        self.assertEqual(changes.restart, ("server.port", "logging.format"))

    def test_take_live(self) -> None:
        """The running agent has the new live values, and the old ones of the others."""
        old = self.settings("server: {port: 9000}")
        new = self.settings("server: {port: 9001}\nlogging: {level: debug}", {"PIPEOPS_TOKEN": "new"})
        taken = take_live(old, new)
        self.assertEqual((taken.server.port, taken.logging.level), (9000, "debug"))
        self.assertEqual(taken.pipeops.token, Secret("new"))
        self.assertEqual(compare(taken, new).live, ())
        self.assertEqual(take_live(Settings(), Settings()), Settings())

    def test_nothing_is_shown(self) -> None:
        """Changes are paths: no value, and so no token."""
        changes = compare(self.settings(), self.settings(environ={"PIPEOPS_TOKEN": "another"}))
        self.assertNotIn(TOKEN, repr(changes))
        self.assertNotIn("another", repr(changes))
