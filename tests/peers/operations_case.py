"""Commands, and callers with rights of their own, against a real Kubernetes with real pods."""

from __future__ import annotations

from typing import Any

from pipeops_agent.caller import Caller
from pipeops_agent.clock import utc_now
from pipeops_agent.cluster.discovery import Discovery
from pipeops_agent.cluster.operations import Command, Kit, Operations, Progress, Target
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.secrets import Secret
from tests.cluster.case import EVERYTHING
from tests.peers.kubernetes import cluster
from tests.peers.kubernetes.case import KubernetesCase

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  progressDeadlineSeconds: 60
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{{name: main, image: "{image}", imagePullPolicy: IfNotPresent}}]
"""


class OperationsCase(KubernetesCase):
    """
    Each test has a namespace, and a caller who acts with the administrator's rights.

    @ivar progress: what was told of all commands.
    """

    start = staticmethod(cluster)

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        await super().setUp()
        self.discovery = Discovery(self.reactor, self.api)
        self.progress: list[Progress] = []
        self.admin = Caller(subject="a test", scopes=EVERYTHING, origin="test")

    async def run_command(
        self,
        operation: str,
        type: str = "",  # noqa: A002  # the target's field
        name: str = "",
        *,
        namespace: str | None = None,
        timeout: float | None = None,
        caller: Caller | None = None,
        **args: Any,
    ) -> Any:
        """
        What comes of a command.

        @param namespace: the target's; None: the test's.
        """
        kit = Kit(
            clock=self.reactor,
            wall=utc_now,
            api=self.api,
            discovery=self.discovery,
            reach=Reach(scope=Scope()),
        )
        place = self.namespace if namespace is None else namespace
        target = Target(type=type, name=name, namespace=place)
        command = Command(type=operation, target=target, args=args, timeout=timeout)
        return await Operations(kit).run(caller or self.admin, command, self.progress.append)

    async def deploy(self, name: str = "web", *, replicas: int = 1, image: str = "localhost/pause:1") -> Any:
        """Apply a deployment."""
        text = DEPLOYMENT.format(name=name, replicas=replicas, image=image)
        applied = await self.run_command("deploy", manifest=text, dry_run="first")
        self.assertTrue(applied.success, applied.error)
        return applied

    def token(self, account: str, *rules: dict[str, Any]) -> Secret:
        """A token of a new account that has these rules in the test's namespace."""
        self.kube.make_account(self.namespace, account, *rules)
        return Secret(self.kube.token(self.namespace, account))

    def caller(self, account: str, *rules: dict[str, Any]) -> Caller:
        """One with such a token."""
        return Caller(
            subject=account,
            scopes=EVERYTHING,
            origin="test",
            kubernetes_token=self.token(account, *rules),
        )

    async def until_said(self, words: str) -> None:
        """Wait until the progress says so."""
        await self.until(lambda: any(words in each.message for each in self.progress))
