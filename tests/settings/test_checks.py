"""Tests for L{pipeops_agent.settings.checks}: rules between settings, and what is said at each start."""

from __future__ import annotations

from pipeops_agent.settings import Settings
from tests.settings.case import TOKEN, SettingsCase


class RuleTests(SettingsCase):
    """What is wrong between settings that are each well-formed."""

    def test_token_is_required(self) -> None:
        """Without a token there is one error that says how to give it; it can be waived."""
        expected = "pipeops.token: required; set PIPEOPS_TOKEN, pipeops.token or pipeops.token_file"
        for environ in ({}, {"PIPEOPS_TOKEN": ""}, {"PIPEOPS_TOKEN": " \n"}):
            self.assertEqual(self.problems(environ=environ), [expected])
        self.assertEqual(
            self.problems("pipeops: {token: '', token_file: ''}", {}), [f"{expected} (config.yaml line 1)"]
        )
        self.assertIsNone(self.load(environ={}, token_required=False).settings.pipeops.token)
        self.assertEqual(self.settings("pipeops: {token_file: /t}", {}).pipeops.token_file, "/t")

    def test_one_token(self) -> None:
        """Two tokens are one too many: nobody would know which is used."""
        self.assertEqual(
            self.problems("pipeops:\n  token_file: /t\n"),
            [
                "pipeops.token_file: pipeops.token is set as well; keep one of the two (config.yaml line 2)",
            ],
        )

    def test_one_cluster_token(self) -> None:
        """So are two for the tunnelled API."""
        text = "pipeops:\n  cluster_service_account: control\n  cluster_token_file: /t\n"
        self.assertEqual(
            self.problems(text),
            [
                "pipeops.cluster_token_file: pipeops.cluster_service_account is set too; keep one of the two"
                " (config.yaml line 3)",
            ],
        )

    def test_canary(self) -> None:
        """A canary needs the forward that it is sent through; one that is switched off needs none."""
        text = "tunnel: {canary: {enabled: %s}, forwards: [{name: a, local_addr: 'h:1'}]}"
        self.assertEqual(
            self.problems(text % "true"),
            ["tunnel.canary.forward: 'agent-http' is the name of no configured forward"],
        )
        self.assertFalse(self.settings(text % "false").tunnel.canary.enabled)

    def test_a_broken_token_is_not_a_missing_one(self) -> None:
        """Rules between settings are not asked about settings that have a problem already."""
        self.assertEqual(len(self.problems(environ={"PIPEOPS_TOKEN": "a b"})), 1)
        self.assertEqual(len(self.problems("agent: [", {})), 1)

    def test_plain_http(self) -> None:
        """The token goes unencrypted to this machine only, unless the owner says so."""
        for url in ("http://localhost:1", "http://127.0.0.1", "http://[::1]:9"):
            self.assertEqual(self.load(f"pipeops: {{api_url: '{url}'}}").cautions, ())
        for url in ("http://api.pipeops.sh", "http://10.0.0.1", "http://localhost.evil.org"):
            self.assertEqual(
                self.problems(f"pipeops: {{api_url: '{url}'}}"),
                [
                    "pipeops.api_url: http:// is allowed to loopback only; use https://,"
                    " or set pipeops.allow_insecure (config.yaml line 1)"
                ],
            )
            loaded = self.load(f"pipeops: {{api_url: '{url}', allow_insecure: true}}")
            self.assertIn("unencrypted", loaded.cautions[0])

    def test_tls_off(self) -> None:
        """TLS can be off only where the address has none anyway."""
        self.assertEqual(
            self.problems("pipeops:\n  tls: {enabled: no}\n"),
            [
                "pipeops.tls.enabled: false needs a pipeops.api_url that begins with http://"
                " (config.yaml line 2)"
            ],
        )
        self.settings("pipeops: {api_url: 'http://localhost:1', tls: {enabled: no}}")
        self.assertEqual(len(self.problems("pipeops: {api_url: 'http://a', tls: {enabled: no}}")), 1)

    def test_client_certificate(self) -> None:
        """A certificate needs its key, and a key its certificate."""
        for one, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
            self.assertEqual(
                self.problems(f"pipeops: {{tls: {{{one}: /x}}}}"),
                [f"pipeops.tls.{one}: needs pipeops.tls.{other} as well (config.yaml line 1)"],
            )
        self.settings("pipeops: {tls: {cert_file: /c, key_file: /k}}")

    def test_forwards_are_distinct(self) -> None:
        """No two forwards share a name, an alias or a port of the server; unset ports may repeat."""
        text = (
            "tunnel:\n  forwards:\n"
            "    - {name: a, local_addr: 'x:1', remote_port: 8000, aliases: [b]}\n"
            "    - {name: a, local_addr: 'x:2', remote_port: 8000}\n"
            "    - {name: c, local_addr: 'x:3', aliases: [b, c]}\n"
            "    - {name: d, local_addr: 'x:3'}\n"
        )
        self.assertEqual(
            self.problems(text),
            [
                "tunnel.forwards[1].name: 'a' is tunnel.forwards[0].name already (config.yaml line 4)",
                "tunnel.forwards[1].remote_port: 8000 is tunnel.forwards[0].remote_port already"
                " (config.yaml line 4)",
                "tunnel.forwards[2].aliases[0]: 'b' is tunnel.forwards[0].aliases[0] already"
                " (config.yaml line 5)",
                "tunnel.forwards[2].aliases[1]: 'c' is tunnel.forwards[2].name already (config.yaml line 5)",
            ],
        )

    def test_forwards_are_distinct_beside_other_errors(self) -> None:
        """A malformed forward hides neither its own repeated name nor that of others: one look shows all."""
        text = (
            "tunnel:\n  forwards:\n"
            "    - {name: a, local_addr: nowhere, remote_port: 8000}\n"
            "    - {name: b, local_addr: 'x:2', aliases: [a, '']}\n"
            "    - {name: b, local_addr: 'x:3', remote_port: 8000}\n"
            "    - 7\n"
        )
        problems = self.problems(text)
        self.assertEqual(
            problems[-3:],
            [
                "tunnel.forwards[1].aliases[0]: 'a' is tunnel.forwards[0].name already (config.yaml line 4)",
                "tunnel.forwards[2].name: 'b' is tunnel.forwards[1].name already (config.yaml line 5)",
                "tunnel.forwards[2].remote_port: 8000 is tunnel.forwards[0].remote_port already"
                " (config.yaml line 5)",
            ],
        )
        self.assertEqual(
            [problem.partition(":")[0] for problem in problems[:-3]],
            ["tunnel.forwards[0].local_addr", "tunnel.forwards[1].aliases[1]", "tunnel.forwards[3]"],
        )


class AliasTests(SettingsCase):
    """The short names that the default forwards answer to."""

    def test_the_specifications_example(self) -> None:
        """The default forwards written out without aliases answer to the short names all the same."""
        text = (
            "tunnel:\n  forwards:\n"
            "    - {name: kubernetes-api, local_addr: 'localhost:6443', remote_port: 0}\n"
            "    - {name: kubelet-metrics, local_addr: 'localhost:10250', remote_port: 0}\n"
            "    - {name: agent-http, local_addr: 'localhost:8080', remote_port: 0}\n"
        )
        self.assertEqual(self.settings(text).tunnel.forwards, Settings().tunnel.forwards)

    def test_claimed_alias(self) -> None:
        """A short name that another forward has is that forward's."""
        text = (
            "tunnel:\n  forwards:\n"
            "    - {name: kubernetes-api, local_addr: 'a:1'}\n"
            "    - {name: x, local_addr: 'b:1', aliases: [k8s-api]}\n"
            "    - {name: kubelet-metrics, local_addr: 'c:1', aliases: [mine]}\n"
        )
        forwards = self.settings(text).tunnel.forwards
        self.assertEqual([forward.aliases for forward in forwards], [(), ("k8s-api",), ("mine",)])


class CautionTests(SettingsCase):
    """What is said loudly at each start."""

    def test_insecure(self) -> None:
        """Each switch that takes protection away is named."""
        loaded = self.load("pipeops: {tls: {insecure_skip_verify: yes}}\ntunnel: {allow_insecure: yes}")
        self.assertEqual(
            [sentence.split(":")[0] for sentence in loaded.cautions],
            ["pipeops.tls.insecure_skip_verify", "tunnel.allow_insecure"],
        )

    def test_owners_switch(self) -> None:
        """It is said that C{access} is no lock on what goes through the tunnel."""
        for text in ("access: {read_only: yes}", "access: {deny: {kinds: [Secret]}}"):
            (caution,) = self.load(text).cautions
            self.assertIn("does not look into what the tunnel forwards", caution)
        self.assertEqual(self.load("access: {read_only: no}").cautions, ())

    def test_unknown_component(self) -> None:
        """A level for a component that there is not is named, with the one that was probably meant."""
        text = "logging: {levels: {tunel: debug, tunnel.session: debug, twisted: warn, everything: error}}"
        typing, inventing = self.load(text).cautions
        self.assertEqual(typing, "logging.levels.tunel: no component has this name; did you mean tunnel?")
        self.assertRegex(inventing, r"^logging\.levels\.everything: .*; there are access, agent, .*, web$")

    def test_unread_variables(self) -> None:
        """A mistyped variable is named with the one that was meant; what Kubernetes sets is not."""
        environ = {
            "PIPEOPS_TOKEN": TOKEN,
            "PIPEOPS_SERVER_PORT": "1",
            "PIPEOPS_CLUSTERNAME": "x",
            "PIPEOPS_AGENT_SERVICE_HOST": "10.0.0.1",
            "PIPEOPS_AGENT_PORT_8080_TCP_ADDR": "10.0.0.1",
        }
        self.assertEqual(
            self.load(environ=environ).cautions,
            (
                "variable PIPEOPS_CLUSTERNAME is not read; did you mean PIPEOPS_CLUSTER_NAME?",
                "variable PIPEOPS_SERVER_PORT is not read; did you mean PIPEOPS_PORT?",
            ),
        )
