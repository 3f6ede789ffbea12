"""Tests for L{pipeops_agent.settings.definitions}: the table itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.settings import Settings
from pipeops_agent.settings.definitions import DEFINITIONS, ROOT, value_at, variable_by_rule
from pipeops_agent.settings.expansion import Variables
from pipeops_agent.settings.kinds import OptionalDuration, ScalarKind, Scope, SecretText
from pipeops_agent.settings.nodes import Scalar
from pipeops_agent.settings.problems import DEFAULT

_SPECIFIED = {
    "agent.cluster_name": "PIPEOPS_CLUSTER_NAME",
    "agent.id": "PIPEOPS_AGENT_ID",
    "agent.node_name": "PIPEOPS_NODE_NAME",
    "agent.pod_name": "PIPEOPS_POD_NAME",
    "agent.pod_namespace": "PIPEOPS_POD_NAMESPACE",
    "logging.level": "PIPEOPS_LOG_LEVEL",
    "pipeops.api_url": "PIPEOPS_API_URL",
    "pipeops.token": "PIPEOPS_TOKEN",
    "server.enable_sse": "PIPEOPS_ENABLE_SSE",
    "server.enable_websocket": "PIPEOPS_ENABLE_WEBSOCKET",
    "server.port": "PIPEOPS_PORT",
}
_LIVE = {
    "realtime.max_connections",
    "realtime.origins",
    "access.deny.kinds",
    "access.deny.namespaces",
    "access.deny.verbs",
    "access.read_only",
    "agent.labels",
    "logging.level",
    "logging.levels",
    "pipeops.proxy",
    "pipeops.token",
    "pipeops.token_file",
    "server.allow_plaintext_tokens",
    "server.protect_metrics",
    "server.session_idle_timeout",
    "server.session_lifetime",
    "server.tokens",
    "tunnel.forwards",
    *(
        f"server.limits.{whose}.{what}"
        for whose in ("client", "tunnel", "total")
        for what in ("requests", "connections", "subscriptions", "commands", "log_streams")
        if whose != "total" or what not in ("connections", "subscriptions")
    ),
}


class DefinitionTests(SynchronousTestCase):
    """Names, defaults and texts."""

    def test_variables(self) -> None:
        """The eleven keep their names, the others have theirs by rule, and no two share one."""
        for path, definition in DEFINITIONS.items():
            self.assertEqual(definition.variable, _SPECIFIED.get(path) or variable_by_rule(path))
        counts = Counter(definition.variable for definition in DEFINITIONS.values())
        self.assertEqual([name for name, count in counts.items() if count > 1], [])

    def test_rule(self) -> None:
        """C{PIPEOPS_}, capitals, dots as underscores, and C{pipeops.} dropped."""
        self.assertEqual(variable_by_rule("pipeops.tls.ca_file"), "PIPEOPS_TLS_CA_FILE")
        self.assertEqual(variable_by_rule("tunnel.ping_interval"), "PIPEOPS_TUNNEL_PING_INTERVAL")

    def test_options(self) -> None:
        """Options are unique, and no secret has one: it would show in C{ps}."""
        options = [each.option for each in DEFINITIONS.values() if each.option]
        self.assertEqual(len(options), len(set(options)))
        self.assertEqual([each.path for each in DEFINITIONS.values() if each.option and each.kind.secret], [])
        self.assertTrue(DEFINITIONS["pipeops.token"].kind.secret)

    def test_live(self) -> None:
        """Exactly these can change in a running agent."""
        self.assertEqual({path for path, each in DEFINITIONS.items() if each.about.live}, _LIVE)

    def test_every_field_is_described(self) -> None:
        """Every field of every section is a section or a setting with a sentence about it."""
        for section in ROOT.sections():
            self.assertTrue(section.text.endswith("."), section.path)
            self.assertEqual(
                list(section.members), [info.name for info in msgspec.structs.fields(section.struct)]
            )
        for definition in DEFINITIONS.values():
            self.assertTrue(definition.about.text.endswith("."), definition.path)
            self.assertTrue(definition.kind.label, definition.path)

    def test_defaults(self) -> None:
        """The table's defaults are those of the structs."""
        settings = ROOT.build({})
        self.assertEqual(settings, Settings())
        assert isinstance(settings, Settings)
        for path, definition in DEFINITIONS.items():
            self.assertEqual(value_at(settings, path), definition.default)

    def test_kinds_fit_their_defaults(self) -> None:
        """Every default, written out, is read as itself: so kind and type agree, and bounds hold."""
        scope = Scope(Variables({}), Path("/"))
        for path, definition in DEFINITIONS.items():
            kind = definition.kind
            if not isinstance(kind, ScalarKind) or isinstance(kind, SecretText | OptionalDuration):
                continue
            node = Scalar(kind.show(definition.default), DEFAULT)
            self.assertEqual(kind.read(node, path, scope), definition.default, path)

    def test_build(self) -> None:
        """Values by path make a struct that holds them, and nothing else."""
        settings = ROOT.build({"pipeops.tls.ca_file": "/ca", "server.port": 1})
        assert isinstance(settings, Settings)
        self.assertEqual((settings.pipeops.tls.ca_file, settings.server.port), ("/ca", 1))
        self.assertEqual(settings.tunnel, Settings().tunnel)
