"""
A real Kubernetes, started on first use and taken down when this process ends, however it ends.

The program C{kube} beside this file builds and runs it; what a test needs of it is here.
"""

from __future__ import annotations

from tests.peers.kubernetes.running import KubeCluster, api_server, cluster

__all__ = ["KubeCluster", "api_server", "cluster"]
