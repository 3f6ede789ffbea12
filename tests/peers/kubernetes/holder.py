"""
Holds a lease, to be killed: C{python -m tests.peers.kubernetes.holder KUBECONFIG NAMESPACE NAME}.

Prints C{holding} when it does.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from pipeops_agent.cluster.kubeconfig import load_kubeconfig
from pipeops_agent.cluster.lease import LeaseGate
from tests.peers.kubernetes.client import Client, no_plugin


async def hold(reactor: Any, kubeconfig: str, namespace: str, name: str) -> None:
    """Enter, and stay."""
    api = Client(reactor).api(load_kubeconfig(kubeconfig, "", no_plugin))
    gate = LeaseGate(
        reactor,
        api,
        namespace,
        name,
        identity="to be killed",
        strict=False,
        wall=lambda: datetime.now(UTC),
        say=lambda _: None,
    )
    await gate.enter()
    sys.stdout.write("holding\n")
    sys.stdout.flush()
    await Deferred()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(hold(reactor, *sys.argv[1:])))
