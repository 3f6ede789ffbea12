"""Tests of L{pipeops_agent.cluster.kubeconfig}: files as people have them, and as they break."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import TestCase

from pipeops_agent.cluster.config import ClusterConfig, Credential, Credentials, StaticCredentials
from pipeops_agent.cluster.errors import Misconfigured
from pipeops_agent.cluster.kubeconfig import ExecPlugin, load_kubeconfig
from pipeops_agent.secrets import Secret

TOKEN = "kubeconfig-token-that-nobody-may-see"


def config(*, cluster: Any = None, user: Any = None, context: Any = None, **more: Any) -> dict[str, Any]:
    """A kubeconfig of one context, with parts replaced."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "shop",
        "contexts": [{"name": "shop", "context": context or {"cluster": "shop", "user": "me"}}],
        "clusters": [{"name": "shop", "cluster": cluster or {"server": "https://10.0.0.1:6443"}}],
        "users": [{"name": "me", "user": user or {"token": TOKEN}}],
        **more,
    }


class KubeconfigTests(TestCase):
    """Each test writes files and loads them."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.plugins: list[tuple[ExecPlugin, Path]] = []

    def write(self, content: Any, name: str = "config") -> str:
        path = self.directory / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return str(path)

    def load(self, content: Any, context: str = "") -> ClusterConfig:
        return load_kubeconfig(self.write(content), context, self.plugin)

    def plugin(self, plugin: ExecPlugin, directory: Path) -> Credentials:
        self.plugins.append((plugin, directory))
        return StaticCredentials()

    def refusal(self, content: Any, context: str = "") -> str:
        with self.assertRaises(Misconfigured) as caught:
            self.load(content, context)
        self.assertNotIn(TOKEN, str(caught.exception))
        return str(caught.exception)

    async def test_token(self) -> None:
        """Server, token and namespace of the current context."""
        found = self.load(config(context={"cluster": "shop", "user": "me", "namespace": "web"}))
        self.assertEqual(found.base, "https://10.0.0.1:6443")
        self.assertEqual(found.namespace, "web")
        self.assertEqual(await found.credentials.current(), Credential(token=Secret(TOKEN)))
        self.assertIn("context shop of", found.origin)
        self.assertNotIn(TOKEN, repr(found))

    def test_named_context(self) -> None:
        """Another context than the current one, with the default port and a prefix."""
        content = config()
        content["contexts"].append({"name": "lab", "context": {"cluster": "lab"}})
        content["clusters"].append(
            {"name": "lab", "cluster": {"server": "https://lab.test/k8s/clusters/c-1/"}}
        )
        found = self.load(content, "lab")
        self.assertEqual((found.host, found.port, found.prefix), ("lab.test", 443, "/k8s/clusters/c-1"))

    def test_ipv6(self) -> None:
        """An IPv6 server is bracketed where it is written with its port, and nowhere else."""
        found = self.load(config(cluster={"server": "https://[2001:db8::1]:6443"}))
        self.assertEqual((found.host, found.authority), ("2001:db8::1", "[2001:db8::1]:6443"))

    def test_tls(self) -> None:
        """The CA from a file beside the kubeconfig or from data; the name to verify; data goes first."""
        found = self.load(
            config(
                cluster={
                    "server": "https://h:1",
                    "certificate-authority": "ca.crt",
                    "tls-server-name": "kube",
                }
            )
        )
        assert found.tls is not None
        self.assertEqual(found.tls.ca_file, str(self.directory / "ca.crt"))
        self.assertEqual(found.tls.server_name, "kube")
        data = {"certificate-authority-data": base64.b64encode(b"PEM").decode(), "certificate-authority": "x"}
        tls = self.load(config(cluster={"server": "https://h:1", **data})).tls
        assert tls is not None
        self.assertEqual((tls.ca_data, tls.ca_file), (b"PEM", ""))

    async def test_certificate(self) -> None:
        """A client certificate from data and its key from a file."""
        (self.directory / "me.key").write_text("KEY")
        user = {"client-certificate-data": base64.b64encode(b"CERT").decode(), "client-key": "me.key"}
        found = await self.load(config(user=user)).credentials.current()
        self.assertEqual(found, Credential(certificate=b"CERT", key=Secret("KEY")))

    async def test_token_file(self) -> None:
        """A token in a file is read where it is used, so that it may rotate."""
        (self.directory / "token").write_text("first\n")
        credentials = self.load(config(user={"tokenFile": "token"})).credentials
        self.assertEqual((await credentials.current()).token, Secret("first"))
        (self.directory / "token").write_text("the second\n".replace(" ", "-"))
        self.assertEqual((await credentials.current()).token, Secret("the-second"))

    def test_plugin(self) -> None:
        """A plugin is handed on, with the directory that its command starts from."""
        exec_ = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "./login",
            "args": ["--cluster", "shop"],
            "env": [{"name": "REGION", "value": "eu"}],
            "interactiveMode": "Never",
            "provideClusterInfo": True,
            "installHint": "get it",
        }
        self.load(config(user={"exec": exec_}))
        ((plugin, directory),) = self.plugins
        self.assertEqual((plugin.command, plugin.args), ("./login", ("--cluster", "shop")))
        self.assertEqual(directory, self.directory)

    def test_cluster_info(self) -> None:
        """A plugin that asks for it is told of the cluster; not of the proxy, which may have a password."""
        (self.directory / "ca.crt").write_text("PEM")
        exec_ = {"apiVersion": "client.authentication.k8s.io/v1", "command": "login", "clusterInfo": {"x": 1}}
        extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "shop"}}
        cluster = {
            "server": "https://h:1",
            "tls-server-name": "kube",
            "certificate-authority": "ca.crt",
            "proxy-url": "http://me:secret@proxy:1",
            "extensions": [{"name": "other", "extension": 1}, extension],
        }
        for asked in (True, False):
            self.load(config(cluster=cluster, user={"exec": {**exec_, "provideClusterInfo": asked}}))
        told = {
            "server": "https://h:1",
            "tls-server-name": "kube",
            "certificate-authority-data": base64.b64encode(b"PEM").decode(),
            "config": {"audience": "shop"},
        }
        self.assertEqual([plugin.cluster_info for plugin, _ in self.plugins], [told, None])

    def test_several_files(self) -> None:
        """Of several files the first with an entry counts, and each entry's paths start at its own file."""
        (self.directory / "a").mkdir()
        (self.directory / "b").mkdir()
        first = self.write(
            {
                "contexts": [{"name": "shop", "context": {"cluster": "shop", "user": "me"}}],
                "current-context": "shop",
            },
            "a/config",
        )
        second = self.write(
            config(cluster={"server": "https://h:1", "certificate-authority": "ca.crt"}), "b/config"
        )
        found = load_kubeconfig(f"{first}:{second}", "", self.plugin)
        assert found.tls is not None
        self.assertEqual(found.tls.ca_file, str(self.directory / "b" / "ca.crt"))

    async def test_proxy(self) -> None:
        """The kubeconfig's proxy is kept as a secret: it may hold a password."""
        found = self.load(config(cluster={"server": "https://h:1", "proxy-url": "http://me:pw@proxy:3128"}))
        self.assertEqual(found.proxy, Secret("http://me:pw@proxy:3128"))
        self.assertIsNone(self.load(config()).proxy)

    def test_plain(self) -> None:
        """Without TLS to this machine alone."""
        self.assertIsNone(self.load(config(cluster={"server": "http://127.0.0.1:8001"})).tls)
        self.assertIn("use https", self.refusal(config(cluster={"server": "http://10.0.0.1:8080"})))

    def test_strict(self) -> None:
        """A server that shall not be verified is refused, with the remedy."""
        said = self.refusal(config(cluster={"server": "https://h:1", "insecure-skip-tls-verify": True}))
        self.assertIn("insecure-skip-tls-verify", said)
        self.assertIn("certificate-authority", said)

    def test_missing_parts(self) -> None:
        """Each thing that a context needs, and is not there, is named."""
        self.assertIn("'lab'", self.refusal(config(), "lab"))
        self.assertIn("clusters has no 'x'", self.refusal(config(context={"cluster": "x", "user": "me"})))
        self.assertIn("users has no 'you'", self.refusal(config(context={"cluster": "shop", "user": "you"})))
        self.assertIn("no current-context", self.refusal({**config(), "current-context": ""}))

    def test_what_can_not_be_done(self) -> None:
        """Ways to log in that are gone, or that make no sense."""
        self.assertIn("auth-provider", self.refusal(config(user={"auth-provider": {"name": "oidc"}})))
        self.assertIn("password", self.refusal(config(user={"username": "me", "password": TOKEN})))
        self.assertIn("go together", self.refusal(config(user={"client-key-data": "S0VZ"})))

    def test_wrong_values(self) -> None:
        """A wrong type or form is named with its place, and not quoted where it may be a secret."""
        self.assertIn("$.token", self.refusal(config(user={"token": [TOKEN]})))
        self.assertIn(
            "certificate-authority-data: this is no base64",
            self.refusal(config(cluster={"server": "https://h:1", "certificate-authority-data": "%"})),
        )
        for server in (
            "",
            "h:6443",
            "ftp://h",
            "https://",
            "https://h:x",
            "https://me:pw@h",
            "https://h?x=1",
        ):
            self.assertIn("server: expected", self.refusal(config(cluster={"server": server})))
        missing = {"client-certificate": "no.crt", "client-key": "no.key"}
        self.assertIn("No such file", self.refusal(config(user=missing)))

    def test_no_kubeconfig(self) -> None:
        """Files that are none: empty, not YAML, lists, missing."""
        for content in ("", "- a\n- b\n", "contexts: [", "just text", "contexts: 3\ncurrent-context: x\n"):
            self.assertIn(str(self.directory), self.refusal(content))
        with self.assertRaises(Misconfigured) as caught:
            load_kubeconfig(str(self.directory / "none"), "", self.plugin)
        self.assertIn("no such file", str(caught.exception))
