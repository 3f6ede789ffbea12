"""
The agent's image in a real pod: as user 1000, on a read-only root, without a capability.

It is connected to a sandbox in a process outside the cluster. The test builds the image, and starts a
cluster of one node.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from pipeops_agent.scheduling import sleep
from tests.peers.harness import free_port
from tests.peers.kubernetes import cluster
from tests.peers.kubernetes.case import KubernetesCase
from tests.peers.kubernetes.image import IMAGE, agent_image
from tests.peers.processes import Event, Program

POD = "agent"
TOKEN = "an-invented-token"
TWISTD = "from twisted.scripts.twistd import run; run()"


def sandbox_lines(line: str) -> Event | None:
    """Make an event of the line that says where it listens."""
    said, _, url = line.partition("sandbox ready at ")
    return {"event": "listening", "url": url} if url and not said else None


class ContainerTests(KubernetesCase):
    """One pod, as the manifests will have it."""

    timeout = 900
    start = staticmethod(cluster)

    def directory(self) -> Path:
        """A new one, for files."""
        made = Path(self.mktemp()).absolute()
        made.mkdir(mode=0o700)
        return made

    async def start_sandbox(self) -> tuple[str, str]:
        """A sandbox that pods can reach, with TLS; return its URL and what vouches for it."""
        directory = self.directory()
        token = directory / "token"
        token.write_text(TOKEN, "utf-8")
        options = ["--listen", self.kube.outside, "--port", str(free_port()), "--tls"]
        options += ["--tls-dir", str(directory), "--token-file", str(token)]
        command = [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "pipeops-sandbox", *options]
        sandbox = Program.start(self.reactor, command, sandbox_lines)
        self.addCleanup(lambda: Deferred.fromCoroutine(sandbox.kill()))
        url = str((await sandbox.wait_for("listening"))["url"])
        return url, (directory / "ca.pem").read_text("ascii")

    def pod(self, url: str) -> dict[str, Any]:
        """The pod's manifest; what it writes goes into one directory."""
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": POD, "namespace": self.namespace},
            "spec": {
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 1000,
                    "runAsGroup": 1000,
                    "fsGroup": 1000,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "agent",
                        "image": IMAGE,
                        "imagePullPolicy": "Never",
                        "args": ["--api-url", url, "--ca-file", "/etc/pipeops/ca.pem", "--bind", "0.0.0.0"],
                        "env": [{"name": "PIPEOPS_TOKEN", "value": TOKEN}],
                        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
                        "securityContext": {
                            "readOnlyRootFilesystem": True,
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "volumeMounts": [
                            {"name": "authority", "mountPath": "/etc/pipeops"},
                            {"name": "state", "mountPath": "/var/lib/pipeops"},
                        ],
                    }
                ],
                "volumes": [
                    {"name": "authority", "configMap": {"name": "authority"}},
                    {"name": "state", "emptyDir": {}},
                ],
            },
        }

    def inside(self, *command: str) -> str:
        """Run a command in the pod."""
        return self.kube.kubectl("-n", self.namespace, "exec", POD, "--", *command)

    def records(self) -> Iterator[dict[str, Any]]:
        """What the agent has logged; every line of it is a record."""
        for line in self.kube.kubectl("-n", self.namespace, "logs", POD).splitlines():
            yield json.loads(line)

    async def ready(self) -> None:
        """Wait until the kubelet finds the pod ready."""
        path = "{.status.conditions[?(@.type=='Ready')].status}"
        end = self.reactor.seconds() + 120
        while self.kube.kubectl("-n", self.namespace, "get", "pod", POD, f"-o=jsonpath={path}") != "True":
            if self.reactor.seconds() > end:
                described = self.kube.kubectl("-n", self.namespace, "describe", "pod", POD)
                self.fail(f"not ready: {list(self.records())[-5:]} {described}")
            await sleep(self.reactor, 0.5)

    async def test_pod(self) -> None:
        """It is ready and connected; it is process 1, user 1000, has no rights, and complains of nothing."""
        self.kube.load_image(str(agent_image(self.directory())))
        url, authority = await self.start_sandbox()
        meta = {"name": "authority", "namespace": self.namespace}
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"ca.pem": authority}}
        self.kube.apply(config, self.pod(url))
        await self.ready()
        status = dict(
            line.split(":", 1) for line in self.inside("cat", "/proc/1/status").splitlines() if ":" in line
        )
        self.assertEqual(status["Uid"].split(), ["1000"] * 4)
        self.assertEqual({int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")}, {0})
        self.assertEqual(status["Name"].strip(), "twistd")
        with self.assertRaises(RuntimeError):
            self.inside("touch", "/opt/pipeops-agent/x")
        self.assertIn("ready", self.inside("twistd", "--nodaemon", "--pidfile=", "pipeops-agent", "--status"))
        self.assertEqual(
            self.inside("ls", "/var/lib/pipeops", "/tmp").split(),
            ["/tmp:", "/var/lib/pipeops:", "state.json", "state.json.lock"],
        )
        records = list(self.records())
        said = [each for each in records if each["level"] not in ("debug", "info")]
        self.assertEqual(said, [])
        tunnel = [each for each in records if each.get("component") == "tunnel"]
        self.assertIn("connected", [each.get("state") for each in tunnel])
        self.kube.kubectl("-n", self.namespace, "delete", "pod", POD, "--timeout=20s")
