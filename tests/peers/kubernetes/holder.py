"""
Holds a lease, in a process to be stopped, cut off or killed.

    python -m tests.peers.kubernetes.holder KUBECONFIG NAMESPACE NAME IDENTITY [strict]

Prints C{holding} when it does, and C{lost} with the reason when it may not go on; then it ends.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from pipeops_agent.cluster.kubeconfig import load_kubeconfig
from pipeops_agent.cluster.lease import LeaseGate
from tests.peers.kubernetes.client import Client, no_plugin


def say(event: str, **fields: str) -> None:
    """Print an event."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


async def hold(
    reactor: Any, kubeconfig: str, namespace: str, name: str, identity: str, strict: str = ""
) -> None:
    """Enter, and stay for as long as that is allowed."""
    api = Client(reactor).api(load_kubeconfig(kubeconfig, "", no_plugin))
    gate = LeaseGate(
        reactor,
        api,
        namespace,
        name,
        identity=identity,
        strict=bool(strict),
        wall=lambda: datetime.now(UTC),
        say=lambda _: None,
    )
    await gate.enter()
    say("holding")
    say("lost", reason=await gate.when_lost())


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(hold(reactor, *sys.argv[1:])))
