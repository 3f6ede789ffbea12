"""Tests of L{pipeops_agent.cluster.config}: the pod's service account."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import TestCase

from pipeops_agent.cluster.config import ClusterConfig, in_pod, service_account
from pipeops_agent.cluster.errors import Misconfigured
from pipeops_agent.secrets import Secret

HOST, PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"


class ServiceAccountTests(TestCase):
    """Each test has the files that the kubelet mounts."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        for name, content in (("token", "first"), ("ca.crt", "PEM"), ("namespace", "agents\n")):
            (self.directory / name).write_text(content)

    def found(self, host: str = "10.96.0.1", port: str = "443") -> ClusterConfig:
        return service_account({HOST: host, PORT: port}, self.directory)

    def refused(self, **place: str) -> str:
        with self.assertRaises(Misconfigured) as caught:
            self.found(**place)
        return str(caught.exception)

    def test_in_pod(self) -> None:
        """Both variables of the kubelet make a pod; one alone does not."""
        self.assertTrue(in_pod({HOST: "h", PORT: "1"}))
        for environ in ({}, {HOST: "h"}, {PORT: "1"}, {HOST: "", PORT: "1"}):
            self.assertFalse(in_pod(environ))

    async def test_files(self) -> None:
        """Server, CA and namespace; the token is read where it is used: the kubelet renews it."""
        config = self.found()
        self.assertEqual(
            (config.base, config.namespace, config.proxy), ("https://10.96.0.1:443", "agents", None)
        )
        assert config.tls is not None
        self.assertEqual(config.tls.ca_file, str(self.directory / "ca.crt"))
        self.assertEqual((await config.credentials.current()).token, Secret("first"))
        # As the kubelet does it: what the name leads to is another file from one moment to the next.
        (self.directory / "next").write_text("second")
        (self.directory / "next").replace(self.directory / "token")
        self.assertEqual((await config.credentials.current()).token, Secret("second"))

    def test_ipv6(self) -> None:
        """The address of a cluster that speaks IPv6, with brackets or without."""
        for host in ("fd00::1", "[fd00::1]"):
            config = self.found(host)
            self.assertEqual((config.host, config.authority), ("fd00::1", "[fd00::1]:443"))

    def test_no_namespace(self) -> None:
        """A namespace file that is missing, empty or no text is none."""
        for content in (None, b"", b" \n", b"\xff"):
            (self.directory / "namespace").unlink(missing_ok=True)
            if content is not None:
                (self.directory / "namespace").write_bytes(content)
            self.assertIsNone(self.found().namespace)

    def test_not_mounted(self) -> None:
        """The file that is missing is named, and the pod's setting that mounts it."""
        for name in ("ca.crt", "token"):
            (self.directory / name).unlink()
            said = self.refused()
            self.assertIn(f"{self.directory / name} can't be read (automountServiceAccountToken)", said)

    def test_bad_port(self) -> None:
        """A port that is none is quoted, shortened."""
        for port in ("0", "65536", "tcp://10.96.0.1:443", "-1", "x" * 99):
            self.assertIn(f"{PORT} can't be {port[:20]!r}", self.refused(port=port))
