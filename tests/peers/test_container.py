"""
The agent's image in real pods: as user 1000, on a read-only root, without a capability, nothing to write to.

They are connected to a sandbox in a process outside the cluster. The rights are those that
C{docs/kubernetes.md} lists, the state is in a Secret. The image is built here; the cluster has one node.
"""

from __future__ import annotations

import json
import re
import ssl
import sys
import urllib.request
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import yaml
from twisted.internet.defer import Deferred

from pipeops_agent.scheduling import sleep
from tests.peers.harness import free_port
from tests.peers.kubernetes import cluster
from tests.peers.kubernetes.case import KubernetesCase
from tests.peers.kubernetes.image import IMAGE, ROOT, agent_image
from tests.peers.processes import Event, Program

ACCOUNT = "pipeops-agent"
TOKEN = "an-invented-token"
TWISTD = "from twisted.scripts.twistd import run; run()"
START_SECONDS = 120.0
"""In which an agent must be ready; a pod starts in a few, and the node may be busy."""


def sandbox_lines(line: str) -> Event | None:
    """Make an event of the record that says where it listens."""
    record = json.loads(line)
    url = record.get("api_url")
    return {"event": "listening", "url": url} if url else None


def documented_rights(namespace: str) -> list[dict[str, Any]]:
    """The objects that C{docs/kubernetes.md} shows, for an agent in this namespace."""
    text = (ROOT / "docs/kubernetes.md").read_text("utf-8")
    (block,) = re.findall(r"^```yaml\n(apiVersion:.*?)^```$", text, re.MULTILINE | re.DOTALL)
    objects: list[dict[str, Any]] = list(yaml.safe_load_all(block.replace("pipeops-system", namespace)))
    return objects


def bindings(namespace: str, roles: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A binding of each of these roles to the agent's account."""
    group = "rbac.authorization.k8s.io"
    for role in roles:
        yield {
            "apiVersion": f"{group}/v1",
            "kind": f"{role['kind']}Binding",
            "metadata": role["metadata"],
            "roleRef": {"apiGroup": group, "kind": role["kind"], "name": role["metadata"]["name"]},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}],
        }


@cache
def image() -> Path:
    """The image, built once for all tests."""
    return agent_image(Path(mkdtemp(dir=Path.cwd(), prefix="image-")))


class ContainerTests(KubernetesCase):
    """The agent in pods, as the manifests will have it."""

    timeout = 900
    start = staticmethod(cluster)

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        await super().setUp()
        self.kube.load_image(str(image()))
        self.url, self.authority = await self.start_sandbox()
        config = {"name": "authority", "namespace": self.namespace}
        self.kube.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": config, "data": {"ca.pem": self.authority}},
            *self.account(),
        )

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
        options = ["--listen", self.kube.outside, "--port", str(free_port()), "--log-format", "json"]
        options += ["--tls", "--tls-dir", str(directory), "--token-file", str(token)]
        command = [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "pipeops-sandbox", *options]
        sandbox = Program.start(self.reactor, command, sandbox_lines, stop_signal="TERM")
        self.addCleanup(lambda: Deferred.fromCoroutine(sandbox.stop()))
        url = str((await sandbox.wait_for("listening"))["url"])
        return url, (directory / "ca.pem").read_text("ascii")

    def account(self) -> Iterator[dict[str, Any]]:
        """The agent's account, its rights, and the empty Secret for its state."""
        meta = {"name": ACCOUNT, "namespace": self.namespace}
        yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}
        objects = documented_rights(self.namespace)
        for each in objects:
            if each["kind"] == "ClusterRole":  # each test has its own
                each["metadata"]["name"] = self.namespace
                self.addCleanup(self.kube.kubectl, "delete", "clusterrole,clusterrolebinding", self.namespace)
        yield from objects
        yield from bindings(self.namespace, [each for each in objects if each["kind"].endswith("Role")])

    def pod(self, name: str, **environment: str) -> dict[str, Any]:
        """A pod's manifest; there is nothing in it that could be written."""
        variables = {"PIPEOPS_TOKEN": TOKEN, "PIPEOPS_POD_NAME": name, **environment}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "serviceAccountName": ACCOUNT,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 1000,
                    "runAsGroup": 1000,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "agent",
                        "image": IMAGE,
                        "imagePullPolicy": "Never",
                        "args": [
                            *("--api-url", self.url, "--ca-file", "/etc/pipeops/ca.pem"),
                            *("--bind", "0.0.0.0"),
                        ],
                        "env": [{"name": key, "value": value} for key, value in variables.items()],
                        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
                        "securityContext": {
                            "readOnlyRootFilesystem": True,
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "volumeMounts": [{"name": "authority", "mountPath": "/etc/pipeops"}],
                    }
                ],
                "volumes": [{"name": "authority", "configMap": {"name": "authority"}}],
            },
        }

    def inside(self, name: str, *command: str) -> str:
        """Run a command in a pod."""
        return self.kube.kubectl("-n", self.namespace, "exec", name, "--", *command)

    def records(self, name: str) -> list[dict[str, Any]]:
        """What an agent has logged; every line of it is a record."""
        lines = self.kube.kubectl("-n", self.namespace, "logs", name).splitlines()
        return [json.loads(line) for line in lines]

    def complaints(self, name: str) -> list[dict[str, Any]]:
        """The records that are more than news."""
        return [each for each in self.records(name) if each["level"] not in ("debug", "info")]

    def listed(self) -> list[dict[str, Any]]:
        """The agents that the sandbox knows."""
        headers = {"Accept": "application/json", "Authorization": f"Bearer {TOKEN}"}
        vouched = ssl.create_default_context(cadata=self.authority)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=vouched)
        )
        with opener.open(urllib.request.Request(self.url, headers=headers), timeout=20) as answer:
            agents: list[dict[str, Any]] = json.load(answer)["agents"]
        return agents

    async def until_shown(self, name: str, holds: Callable[[], bool]) -> None:
        """Wait until something holds, and show what the agent says where it does not come to that."""
        end = self.reactor.seconds() + START_SECONDS
        while not holds():
            if self.reactor.seconds() > end:
                described = self.kube.kubectl("-n", self.namespace, "describe", "pod", name)
                self.fail(f"{self.records(name)[-5:]}\n{described}")
            await sleep(self.reactor, 0.5)

    async def ready(self, name: str) -> None:
        """Wait until the kubelet finds the pod ready."""
        path = "-o=jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        asked = ("-n", self.namespace, "get", "pod", name, path)
        await self.until_shown(name, lambda: self.kube.kubectl(*asked) == "True")

    async def connected(self, name: str) -> None:
        """Wait until it says that its tunnel is connected."""
        await self.until_shown(
            name,
            lambda: any(
                each.get("component") == "tunnel" and each.get("state") == "connected"
                for each in self.records(name)
            ),
        )

    async def test_pod(self) -> None:
        """Connected, its state in the Secret; process 1, user 1000, without rights; no complaint."""
        self.kube.apply(self.pod("agent"))
        await self.ready("agent")
        await self.connected("agent")
        status = dict(
            line.split(":", 1)
            for line in self.inside("agent", "cat", "/proc/1/status").splitlines()
            if ":" in line
        )
        self.assertEqual(status["Uid"].split(), ["1000"] * 4)
        self.assertEqual({int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")}, {0})
        self.assertEqual(status["Name"].strip(), "twistd")
        for place in ("/opt/pipeops-agent/x", "/var/lib/pipeops/x", "/tmp/x"):
            with self.assertRaises(RuntimeError):
                self.inside("agent", "touch", place)
        command = ("twistd", "--nodaemon", "--pidfile=", "pipeops-agent", "--status")
        self.assertIn("ready", self.inside("agent", *command))
        self.assertEqual(self.complaints("agent"), [])
        (known,) = self.listed()
        self.assertIn(known["agent_id"], self.state())
        self.kube.kubectl("-n", self.namespace, "delete", "pod", "agent", "--timeout=20s")

    def state(self) -> str:
        """What the Secret holds."""
        path = "-o=go-template={{range .data}}{{. | base64decode}}{{end}}"
        return self.kube.kubectl("-n", self.namespace, "get", "secret", "pipeops-agent-state", path)

    async def test_replicas(self) -> None:
        """Of two, one is active; the other is ready, and is the same agent once the first has gone."""
        election = {"PIPEOPS_AGENT_LEADER_ELECTION": "true"}
        self.kube.apply(self.pod("first", **election))
        await self.ready("first")
        await self.connected("first")
        self.kube.apply(self.pod("second", **election))
        await self.ready("second")
        command = ("twistd", "--nodaemon", "--pidfile=", "pipeops-agent", "--status")
        self.assertIn("standby", self.inside("second", *command))
        (before,) = self.listed()
        self.kube.kubectl("-n", self.namespace, "delete", "pod", "first", "--timeout=20s")
        await self.connected("second")
        (after,) = self.listed()
        self.assertEqual(after["agent_id"], before["agent_id"])
        self.assertGreater(after["registrations"], before["registrations"])
        self.assertEqual(self.complaints("second"), [])
        self.kube.kubectl("-n", self.namespace, "delete", "pod", "second", "--timeout=20s")
