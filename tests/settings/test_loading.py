"""Tests for L{pipeops_agent.settings.loading}: which source wins, and all errors at once."""

from __future__ import annotations

from pipeops_agent.errors import ExitStatus
from pipeops_agent.secrets import Secret
from pipeops_agent.settings import Forward, Settings, SettingsError
from tests.settings.case import TOKEN, SettingsCase

_ELEVEN = {
    "PIPEOPS_API_URL": ("https://x.example", "pipeops", "api_url", "https://x.example"),
    "PIPEOPS_TOKEN": (TOKEN, "pipeops", "token", Secret(TOKEN)),
    "PIPEOPS_CLUSTER_NAME": ("c", "agent", "cluster_name", "c"),
    "PIPEOPS_AGENT_ID": ("i", "agent", "id", "i"),
    "PIPEOPS_NODE_NAME": ("n", "agent", "node_name", "n"),
    "PIPEOPS_POD_NAME": ("p", "agent", "pod_name", "p"),
    "PIPEOPS_POD_NAMESPACE": ("ns", "agent", "pod_namespace", "ns"),
    "PIPEOPS_LOG_LEVEL": ("debug", "logging", "level", "debug"),
    "PIPEOPS_PORT": ("81", "server", "port", 81),
    "PIPEOPS_ENABLE_WEBSOCKET": ("false", "server", "enable_websocket", False),
    "PIPEOPS_ENABLE_SSE": ("false", "server", "enable_sse", False),
}


class SourceTests(SettingsCase):
    """Option over environment over file over default."""

    def test_defaults(self) -> None:
        """With nothing but a token everything has its default."""
        loaded = self.load()
        self.assertEqual(loaded.settings.pipeops.token, Secret(TOKEN))
        self.assertEqual(
            (loaded.settings.tunnel, loaded.settings.agent), (Settings().tunnel, Settings().agent)
        )
        self.assertEqual(str(loaded.origins["server.port"]), "default")
        self.assertEqual((loaded.ignored, loaded.cautions), ((), ()))

    def test_precedence(self) -> None:
        """Each source wins over those below it, and the origin says which it was."""
        text = "server:\n  port: 1\n"
        environ = {"PIPEOPS_TOKEN": TOKEN, "PIPEOPS_PORT": "2"}
        for expected, origin, arguments in (
            (1, "config.yaml line 2", {}),
            (2, "variable PIPEOPS_PORT", {"environ": environ}),
            (3, "option --port", {"environ": environ, "options": {"port": "3"}}),
        ):
            loaded = self.load(text, **arguments)
            self.assertEqual(loaded.settings.server.port, expected)
            self.assertEqual(str(loaded.origins["server.port"]), origin)

    def test_hidden_values_are_not_looked_at(self) -> None:
        """A broken value can be overruled without touching the file."""
        settings = self.settings("server: {port: '${UNSET}'}", options={"port": "3"})
        self.assertEqual(settings.server.port, 3)

    def test_the_eleven_variables(self) -> None:
        """The specification's variables have their names and their settings."""
        settings = self.settings(environ={name: text for name, (text, *_) in _ELEVEN.items()})
        for name, (_, section, key, value) in _ELEVEN.items():
            self.assertEqual(getattr(getattr(settings, section), key), value, name)

    def test_variables_by_rule(self) -> None:
        """Every other setting has one by rule; its section is left out where that is C{pipeops}."""
        settings = self.settings(
            environ={
                "PIPEOPS_TOKEN": TOKEN,
                "PIPEOPS_TUNNEL_PING_INTERVAL": "20s",
                "PIPEOPS_TLS_CA_FILE": "/ca",
                "PIPEOPS_ACCESS_DENY_VERBS": "delete, exec",
                "PIPEOPS_RECONNECT_MAX_ATTEMPTS": "0",
            }
        )
        self.assertEqual(settings.tunnel.ping_interval, 20.0)
        self.assertEqual(settings.pipeops.tls.ca_file, "/ca")
        self.assertEqual(settings.access.deny.verbs, ("delete", "exec"))
        self.assertEqual(settings.pipeops.reconnect.max_attempts, 0)

    def test_empty_variable(self) -> None:
        """An empty variable is as good as none: compose files and pods set those."""
        loaded = self.load(
            "server: {port: 1}", {"PIPEOPS_TOKEN": TOKEN, "PIPEOPS_PORT": "", "PIPEOPS_LOG_LEVEL": " "}
        )
        self.assertEqual((loaded.settings.server.port, loaded.settings.logging.level), (1, "info"))

    def test_empty_option(self) -> None:
        """An empty option was given, and is judged."""
        self.assertEqual(
            self.problems(options={"port": ""}),
            ["server.port: expected an integer from 0 to 65535, got '' (option --port)"],
        )

    def test_key_without_value(self) -> None:
        """A key without a value is not set, an empty text is."""
        settings = self.settings("agent:\n  name:\n  id: ''\n  labels: ~\n")
        self.assertEqual((settings.agent.name, settings.agent.id), ("pipeops-agent", ""))

    def test_other_options(self) -> None:
        """Options that are no settings are left alone."""
        self.load(options={"sandbox": None, "status": "1"})

    def test_lists_and_mappings_in_variables(self) -> None:
        """Both short forms and YAML in brackets are read; the origin is the variable."""
        for labels in ("a=1, b=x=y", "{a: 1, b: 'x=y'}", '{"a": "1", "b": "x=y"}'):
            loaded = self.load(environ={"PIPEOPS_TOKEN": TOKEN, "PIPEOPS_AGENT_LABELS": labels})
            self.assertEqual(loaded.settings.agent.labels, {"a": "1", "b": "x=y"})
            self.assertEqual(str(loaded.origins["agent.labels.b"]), "variable PIPEOPS_AGENT_LABELS")
        for servers in ("a,b:1", "[a, 'b:1']"):
            settings = self.settings(
                environ={"PIPEOPS_TOKEN": TOKEN, "PIPEOPS_TUNNEL_ALLOWED_SERVERS": servers}
            )
            self.assertEqual(settings.tunnel.allowed_servers, ("a", "b:1"))
        forwards = '[{name: db, local_addr: "localhost:5432"}]'
        settings = self.settings(environ={"PIPEOPS_TOKEN": TOKEN, "PIPEOPS_TUNNEL_FORWARDS": forwards})
        self.assertEqual(settings.tunnel.forwards, (Forward(name="db", local_addr="localhost:5432"),))

    def test_bad_lists_in_variables(self) -> None:
        """Errors in them name the variable, and the element where there is one."""
        for name, text, expected in (
            ("PIPEOPS_AGENT_LABELS", "a", "agent.labels: expected name=value,name=value or {name: value}"),
            ("PIPEOPS_AGENT_LABELS", "a=1,a=2", "agent.labels.a: duplicate key"),
            ("PIPEOPS_AGENT_LABELS", "[a]", "agent.labels: expected a mapping, got a list"),
            (
                "PIPEOPS_TUNNEL_FORWARDS",
                "a",
                "tunnel.forwards[0]: expected a mapping of forward settings, got a text",
            ),
            ("PIPEOPS_TUNNEL_FORWARDS", "{a: b}", "tunnel.forwards: expected a list, got a mapping"),
            ("PIPEOPS_TUNNEL_FORWARDS", "[{name: a}]", "tunnel.forwards[0].local_addr: required"),
        ):
            lines = self.problems(environ={"PIPEOPS_TOKEN": TOKEN, name: text})
            self.assertEqual(lines, [f"{expected} (variable {name})"])
        lines = self.problems(environ={"PIPEOPS_TOKEN": TOKEN, "PIPEOPS_TUNNEL_FORWARDS": "[{"})
        self.assertIn("PIPEOPS_TUNNEL_FORWARDS: not valid YAML", lines[0])
        self.assertTrue(lines[0].endswith("(variable PIPEOPS_TUNNEL_FORWARDS)"), lines)

    def test_poll_interval(self) -> None:
        """The tunnel's poll follows the heartbeat's interval, unless it has its own."""
        self.assertEqual(self.settings("agent: {poll_interval: 7s}").tunnel_poll_interval, 7.0)
        self.assertEqual(
            self.settings("agent: {poll_interval: 7s}\ntunnel: {poll_interval: 9s}").tunnel_poll_interval, 9.0
        )

    def test_nothing_shows_the_token(self) -> None:
        """However the result is written out, the token is not in it."""
        loaded = self.load(f"pipeops: {{token: {TOKEN}}}", {})
        self.assertNotIn(TOKEN, f"{loaded} {loaded!r} {loaded.settings} {loaded.origins}")


class ErrorTests(SettingsCase):
    """What is wrong, where, and all of it."""

    def test_all_at_once(self) -> None:
        """Every problem of every source is in one error, which ends the process with 78."""
        self.write(
            "agent:\n  poll_intervall: 5s\n  labels: [a]\nserver:\n  port: 99999\n"
            "tunnel:\n  forwards:\n    - name: a\n      local_addr: localhost\n"
            "    - local_addr: b:1\n      nam: x\n"
        )
        error = self.assertRaises(
            SettingsError,
            self.load,
            environ={"PIPEOPS_LOG_LEVEL": "loud"},
            options={"poll-interval": "5"},
        )
        self.assertEqual(
            sorted(str(error).split("\n")),
            [
                "agent.labels: expected a mapping, got a list (config.yaml line 3)",
                "agent.poll_interval: a duration needs a unit, such as 5s, got '5' (option --poll-interval)",
                "agent.poll_intervall: unknown key; did you mean poll_interval? (config.yaml line 2)",
                "logging.level: expected debug or info or warn or error, got 'loud'"
                " (variable PIPEOPS_LOG_LEVEL)",
                "pipeops.token: required; set PIPEOPS_TOKEN, pipeops.token or pipeops.token_file",
                "server.port: expected an integer from 0 to 65535, got '99999' (config.yaml line 5)",
                "tunnel.forwards[0].local_addr: expected host:port, got 'localhost' (config.yaml line 9)",
                "tunnel.forwards[1].nam: unknown key; did you mean name? (config.yaml line 11)",
                "tunnel.forwards[1].name: required (config.yaml line 10)",
            ],
        )
        self.assertEqual(error.status, ExitStatus.CONFIG)
        self.assertEqual(len(error.problems), 9)

    def test_unknown_keys(self) -> None:
        """An unknown key names its neighbour, or where the setting of that name is, or nothing."""
        for text, expected in {
            "agnet: {}": "agnet: unknown key; did you mean agent?",
            "agent: {pollInterval: 5s}": "agent.pollInterval: unknown key; did you mean poll_interval?",
            "agent: {cluster-name: x}": "agent.cluster-name: unknown key; did you mean cluster_name?",
            "token: x": "token: unknown key; did you mean pipeops.token?",
            "pipeops: {tls: {cafile: x}}": "pipeops.tls.cafile: unknown key; did you mean ca_file?",
            "zzz: 1": "zzz: unknown key",
            "agent: {'<<': x}": "agent: unknown key (a key that is no name and not repeated)",
        }.items():
            self.assertEqual(self.problems(text), [f"{expected} (config.yaml line 1)"])

    def test_strange_keys(self) -> None:
        """A key that is no name is not repeated: it may be long, tear a line, or be a mistyped token."""
        for text in ('"a\\nfake: error": 1', f"{'x' * 1000}: 1", f"pipeops: {{token:{TOKEN}}}",
                     f"pipeops: {{token:{TOKEN}, token:{TOKEN}}}"):  # fmt: skip
            for line in self.problems(text):
                self.assertIn("key that is no name and not repeated) (config.yaml line 1)", line)
                self.assertNotIn(TOKEN, line)
                self.assertTrue(len(line) < 150)

    def test_sections_are_mappings(self) -> None:
        """A section that is a list or a text is one error."""
        for text, got in {"server: 8080": "a text", "server: [a]": "a list"}.items():
            self.assertEqual(
                self.problems(text),
                [f"server: expected a mapping of settings, got {got} (config.yaml line 1)"],
            )

    def test_scalars_are_texts(self) -> None:
        """A setting of one value is neither a list nor a mapping."""
        self.assertEqual(
            self.problems("server: {port: [1], bind: {a: b}}"),
            [
                "server.port: expected integer, got a list (config.yaml line 1)",
                "server.bind: expected IP address, got a mapping (config.yaml line 1)",
            ],
        )

    def test_too_many(self) -> None:
        """A list has an end."""
        entries = ", ".join(["a"] * 1001)
        self.assertIn("more than 1000 entries", self.problems(f"tunnel: {{allowed_servers: [{entries}]}}")[0])


class ForwardTests(SettingsCase):
    """The forwards' own fields and the names that they answer to."""

    def test_fields(self) -> None:
        """Everything that a forward can have."""
        text = "tunnel: {forwards: [{name: db, local_addr: 'x:1', remote_port: 9, aliases: [pg]}]}"
        self.assertEqual(
            self.settings(text).tunnel.forwards,
            (Forward(name="db", local_addr="x:1", remote_port=9, aliases=("pg",)),),
        )

    def test_none(self) -> None:
        """A tunnel without forwards is a setting like another."""
        self.assertEqual(self.settings("tunnel: {forwards: []}").tunnel.forwards, ())


class SandboxTests(SettingsCase):
    """What a caller can force, and have ignored."""

    def test_overrides(self) -> None:
        """A forced value wins over everything, and says where it is from."""
        loaded = self.load(
            "server: {port: 1}",
            options={"port": "2"},
            overrides={"server.port": 0, "pipeops.token": Secret("s")},
        )
        self.assertEqual(loaded.settings.server.port, 0)
        self.assertEqual(loaded.settings.pipeops.token, Secret("s"))
        self.assertEqual(str(loaded.origins["server.port"]), "sandbox")

    def test_ignore(self) -> None:
        """What is ignored has its default, and every place that gave it is listed."""
        loaded = self.load(
            "pipeops:\n  token: '${UNSET}'\n  api_url: nonsense\nkubernetes: {kubeconfig: /k}\n",
            {"PIPEOPS_TOKEN": TOKEN},
            {"api-url": "x"},
            ignore=frozenset(
                ["pipeops.token", "pipeops.api_url", "kubernetes.kubeconfig", "pipeops.token_file"]
            ),
            token_required=False,
        )
        self.assertEqual(loaded.settings.pipeops, Settings().pipeops)
        self.assertEqual(loaded.settings.kubernetes.kubeconfig, "")
        self.assertEqual(
            [(path, str(origin)) for path, origin in loaded.ignored],
            [
                ("pipeops.api_url", "option --api-url"),
                ("pipeops.api_url", "config.yaml line 3"),
                ("pipeops.token", "variable PIPEOPS_TOKEN"),
                ("pipeops.token", "config.yaml line 2"),
                ("kubernetes.kubeconfig", "config.yaml line 4"),
            ],
        )

    def test_ignored_list(self) -> None:
        """What is ignored is not even parsed."""
        loaded = self.load(
            environ={"PIPEOPS_TOKEN": TOKEN, "PIPEOPS_TUNNEL_FORWARDS": "[{"},
            ignore=frozenset(["tunnel.forwards"]),
        )
        self.assertEqual(len(loaded.ignored), 1)

    def test_no_such_setting(self) -> None:
        """A caller's typing error is an error at once."""
        self.assertRaises(ValueError, self.load, overrides={"server.prt": 1})
        self.assertRaises(ValueError, self.load, ignore=frozenset(["token"]))
