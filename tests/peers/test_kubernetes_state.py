"""State and leadership in a real Kubernetes: the stores' contract in a Secret, and gates of one Lease."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from pipeops_agent.cluster.lease import DURATION, RENEW_DEADLINE, RETRY_PERIOD, LeaseGate
from pipeops_agent.cluster.resources import LEASES, SECRETS
from pipeops_agent.cluster.secret_store import KEY, SecretStateStore
from pipeops_agent.scheduling import sleep
from pipeops_agent.state import StateStore
from tests.contracts.state_store import StateStoreContract
from tests.peers.kubernetes.case import KubernetesCase
from tests.peers.netns import Cable
from tests.peers.processes import Program

NAME = "pipeops-agent"
TURN = 2 * RETRY_PERIOD + 5.0
"""Seconds in which every replica has looked, also on a busy machine."""


def now() -> datetime:
    return datetime.now(UTC)


class SecretTests(StateStoreContract, KubernetesCase):
    """The contract of the stores, as the account that the manifests will give the agent."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        await super().setUp()
        body = {"metadata": {"name": NAME}}
        await self.api.create(dict, SECRETS, body, namespace=self.namespace)
        self.rule = {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": [NAME],
            "verbs": ["get", "update"],
        }
        self.kube.make_account(self.namespace, "agent", self.rule)
        self.own = self.client.account(self.kube, self.kube.token(self.namespace, "agent"))

    def make_store(self) -> StateStore:
        return SecretStateStore(self.own, self.namespace, NAME, wall=now)

    def data(self) -> dict[str, bytes]:
        """What the Secret holds."""
        secret = json.loads(self.kube.kubectl("-n", self.namespace, "get", "secret", NAME, "-o", "json"))
        return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}

    def put_raw(self, content: bytes) -> None:
        patch = json.dumps({"data": {KEY: base64.b64encode(content).decode()}})
        patched = Path(self.mktemp())
        patched.write_text(patch, "ascii")  # longer than an argument may be
        self.kube.kubectl(
            "-n", self.namespace, "patch", "secret", NAME, "--type=merge", f"--patch-file={patched}"
        )

    def raw(self) -> bytes | None:
        return self.data().get(KEY)

    def kept_aside(self) -> list[bytes]:
        return [content for key, content in self.data().items() if key != KEY]

    def break_storage(self) -> None:
        """Take the rights away, and wait until the API server knows."""
        self.kube.kubectl("-n", self.namespace, "delete", "rolebinding", "agent")
        self.wait_until_it_may(False)

    def mend_storage(self) -> None:
        self.kube.make_account(self.namespace, "agent", self.rule)
        self.wait_until_it_may(True)

    def wait_until_it_may(self, may: bool) -> None:
        who = f"--as=system:serviceaccount:{self.namespace}:agent"
        can = ("auth", "can-i", "update", f"secrets/{NAME}")
        asked = self.kube.kubectl_command("-n", self.namespace, who, *can)
        for _ in range(200):
            if (subprocess.run(asked, capture_output=True, check=False, timeout=30).returncode == 0) is may:
                return
        self.fail("the API server does not hear of the right")


class LeaseTests(KubernetesCase):
    """Replicas and their one lease, in real time."""

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        await super().setUp()
        self.said: list[str] = []
        self.gates: list[LeaseGate] = []
        self.entering: list[Deferred[None]] = []
        self.addCleanup(lambda: Deferred.fromCoroutine(self.leave()))

    async def leave(self) -> None:
        """End what the test has begun."""
        for entering in self.entering:
            entering.addErrback(lambda failure: failure.trap(CancelledError))
            entering.cancel()
        for gate in self.gates:
            await gate.leave()

    def gate(self, identity: str, name: str = NAME, *, strict: bool = False) -> LeaseGate:
        gate = LeaseGate(
            self.reactor,
            self.api,
            self.namespace,
            name,
            identity=identity,
            strict=strict,
            wall=now,
            say=self.said.append,
        )
        self.gates.append(gate)
        return gate

    def enter(self, gate: LeaseGate) -> Deferred[None]:
        entering = Deferred.fromCoroutine(gate.enter())
        self.entering.append(entering)
        return entering

    async def spec(self, name: str = NAME) -> dict[str, Any]:
        """What the lease says."""
        lease = await self.api.get(dict, LEASES, name, namespace=self.namespace)
        spec: dict[str, Any] = lease["spec"]
        return spec

    async def start_holder(self, *options: str, within: tuple[str, ...] = ()) -> Program:
        """
        Another process, which holds the lease.

        @param options: C{"strict"}, or nothing.
        @param within: what its command line begins with: where it is to run.
        """
        program = [*within, sys.executable, "-m", "tests.peers.kubernetes.holder"]
        command = [*program, self.kube.kubeconfig, self.namespace, NAME, "a", *options]
        holder = Program.start(self.reactor, command)
        self.addCleanup(lambda: Deferred.fromCoroutine(holder.kill()))
        await holder.wait_for("holding")
        return holder

    async def until_in(self, entering: Deferred[None]) -> float:
        """Wait until a standby is in that waits for a lease to end; the seconds that it took from now."""
        began = self.reactor.seconds()
        await self.in_time(entering, DURATION + TURN)
        return self.reactor.seconds() - began

    async def test_two(self) -> None:
        """The first gets in; the second waits, says for whom, and is in soon after the first has left."""
        first = self.gate("a")
        await self.enter(first)
        entering = self.enter(self.gate("b"))
        await sleep(self.reactor, 2 * RETRY_PERIOD)
        self.assertNoResult(entering)
        self.assertIn(f"a is active and holds the lease {self.namespace}/{NAME}", self.said[0])
        await first.leave()
        await self.in_time(entering, TURN)
        spec = await self.spec()
        self.assertEqual((spec["holderIdentity"], spec["leaseTransitions"]), ("b", 1))

    async def test_killed(self) -> None:
        """A holder that is killed gives nothing back: the next is in when the lease is over, not before."""
        holder = await self.start_holder()
        entering = self.enter(self.gate("b"))
        await sleep(self.reactor, 1.0)
        await holder.kill()
        self.assertGreater(await self.until_in(entering), DURATION - RETRY_PERIOD - 1.0)

    async def test_stopped(self) -> None:
        """
        A holder that stands still (C{SIGSTOP}, as a machine that is suspended) loses the lease to the next.
        When it goes on it takes nothing back: it sees who holds the lease, says so, and is active no more.
        """
        holder = await self.start_holder()
        entering = self.enter(self.gate("b"))
        await sleep(self.reactor, 1.0)
        holder.signal("STOP")
        self.assertGreater(await self.until_in(entering), DURATION - RETRY_PERIOD - 1.0)
        self.assertEqual(holder.seen("lost"), [])
        holder.signal("CONT")
        lost = await holder.wait_for("lost", timeout=TURN)
        self.assertEqual(lost["reason"], f"b holds the lease {self.namespace}/{NAME} now")
        self.assertEqual((await self.spec())["holderIdentity"], "b")

    async def test_partition_strict(self) -> None:
        """A strict holder that is cut off gives up before the next is in: there are never two."""
        cable = Cable(self, self.kube.network, to=self.kube.address)
        holder = await self.start_holder("strict", within=cable.here)
        entering = self.enter(self.gate("b"))
        await sleep(self.reactor, 1.0)
        cable.cut()
        lost = await holder.wait_for("lost", timeout=DURATION)
        self.assertIn("could not be renewed", lost["reason"])
        self.assertNoResult(entering)
        await self.until_in(entering)

    async def test_partition(self) -> None:
        """Any other stays active while cut off, also beside the next; when they meet it steps back."""
        cable = Cable(self, self.kube.network, to=self.kube.address)
        holder = await self.start_holder(within=cable.here)
        entering = self.enter(self.gate("b"))
        await sleep(self.reactor, 1.0)
        cable.cut()
        await self.until_in(entering)
        self.assertEqual(holder.seen("lost"), [])
        cable.mend()
        lost = await holder.wait_for("lost")
        self.assertEqual(lost["reason"], f"b holds the lease {self.namespace}/{NAME} now")
        self.assertEqual((await self.spec())["holderIdentity"], "b")

    async def test_server_that_hangs(self) -> None:
        """
        The API server stops answering. A strict holder gives up before others may take its lease; another
        goes on, and renews it when the server is back.
        """
        strict, lenient = self.gate("a", strict=True), self.gate("b", "other")
        await self.enter(strict)
        await self.enter(lenient)
        lost: list[str] = []
        strict.when_lost().addCallback(lost.append)
        lenient.when_lost().addCallback(lost.append)
        self.kube.signal("apiserver", signal.SIGSTOP)
        try:
            stopped = self.reactor.seconds()
            await self.until(lambda: bool(lost), DURATION)
            self.assertGreater(self.reactor.seconds() - stopped, RENEW_DEADLINE - RETRY_PERIOD - 1.0)
        finally:
            self.kube.signal("apiserver", signal.SIGCONT)
        self.assertEqual(len(lost), 1)
        self.assertIn("could not be renewed", lost[0])
        before = (await self.spec("other"))["renewTime"]
        await sleep(self.reactor, RENEW_DEADLINE + RETRY_PERIOD)
        spec = await self.spec("other")
        self.assertGreater(spec["renewTime"], before)
        self.assertEqual((spec["holderIdentity"], len(lost)), ("b", 1))
