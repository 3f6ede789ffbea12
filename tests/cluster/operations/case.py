"""Operations on the fake API server, in memory."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from pipeops_agent.caller import Caller
from pipeops_agent.cluster.discovery import Discovery
from pipeops_agent.cluster.operations import Command, Kit, Operations, Progress, Result, Target
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.secrets import Secret
from tests.cluster.case import EVERYTHING, FakeApiCase
from tests.cluster.fakeapi import operating

OWN = ("pipeops-system", "pipeops-agent-state", "pipeops-agent")


class OperationCase(FakeApiCase):
    """
    Each test has an L{Operations} on a fake API server with discovery, scale and evictions.

    @ivar progress: what was told.
    """

    scope = Scope()
    own_pod = ""

    def setUp(self) -> None:
        super().setUp()
        self.served = operating.Discovery(self.server)
        self.evictions = operating.Evictions(self.server)
        operating.serve_scale(self.server)
        self.discovery = Discovery(self.clock, self.api)
        self.progress: list[Progress] = []
        self.caller = Caller(subject="a test", scopes=EVERYTHING, origin="test")
        self.own = Caller(
            subject="somebody",
            scopes=EVERYTHING,
            origin="test",
            kubernetes_token=Secret("theirs"),
        )

    def reach(self, scope: Scope | None = None) -> Reach:
        """The owner's rules, and an agent in C{pipeops-system}."""
        namespace, state, lease = OWN
        return Reach.of(scope or self.scope, namespace=namespace, state_secret=state, lease=lease)

    def operations(self, scope: Scope | None = None) -> Operations:
        """The front."""
        return Operations(
            Kit(
                clock=self.clock,
                wall=self.wall,
                api=self.api,
                discovery=self.discovery,
                reach=self.reach(scope),
                own_pod=self.own_pod,
            )
        )

    def command(
        self,
        operation: str,
        target: str = "",
        *,
        scope: Scope | None = None,
        caller: Caller | None = None,
        timeout: float | None = None,
        more: dict[str, Any] | None = None,
        **args: Any,
    ) -> Coroutine[Any, Any, Result]:
        """
        A command.

        @param target: C{type namespace/name}, C{type name} or C{namespace/}.
        @param more: arguments whose names are Python's own.
        """
        kind, _, place = target.rpartition(" ") if " " in target else (target, "", "")
        if " " not in target and target.endswith("/"):
            kind, place = "", target
        namespace, _, name = place.rpartition("/")
        command = Command(
            type=operation,
            target=Target(type=kind, namespace=namespace, name=name),
            args={**args, **(more or {})},
            timeout=timeout,
        )
        return self.operations(scope).run(caller or self.caller, command, self.progress.append)

    def done(self, operation: str, target: str = "", *, seconds: float = 0.0, **rest: Any) -> Any:
        """What comes of a command within so many seconds."""
        return self.result(self.command(operation, target, **rest), seconds)

    def said(self) -> list[str]:
        """The progress, as people read it."""
        return [f"{each.object}: {each.message}" if each.object else each.message for each in self.progress]

    def changes(self) -> list[tuple[str, str, str | None]]:
        """What was asked of the server that changes something."""
        return [each for each in self.server.seen if each[0] not in ("get", "list", "watch")]

    def deployment(self, name: str = "web", namespace: str = "shop", **changes: Any) -> None:
        """Let there be a deployment."""
        labels = {"app": name}
        made: dict[str, Any] = {
            "metadata": {"name": name},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}},
        }
        made.update(changes)
        self.storage.create("deployments.apps", namespace, made)
