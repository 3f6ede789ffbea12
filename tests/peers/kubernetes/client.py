"""The agent's own client to a real API server, for tests."""

from __future__ import annotations

from typing import Any

from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.config import ClusterConfig, Credentials, StaticCredentials
from pipeops_agent.cluster.kubeconfig import load_kubeconfig
from pipeops_agent.net import ClientTLS
from pipeops_agent.secrets import Secret
from pipeops_agent.tokens import SettingsToken
from tests.cluster import client
from tests.peers.kubernetes.running import KubeCluster


class Client(client.Client):
    """Makes L{Api}s on the reactor that is given; L{close} ends their connections."""

    def administrator(self, kube: KubeCluster) -> Api:
        """With every right, from the kubeconfig."""
        return self.api(load_kubeconfig(kube.kubeconfig, "", no_plugin))

    def account(self, kube: KubeCluster, token: str) -> Api:
        """With the rights of a token."""
        return self.with_credentials(kube, StaticCredentials(SettingsToken(Secret(token))))

    def with_credentials(self, kube: KubeCluster, credentials: Credentials) -> Api:
        """With any credentials."""
        return self.api(
            ClusterConfig(
                origin="a test",
                host=kube.address,
                port=6443,
                tls=ClientTLS(ca_file=str(kube.directory / "pki/api/apiserver.crt")),
                credentials=credentials,
            )
        )


def no_plugin(*_: Any) -> Credentials:
    """A cluster of ours has none."""
    raise AssertionError("the cluster's kubeconfig has no credential plugin")
