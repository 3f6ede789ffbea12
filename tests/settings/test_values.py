"""Tests for what each kind of setting accepts, through the settings that are of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.settings.addresses import is_loopback, split_host_port
from tests.settings.case import TOKEN, SettingsCase

LONG = "x" * 300


class TextTests(SettingsCase):
    """Texts and names."""

    def test_text(self) -> None:
        """Printable text of any alphabet is kept as it is."""
        settings = self.settings("agent: {cluster_name: 'Büro 1, links', labels: {'a.b/c': ''}}")
        self.assertEqual(settings.agent.cluster_name, "Büro 1, links")
        self.assertEqual(settings.agent.labels, {"a.b/c": ""})

    def test_control_characters(self) -> None:
        """Line breaks, escapes and bytes that are no text can't get into a log or a header."""
        for bad in ("a\nb", "a\rb", "\x1b[31m", "\udcff", "a\u2028b"):
            self.assertEqual(
                self.problems(environ={"PIPEOPS_TOKEN": TOKEN, "PIPEOPS_CLUSTER_NAME": bad}),
                [
                    "agent.cluster_name: line breaks and control characters are not allowed"
                    " (variable PIPEOPS_CLUSTER_NAME)"
                ],
            )

    def test_empty(self) -> None:
        """What must be there can't be emptied."""
        for key in ("name", "cluster_name", "region", "cloud_provider"):
            for value in ("''", "'  '"):
                self.assertEqual(
                    self.problems(f"agent: {{{key}: {value}}}"),
                    [f"agent.{key}: must not be empty (config.yaml line 1)"],
                )

    def test_too_long(self) -> None:
        """A name has an end."""
        self.assertIn("longer than 253 characters", self.problems(f"agent: {{cluster_name: {LONG}}}")[0])

    def test_name(self) -> None:
        """An id stands in URLs and names of files, so it holds nothing that means something there."""
        self.assertEqual(self.settings("agent: {id: agent-h.1_x}").agent.id, "agent-h.1_x")
        for bad in ("a b", "../x", "a/b", "-a", "ü", LONG):
            self.assertIn("agent.id: expected a name", self.problems(f"agent: {{id: '{bad}'}}")[0])

    def test_path(self) -> None:
        """A path is kept, but for a leading C{~/}."""
        settings = self.settings("agent: {state_file: ~/state}\nkubernetes: {kubeconfig: a/../~b}")
        self.assertEqual(settings.agent.state_file, str(self.home / "state"))
        self.assertEqual(settings.kubernetes.kubeconfig, "a/../~b")


class NumberTests(SettingsCase):
    """Integers, durations and truth."""

    def test_port(self) -> None:
        """Ports are 0 to 65535 in plain decimal."""
        for good in (0, 1, 65535):
            self.assertEqual(self.settings(f"server: {{port: {good}}}").server.port, good)
            self.assertEqual(self.settings(f"server: {{port: '{good}'}}").server.port, good)
        for bad in ("65536", "-1", "08080", "0x50", "8e3", "8_080", "80.0", "+80", "\u0668\u0660", ".nan",
                    ".inf", "yes", "9" * 5000):  # fmt: skip
            line = self.problems(f"server: {{port: {bad}}}")[0]
            self.assertTrue(line.startswith("server.port: expected an integer from 0 to 65535, got '"), line)
            self.assertTrue(len(line) < 160, line)

    def test_service_link(self) -> None:
        """The variable that Kubernetes sets for a Service called "pipeops" is explained."""
        lines = self.problems(environ={"PIPEOPS_TOKEN": TOKEN, "PIPEOPS_PORT": "tcp://10.0.0.1:80"})
        self.assertIn("enableServiceLinks: false", lines[0])
        self.assertIn("(variable PIPEOPS_PORT)", lines[0])

    def test_duration(self) -> None:
        """Durations are seconds, with units, and not below what makes sense."""
        self.assertEqual(self.settings("pipeops: {timeout: 1m30s}").pipeops.timeout, 90.0)
        for bad, reason in {
            "30": "a duration needs a unit, such as 30s, got '30'",
            "-5s": "a duration can't be negative, got '-5s'",
            ".nan": "expected a duration such as 1m30s or 500ms, got '.nan'",
            ".inf": "expected a duration such as 1m30s or 500ms, got '.inf'",
            "0": "must be at least 1ms, got '0'",
            "''": "expected a duration such as 1m30s or 500ms, got ''",
        }.items():
            self.assertEqual(
                self.problems(f"pipeops: {{timeout: {bad}}}"),
                [f"pipeops.timeout: {reason} (config.yaml line 1)"],
            )

    def test_zero_where_it_means_something(self) -> None:
        """No inactivity, no retrying: 0 is allowed there."""
        settings = self.settings("tunnel: {inactivity_timeout: 0}\npipeops: {registration: {retry_for: 0s}}")
        self.assertEqual(
            (settings.tunnel.inactivity_timeout, settings.pipeops.registration.retry_for), (0, 0)
        )

    def test_no_busy_loop(self) -> None:
        """Intervals can't be so short that they are none."""
        for path in (
            "agent: {poll_interval: %s}",
            "tunnel: {poll_interval: %s}",
            "tunnel: {ping_interval: %s}",
        ):
            self.assertIn("must be at least 100ms", self.problems(path % "1ms")[0])

    def test_boolean(self) -> None:
        """All words for yes and no, and no others."""
        for word, value in {"true": True, "Yes": True, "ON": True, "1": True, "no": False, "off": False,
                            "0": False, "False": False}.items():  # fmt: skip
            self.assertIs(self.settings(f"server: {{enable_sse: {word}}}").server.enable_sse, value)
        self.assertEqual(
            self.problems("server: {enable_sse: 2}"),
            ["server.enable_sse: expected true or false, got '2' (config.yaml line 1)"],
        )

    def test_choice(self) -> None:
        """One of the words, in any case; "warning" is "warn"."""
        self.assertEqual(self.settings("logging: {level: WARNING}").logging.level, "warn")
        self.assertEqual(
            self.settings("logging: {levels: {tunnel: Debug}}").logging.levels, {"tunnel": "debug"}
        )
        self.assertEqual(self.settings("pipeops: {tls: {min_version: 1.2}}").pipeops.tls.min_version, "1.2")
        self.assertEqual(
            self.problems("logging: {level: loud, format: xml}\npipeops: {tls: {min_version: 1.1}}"),
            [
                "pipeops.tls.min_version: expected 1.2 or 1.3, got '1.1' (config.yaml line 2)",
                "logging.level: expected debug or info or warn or error, got 'loud' (config.yaml line 1)",
                "logging.format: expected json or text, got 'xml' (config.yaml line 1)",
            ],
        )


class AddressTests(SettingsCase):
    """Hosts, ports, URLs and paths."""

    def forward(self, address: str) -> str:
        """The error of a forward to C{address}."""
        return self.problems(f"tunnel: {{forwards: [{{name: a, local_addr: '{address}'}}]}}")[0]

    def test_host_port(self) -> None:
        """C{host:port}, where IPv6 stands in brackets; C{target} is its parts."""
        for text, target in {
            "localhost:6443": ("localhost", 6443),
            "10.0.0.1:1": ("10.0.0.1", 1),
            "[::1]:6443": ("::1", 6443),
            "[fe80::1%eth0]:65535": ("fe80::1%eth0", 65535),
            "my_db.shop.svc.cluster.local:5432": ("my_db.shop.svc.cluster.local", 5432),
            "a.:1": ("a.", 1),
        }.items():
            settings = self.settings(f"tunnel: {{forwards: [{{name: a, local_addr: '{text}'}}]}}")
            self.assertEqual(settings.tunnel.forwards[0].target, target)

    def test_no_port(self) -> None:
        """The error is the one that the documentation shows, place and all."""
        lines = self.problems(
            "# one\n# two\ntunnel:\n  forwards:\n    - name: a\n      local_addr: a:1\n"
            "    - name: b\n      local_addr: localhost\n"
        )
        self.assertEqual(
            lines,
            ["tunnel.forwards[1].local_addr: expected host:port, got 'localhost' (config.yaml line 8)"],
        )

    def test_not_host_port(self) -> None:
        """Everything that would be dialled wrongly is refused."""
        for bad in ("", ":6443", "localhost:", "localhost:0", "localhost:65536", "localhost:06443",
                    "localhost:http", "local host:1", "http://localhost:1", "a..b:1", "-a:1", "256.0.0.1:1",
                    "1.2.3:1", "[::1]", "[10.0.0.1]:1", "[::g]:1", "a:1:2", "a:1/udp",
                    "ü:1", f"{LONG}:1"):  # fmt: skip
            self.assertIn("tunnel.forwards[0].local_addr: expected host:port", self.forward(bad))

    def test_bare_ipv6(self) -> None:
        """An IPv6 address without brackets is told about brackets."""
        for bad in ("::1:6443", "fd00::1:6443", "::1"):
            self.assertIn("in brackets ([::1]:6443)", self.forward(bad))

    def test_bind(self) -> None:
        """An address to listen on is an IP address, in brackets or not."""
        for text, value in {"'::'": "::", "'[::1]'": "::1", "0.0.0.0": "0.0.0.0"}.items():
            self.assertEqual(self.settings(f"server: {{bind: {text}}}").server.bind, value)
        for bad in ("localhost", "'*'", "''", "127.0.0.1:8080"):
            self.assertIn("server.bind: expected an IP address", self.problems(f"server: {{bind: {bad}}}")[0])

    def test_allowed_servers(self) -> None:
        """Hosts, with a port or not, and whole domains."""
        good = "[tunnel.example.org, 'a:443', '*.Example.org', '[::1]', '[::1]:443', 10.0.0.1]"
        self.assertEqual(
            self.settings(f"tunnel: {{allowed_servers: {good}}}").tunnel.allowed_servers,
            ("tunnel.example.org", "a:443", "*.example.org", "[::1]", "[::1]:443", "10.0.0.1"),
        )
        for bad in ("'*'", "'*.'", "'a.*.b'", "'**.a'", "https://a", "a/b", "'::1'", "'a:0'",
                    "'*.a:443'", "'*.10.0.0.1'", "''"):  # fmt: skip
            lines = self.problems(f"tunnel: {{allowed_servers: [{bad}]}}")
            self.assertTrue(lines[0].startswith("tunnel.allowed_servers[0]: expected"), (bad, lines))

    def test_url(self) -> None:
        """The control plane's address is brought into one form."""
        for text, value in {
            "https://api.pipeops.sh": "https://api.pipeops.sh",
            "HTTPS://API.pipeops.SH/": "https://api.pipeops.sh",
            "https://a:8443/base/": "https://a:8443/base",
            "https://[::1]:8443": "https://[::1]:8443",
            "http://127.0.0.1:9000": "http://127.0.0.1:9000",
        }.items():
            self.assertEqual(self.settings(f"pipeops: {{api_url: '{text}'}}").pipeops.api_url, value)

    def test_bad_url(self) -> None:
        """What is no such address is refused."""
        for bad in ("", "api.pipeops.sh", "ftp://a", "https://", "https:///x", "https://a:0", "https://a:70000",
                    "https://a:", "https://a:x", "https://[::1", "https://a b", "https://a\\b", "https://ü",
                    "https://a..b", "//a", "https://256.1.1.1"):  # fmt: skip
            lines = self.problems(options={"api-url": bad})
            self.assertEqual(len(lines), 1)
            self.assertTrue(lines[0].startswith("pipeops.api_url: "), lines)
            self.assertTrue(lines[0].endswith("(option --api-url)"), lines)

    def test_port_url(self) -> None:
        """Where ports are reached: a URL with two placeholders, and no others."""
        for text in ("http://{host}:{port}", "https://{port}.ports.example", "https://gate.example/p/{port}"):
            settings = self.settings(f"tunnel: {{canary: {{url: '{text}/'}}}}")
            self.assertEqual(settings.tunnel.canary.url, text)
        for bad in ("http://{host}:{port}:1", "{host}", "http://{server}", "http://{host", "http://{host.x}",
                    "http://me@{host}", "http://{host}/?{port}"):  # fmt: skip
            lines = self.problems(f"tunnel: {{canary: {{url: '{bad}'}}}}")
            self.assertEqual(len(lines), 1, bad)
            self.assertTrue(lines[0].startswith("tunnel.canary.url: "), lines)

    def test_url_with_secrets(self) -> None:
        """A user, a password or a query is refused and not repeated."""
        for bad in (f"https://u:{TOKEN}@a", f"https://{TOKEN}@a", f"https://a?t={TOKEN}", f"https://a/#{TOKEN}",
                    f"ftp://u:{TOKEN}@a", f"https://u:{TOKEN}@a:x", f"u:{TOKEN}@a"):  # fmt: skip
            lines = self.problems(environ={"PIPEOPS_TOKEN": "x", "PIPEOPS_API_URL": bad})
            self.assertEqual(len(lines), 1, lines)
            self.assertNotIn(TOKEN, lines[0])

    def test_endpoints(self) -> None:
        """Paths begin with one slash and hold only placeholders that the call can fill."""
        text = "pipeops: {endpoints: {tunnel_status: '/api/agents/{agent_id}/tunnel/status'}}"
        self.assertEqual(
            self.settings(text).pipeops.endpoints.tunnel_status, "/api/agents/{agent_id}/tunnel/status"
        )
        for bad in ("api", "", "//a/b", "https://a", "/a b", "/a#b", "/{", "/}", "/{x}", "/{agent_id!r}",
                    "/{agent_id:9}", "/{}", "/{0}", "/{agent_id.x}", "/ü"):  # fmt: skip
            text = f"pipeops: {{endpoints: {{heartbeat: '{bad}'}}}}"
            self.assertTrue(self.problems(text)[0].startswith("pipeops.endpoints.heartbeat: "), bad)
        self.assertIn("{agent_id}", self.problems("pipeops: {endpoints: {register: '/{cluster_id}'}}")[0])
        self.assertIn("none", self.problems("pipeops: {endpoints: {health: '/{agent_id}'}}")[0])


class HostTests(SynchronousTestCase):
    """The functions that other rooms use too."""

    def test_loopback(self) -> None:
        """This machine under all its names, and nothing that only looks like it."""
        for host in ("localhost", "LOCALHOST", "localhost.", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"):
            self.assertTrue(is_loopback(host), host)
        for host in (
            "",
            "localhost.evil.org",
            "10.0.0.1",
            "::",
            "0.0.0.0",
            "notlocalhost",
            "127.0.0.1.evil.org",
        ):
            self.assertFalse(is_loopback(host), host)

    @given(st.text(max_size=30), st.integers())
    @hypothesis_settings(deadline=None)
    def test_any_text(self, host: str, port: int) -> None:
        """Whatever comes is two parts that can be dialled, or a ValueError."""
        try:
            parts = split_host_port(f"{host}:{port}")
        except ValueError:
            return
        self.assertEqual(parts[1], port)
        self.assertTrue(parts[0] and 1 <= port <= 65535)


class SecretTests(SettingsCase):
    """Tokens."""

    def test_white_space_around(self) -> None:
        """A line break at a token's end, as files and commands leave it, is no part of it."""
        for text in (f" {TOKEN}\n", f"{TOKEN}\r\n", f"\t{TOKEN}"):
            token = self.settings(environ={"PIPEOPS_TOKEN": text}).pipeops.token
            assert token is not None
            self.assertEqual(token.reveal(), TOKEN)

    def test_impossible_in_a_header(self) -> None:
        """A token with a space, a line break or an umlaut inside is refused and not repeated."""
        for text in (f"{TOKEN} x", f"{TOKEN}\nX-Other: 1", f"{TOKEN}ü", f"{TOKEN}\x00", f"{TOKEN}\udcff"):
            lines = self.problems(environ={"PIPEOPS_TOKEN": text})
            self.assertTrue(lines[0].startswith("pipeops.token: holds a space"), lines)
            self.assertNotIn(TOKEN, "\n".join(lines))

    def test_wrong_shapes(self) -> None:
        """A token where a list, a mapping or another setting was expected is never repeated."""
        for text in (
            f"pipeops: {TOKEN}", f"pipeops: [{TOKEN}]", f"pipeops: {{token: [{TOKEN}]}}", f"token: {TOKEN}",
            f"pipeops: {{token: {{a: {TOKEN}}}}}", f"pipeops: {{tls: {TOKEN}}}",
            f"pipeops: {{tokn: {TOKEN}}}", f"tunnel: {{forwards: {TOKEN}}}",
            f"tunnel: {{forwards: [{TOKEN}]}}", TOKEN, f"agent: {{labels: {TOKEN}}}",
            f"pipeops: {{token: 'x {TOKEN}'}}", f"pipeops: {{token: '${{{TOKEN}'}}",
            f"pipeops:\n  token: |\n   a\n   {TOKEN}",
        ):  # fmt: skip
            self.assertNotIn(TOKEN, "\n".join(self.problems(text, {})), text)
