"""Which cluster is configured: the kubeconfig that the settings name, else the pod's service account."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeops_agent.clock import WallClock
from pipeops_agent.cluster.config import SERVICE_ACCOUNT, ClusterConfig, in_pod, service_account
from pipeops_agent.cluster.kubeconfig import load_kubeconfig
from pipeops_agent.cluster.plugin import IPluginReactor, PluginCredentials
from pipeops_agent.settings.model import KubernetesSettings, Settings

Print = tuple[tuple[str, int, int, int] | None, ...]
"""What a file looks like from outside: path, inode, size, time of its last change; None: it is not there."""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """
    What of the process decides which cluster is meant.

    @ivar hostname: in a pod its name, where C{agent.pod_name} does not say.
    @ivar service_account: where the kubelet mounts a pod's service account.
    """

    environ: Mapping[str, str]
    wall: WallClock
    hostname: str = ""
    service_account: Path = SERVICE_ACCOUNT


class Finder:
    """
    Finds the cluster, as often as it is asked.

    @ivar configured: whether there is one to be found at all.
    """

    def __init__(self, reactor: IPluginReactor, settings: KubernetesSettings, around: Surroundings) -> None:
        self._settings = settings
        self._around = around
        self._find: Callable[[], ClusterConfig] | None = None
        if settings.kubeconfig:
            credentials: Any = partial(PluginCredentials, reactor, environ=around.environ, wall=around.wall)
            self._find = partial(load_kubeconfig, settings.kubeconfig, settings.context, credentials)
        elif uses_service_account(settings, around.environ):
            self._find = partial(service_account, around.environ, around.service_account)

    @property
    def configured(self) -> bool:
        """Whether the settings or the pod name a cluster."""
        return self._find is not None

    def find(self) -> ClusterConfig:
        """
        The cluster, as its files say now. Only if L{configured}.

        @raise Misconfigured: they can't be used.
        """
        assert self._find is not None
        return self._find()

    def fingerprint(self) -> Print:
        """
        Another one each time that the kubeconfig has changed; a service account's files are read at use, and
        don't count.
        """
        return tuple(_look(path) for path in self._settings.kubeconfig.split(":") if path)


def uses_service_account(settings: KubernetesSettings, environ: Mapping[str, str]) -> bool:
    """Whether the agent lives in the cluster that it serves: in a pod, with that pod's account."""
    return settings.in_cluster and not settings.kubeconfig and in_pod(environ)


def home_namespace(settings: Settings, account: str | None) -> str:
    """
    The agent's own namespace: as the pod was told, else as its service account is, else as the settings say.

    @param account: the namespace of the service account, or of the kubeconfig's context.
    """
    return settings.agent.pod_namespace or account or settings.kubernetes.namespace


def _look(path: str) -> tuple[str, int, int, int] | None:
    try:
        found = Path(path).expanduser().stat()
    except OSError:
        return None
    return path, found.st_ino, found.st_size, found.st_mtime_ns


NO_CLUSTER: Final = "no cluster is configured"
