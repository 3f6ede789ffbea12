"""
One cluster for all tests of a process, and what they do with it.

All calls here wait; none takes long but the first. A cluster lives as long as the pipe to its C{kube keep} is
open: it goes down with this process, whatever kills that, and the next one clears up after both were killed.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from unittest import SkipTest

from tests.peers.building import cache

KUBE: Final = Path(__file__).parent / "kube"
VERSION: Final = os.environ.get("KUBE_VERSION") or "v1.34.4"

_API_PROGRAMS: Final = ("openssl", "ip", "nsenter", "curl")
_NODE_PROGRAMS: Final = ("containerd", "ctr", "runc", "iptables", "conntrack", "cc")
_DOWN_SECONDS: Final = 60
_CALL_SECONDS: Final = 60
_METRICS_SECONDS: Final = 120


@dataclass(frozen=True)
class KubeCluster:
    """
    A cluster that is up.

    @ivar directory: its state, and the log of each of its processes.
    @ivar network: the name of its network namespace.
    @ivar address: its node's, which the API server listens on; reached from this process's own namespace.
    @ivar outside: this process's address as the cluster's pods see it.
    """

    directory: Path
    network: str
    address: str
    outside: str

    @property
    def kubeconfig(self) -> str:
        """The path of the administrator's."""
        return str(self.directory / "kubeconfig")

    @cached_property
    def authority(self) -> str:
        """What vouches for the API server, in PEM form."""
        return (self.directory / "pki/api/apiserver.crt").read_text("ascii")

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """Run kubectl as administrator, and return what it prints."""
        return _run(self.kubectl_command(*arguments), given=given)

    def kubectl_command(self, *arguments: str) -> list[str]:
        """The command line for that; this kubectl is of the cluster's own version."""
        return [str(_programs() / "kubectl"), "--kubeconfig", self.kubeconfig, *arguments]

    def apply(self, *objects: dict[str, Any]) -> None:
        """Let these objects be there."""
        together = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("apply", "-f", "-", given=json.dumps(together))

    def inside(self, *command: str) -> str:
        """Run a program in the cluster's network namespace, and return what it prints."""
        return _run(["nsenter", f"--net=/run/netns/{self.network}", "--", *command])

    def make_namespace(self, name: str) -> None:
        """A namespace in which pods can be made: with the ServiceAccount that a controller would make."""
        meta = {"name": name}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        default = {"name": "default", "namespace": name}
        self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": default})

    def make_account(
        self, namespace: str, name: str, *rules: dict[str, Any], everywhere: bool = False
    ) -> None:
        """
        A ServiceAccount with these rules of RBAC: C{apiGroups}, C{resources}, C{verbs}.

        @param everywhere: they hold in the whole cluster, not only in the namespace.
        """
        kind = "ClusterRole" if everywhere else "Role"
        meta = {"name": f"{namespace}-{name}"} if everywhere else {"name": name, "namespace": namespace}
        rbac = "rbac.authorization.k8s.io"
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        role = {"apiGroup": rbac, "kind": kind, "name": meta["name"]}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": name, "namespace": namespace},
            },
            {"apiVersion": f"{rbac}/v1", "kind": kind, "metadata": meta, "rules": list(rules)},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": f"{kind}Binding",
                "metadata": meta,
                "roleRef": role,
                "subjects": [subject],
            },
        )

    def token(self, namespace: str, account: str, *, seconds: int = 3600) -> str:
        """A token of a ServiceAccount; 600 seconds is the least that the API server grants."""
        return self.kubectl(
            "create", "token", account, "--namespace", namespace, f"--duration={seconds}s"
        ).strip()

    def load_image(self, archive: str) -> None:
        """Put an image from a file (docker-archive, OCI) on the node, for C{imagePullPolicy: Never}."""
        _run([str(KUBE), "load", str(self.directory), str(Path(archive).absolute())])

    def start_metrics(self) -> None:
        """Start metrics-server, where it does not run yet; it knows something when this returns."""
        if not (self.directory / "metrics.pid").exists():
            _run([str(KUBE), "metrics", str(self.directory)], seconds=_METRICS_SECONDS)

    def compact(self) -> None:
        """Let etcd forget everything but the present: what goes on from before gets 410."""
        status = self._etcd("/v3/kv/range", {"key": "Lw=="})
        self._etcd("/v3/kv/compaction", {"revision": status["header"]["revision"], "physical": True})

    def _etcd(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            self.inside("curl", "-sSf", "-d", json.dumps(body), f"http://127.0.0.1:2379{path}")
        )
        return answer

    # -- the cluster's own processes, by the names of their logs: apiserver, etcd, kubelet, ...

    def pid(self, name: str) -> int:
        """The process that was last started as C{name}."""
        return int((self.directory / f"{name}.pid").read_text("ascii"))

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one of the processes."""
        os.kill(self.pid(name), number)

    def start_again(self, name: str) -> None:
        """Start a process again that has ended; it is ready a while later."""
        _run([str(KUBE), "again", str(self.directory), name])

    def ready(self) -> bool:
        """Whether the API server says so."""
        asked = self.kubectl_command("--request-timeout=2s", "get", "--raw", "/readyz")
        return subprocess.run(asked, capture_output=True, timeout=_CALL_SECONDS, check=False).returncode == 0

    def log(self, name: str) -> str:
        """What one of the processes has written."""
        return (self.directory / f"{name}.log").read_text("utf-8", errors="replace")


def cluster() -> KubeCluster:
    """
    A whole cluster of one node, C{node1}, with real pods.

    @raise SkipTest: it can't run here; with the environment variable C{CI} set that is an error instead.
    """
    return _cluster("node")


def api_server() -> KubeCluster:
    """
    An API server and its etcd alone: no controllers, nothing runs; objects are what they were made as.

    @raise SkipTest: as L{cluster}.
    """
    return _cluster("api")


_kept: dict[str, tuple[KubeCluster, subprocess.Popen[str]]] = {}


def _cluster(kind: str) -> KubeCluster:
    if kind not in _kept:
        if reason := _obstacle(kind):
            if os.environ.get("CI"):
                raise RuntimeError(reason)
            raise SkipTest(reason)
        _kept[kind] = _start(kind)
    return _kept[kind][0]


def _obstacle(kind: str) -> str:
    """Why no cluster can run here; empty: it can."""
    if os.geteuid() != 0:
        return "a real Kubernetes needs root: network namespaces, containers"
    for program in (*_API_PROGRAMS, *(_NODE_PROGRAMS if kind == "node" else ())):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            return f"a real Kubernetes needs {program}, which is not installed"
    if not os.access(_programs() / "kubectl", os.X_OK):  # the last that is built
        return f"Kubernetes {VERSION} is not built; tests/peers/kubernetes/kube build (7 minutes)"
    return ""


def _programs() -> Path:
    return cache() / f"kubernetes-{VERSION}"


def _start(kind: str) -> tuple[KubeCluster, subprocess.Popen[str]]:
    with tempfile.TemporaryFile("w+") as said:
        keeper = subprocess.Popen(
            [str(KUBE), "keep", *(["api"] if kind == "api" else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env={**os.environ, "KUBE_BIN": str(_programs())},
            start_new_session=True,  # Ctrl-C is for the tests; the cluster goes down in its own time
            text=True,
        )
        atexit.register(_take_down, keeper)
        assert keeper.stdout is not None
        line = keeper.stdout.readline().split()
        if not line:
            said.seek(0)
            raise RuntimeError(f"Kubernetes does not start: {said.read()[-4000:]}")
    directory, network, address, outside = line
    return KubeCluster(Path(directory), network, address, outside), keeper


def _take_down(keeper: subprocess.Popen[str]) -> None:
    assert keeper.stdin is not None
    keeper.stdin.close()
    keeper.wait(_DOWN_SECONDS)


def _run(command: list[str], given: str = "", seconds: float = _CALL_SECONDS) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:6])} ...: {done.stderr.strip()[-2000:]}")
    return done.stdout
