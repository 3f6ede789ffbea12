"""Tests for L{pipeops_agent.log.levels}."""

from __future__ import annotations

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.log.levels import Levels, Severity, component_of, parse_severity, severity_of


class ComponentTests(SynchronousTestCase):
    """Where an event comes from."""

    def test_own_namespaces(self) -> None:
        """Our own package's name is left out, short namespaces stay as they are."""
        for namespace, component in (
            ("pipeops_agent.tunnel.machine", "tunnel.machine"),
            ("tunnel", "tunnel"),
            ("pipeops_agent_plugin", "pipeops_agent_plugin"),
        ):
            self.assertEqual(component_of({"log_namespace": namespace}), component)

    def test_twisted(self) -> None:
        """All of Twisted is one component, old-style records and such without a namespace included."""
        for namespace in ("twisted.web.http.HTTPChannel", "log_legacy", "twisted.logger._global", None):
            self.assertEqual(component_of({"log_namespace": namespace}), "twisted")
        self.assertEqual(component_of({}), "twisted")

    def test_others(self) -> None:
        """Other libraries and captured streams keep their names."""
        for namespace in ("stdout", "autobahn.twisted.websocket", "kubernetes.client.rest", "twistedness"):
            self.assertEqual(component_of({"log_namespace": namespace}), namespace)


class SeverityTests(SynchronousTestCase):
    """How much a record matters."""

    def test_names(self) -> None:
        """Levels are written C{debug}, C{info}, C{warn}, C{error}; critical is an error."""
        labels = [
            severity_of({"log_level": level}).label
            for level in (LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error, LogLevel.critical)
        ]
        self.assertEqual(labels, ["debug", "info", "warn", "error", "error"])

    def test_without_level(self) -> None:
        """An event without a level, or with something else in its place, is of level info."""
        self.assertEqual(severity_of({}), Severity.INFO)
        self.assertEqual(severity_of({"log_level": "error"}), Severity.INFO)

    def test_chatter(self) -> None:
        """What Twisted says of every connection is for debugging; what twistd says of itself is not."""
        for event in (
            {"log_level": LogLevel.info, "log_format": "Starting factory {factory!r}"},
            {"log_level": LogLevel.info, "log_format": "Stopping factory {factory!r}"},
            {"log_level": LogLevel.info, "message": ("Site (TLS) starting on 80",)},
            {"log_level": LogLevel.info, "message": ("(TCP Port 80 Closed)",)},
        ):
            self.assertEqual(severity_of(event), Severity.DEBUG, event)
        for event in (
            {"log_level": LogLevel.info, "message": ("Server Shut Down.",)},
            {"log_level": LogLevel.info, "log_format": "Received SIGTERM, shutting down."},
        ):
            self.assertEqual(severity_of(event), Severity.INFO, event)
        failed = {"log_level": LogLevel.error, "log_format": "Starting factory failed"}
        self.assertEqual(severity_of(failed), Severity.ERROR)

    def test_parse(self) -> None:
        """Settings may say C{warn} or C{warning}, in any case; what is no level is named in the error."""
        self.assertEqual(parse_severity("WARNING"), Severity.WARN)
        self.assertEqual(parse_severity("warn"), Severity.WARN)
        error = self.assertRaises(ValueError, parse_severity, "verbose")
        self.assertIn("'verbose'", str(error))


class LevelsTests(SynchronousTestCase):
    """Which records are shown."""

    def test_default(self) -> None:
        """Without a level of its own a component has the default."""
        levels = Levels("info", {})
        self.assertFalse(levels.allows("web", Severity.DEBUG))
        self.assertTrue(levels.allows("web", Severity.INFO))

    def test_longest_prefix_decides(self) -> None:
        """A component's level holds for all below it, until one of those has its own."""
        levels = Levels("warn", {"tunnel": "debug", "tunnel.ssh": "error"})
        self.assertTrue(levels.allows("tunnel", Severity.DEBUG))
        self.assertTrue(levels.allows("tunnel.machine", Severity.DEBUG))
        self.assertFalse(levels.allows("tunnel.ssh", Severity.WARN))
        self.assertFalse(levels.allows("tunnel.ssh.kex", Severity.WARN))
        self.assertFalse(levels.allows("tunnels", Severity.INFO))

    def test_audit(self) -> None:
        """The record of what was done is shown whatever the level, unless it is named itself."""
        for level in ("debug", "info", "warn", "error"):
            self.assertTrue(Levels(level, {}).allows("audit", Severity.INFO), level)
        self.assertFalse(Levels("info", {"audit": "error"}).allows("audit", Severity.INFO))
        self.assertEqual(Levels("error", {}).lowest, Severity.ERROR)

    def test_lowest(self) -> None:
        """The lowest level of any component is what libraries must deliver."""
        self.assertEqual(Levels("warn", {"web": "debug"}).lowest, Severity.DEBUG)
        self.assertEqual(Levels("warn", {"web": "error"}).lowest, Severity.WARN)

    def test_many_components(self) -> None:
        """However many components there are, the answers stay right and what is remembered bounded."""
        levels = Levels("info", {"a": "debug"})
        for number in range(3000):
            levels.allows(f"library.{number}", Severity.DEBUG)
        self.assertTrue(levels.allows("a.b", Severity.DEBUG))
        self.assertFalse(levels.allows("library.1", Severity.DEBUG))
        self.assertLess(len(levels._cache), 1500)

    def test_wrong_level(self) -> None:
        """A wrong level is refused, also one of a single component."""
        self.assertRaises(ValueError, Levels, "loud", {})
        self.assertRaises(ValueError, Levels, "info", {"web": "loud"})
