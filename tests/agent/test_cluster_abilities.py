"""What an agent can do in its cluster, and the control plane's own token: with the fake API server."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import msgspec
from twisted.web.server import NOT_DONE_YET, Request

from pipeops_agent import facts
from pipeops_agent.caller import Caller
from pipeops_agent.clock import utc_now
from pipeops_agent.cluster import rights, service_token
from pipeops_agent.cluster.operations import Command, Target
from pipeops_agent.cluster.proxying import ProxyRequest
from pipeops_agent.cluster.scope import OutOfReach
from pipeops_agent.controlplane import registration
from pipeops_agent.health import FeatureState
from pipeops_agent.sandbox import faults
from pipeops_agent.sandbox.pki import Authority
from pipeops_agent.settings import Loaded
from pipeops_agent.settings.model_pipeops import RegistrationSettings
from tests.agent.cluster_house import ClusterHouse
from tests.agent.house import change, look_until
from tests.cluster.case import EVERYTHING
from tests.cluster.fakeapi import Asked, FakeApi, operating


class AbilityTests(ClusterHouse):
    """What can be done in the cluster."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(registration, "BETWEEN_REGISTRATIONS", 0.05)
        operating.Discovery(self.api)
        self.reviews = operating.Reviews(self.api)
        self.reviews.cluster = {"get pods", "get pods/log", "patch nodes"}
        operation = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
        self.reviews.rules = {"shop": [operation]}
        self.api.storage.create("namespaces", "", {"metadata": {"name": "shop"}})
        self.start_sandbox()
        self.start_api()

    def states(self) -> dict[str, FeatureState]:
        """The features."""
        return {feature.name: feature.state(self.agent.board.now) for feature in self.agent.features}

    def rights(self) -> set[str]:
        """What the control plane was told."""
        told = self.known.registration.metadata.get("rights")
        return set() if told is None else set(told.split(","))

    async def test_none(self) -> None:
        """An agent that may do nothing at all is registered, and says so."""
        self.reviews.cluster = set()
        self.reviews.rules = {}
        self.start_agent(self.with_kubeconfig())
        await self.until_connected()
        self.assertEqual(self.rights(), {"none"})

    async def test_rights(self) -> None:
        """
        The first registration tells what can be done, and where; the features say what stands in the way; the
        log says it once, with the rule that would grant it.
        """
        self.start_agent(self.with_kubeconfig())
        await self.until_connected()
        self.assertEqual(self.agent.board.now.registration.attempts, 1)
        self.assertLessEqual({"logs", "cordon", "exec@shop", "scale@shop"}, self.rights())
        self.assertTrue({"exec", "drain", "inventory_nodes"}.isdisjoint(self.rights()))
        states = self.states()
        self.assertEqual(states["logs"].reason, "allowed")
        self.assertTrue(states["exec"].available)
        self.assertIn("in shop alone; the agent lacks the right to get pods/exec", states["exec"].reason)
        self.assertFalse(states["drain"].available)
        self.assertIn(
            '{apiGroups: [""], resources: [pods/eviction], verbs: [create]}', states["drain"].reason
        )
        self.assertIn("apps/v1", self.agent.board.now.cluster.api_versions)
        (said,) = [one for one in self.records() if one.get("feature") == "drain"]
        self.assertEqual(said["level"], "info")
        self.assertIn("a ClusterRole grants it with", said["msg"])

    async def test_granted_later(self) -> None:
        """A right that is granted is noticed, and the control plane hears of it."""
        self.patch(rights, "INTERVAL", 0.1)
        self.start_agent(self.with_kubeconfig())
        await self.until_connected()
        self.assertNotIn("kubernetes_tokens", self.rights())
        self.reviews.cluster |= {"create tokenreviews", "create subjectaccessreviews"}
        await look_until(lambda: "kubernetes_tokens" in self.rights(), "the registration")
        self.assertTrue(self.states()["kubernetes_tokens"].available)
        self.assertEqual(len([one for one in self.records() if one.get("feature") == "drain"]), 1)

    async def test_answered_late(self) -> None:
        """What was not known in time for the registration is told after it, also where that took its time."""
        self.patch(facts, "FACT_TIMEOUT", 0.1)
        held: list[Request] = []

        def hold(server: FakeApi, asked: Asked, request: Request) -> int:
            held.append(request)
            return NOT_DONE_YET

        kind = "selfsubjectaccessreviews.authorization.k8s.io"
        answering, self.api.handlers[kind] = self.api.handlers[kind], hold
        self.sandbox.faults.add(faults.HalfOpen(call="register", count=1))
        patience = {"timeout": 0.5, "registration": RegistrationSettings(retry_for=30.0)}
        self.start_agent(change(self.with_kubeconfig(), pipeops=patience))
        await self.until(lambda status: status.phase == "registering", "the registration")
        self.api.handlers[kind] = answering
        for request in held:
            request.write(operating.answer(request, {"status": {"allowed": True}}))
            request.finish()
        await self.until(lambda status: status.cluster.abilities, "the answers")
        self.assertEqual(self.agent.board.now.phase, "registering")
        await self.until_connected()
        await look_until(lambda: "logs" in self.rights(), "the second registration")

    async def test_owners_rules(self) -> None:
        """What the owner forbids while the agent runs can't be done from then on, whatever the rights."""
        self.start_agent(self.with_kubeconfig())
        await self.until_connected()
        loaded = Loaded(change(self.agent.settings, access={"read_only": True}), {}, None)
        self.next_settings = lambda: loaded
        self.agent.reload()
        await look_until(lambda: "exec@shop" not in self.rights(), "the registration")
        self.assertIn("logs", self.rights())
        self.assertEqual(self.states()["exec"].reason, "not allowed: access.read_only")

    async def test_operations(self) -> None:
        """Commands and proxied requests go to the cluster that is configured, by the rules of the moment."""
        self.start_agent(self.with_kubeconfig())
        await self.until_connected()
        caller = Caller(subject="a test", scopes=EVERYTHING, origin="127.0.0.1")
        command = Command(type="get_resources", target=Target(type="pods", namespace="shop"))
        found: Any = await self.agent.cluster.operations.run(caller, command, lambda progress: None)
        self.assertEqual([item["metadata"]["name"] for item in found.items], ["a", "b"])
        request = ProxyRequest(path="/api/v1/namespaces/shop/pods/a")
        answer = await (await self.agent.cluster.proxy.send(caller, request)).whole()
        self.assertEqual(json.loads(answer.body)["metadata"]["name"], "a")
        denied = msgspec.structs.replace(self.agent.settings.access.deny, namespaces=("shop",))
        loaded = Loaded(change(self.agent.settings, access={"deny": denied}), {}, None)
        self.next_settings = lambda: loaded
        self.agent.reload()
        for refused in (
            self.agent.cluster.operations.run(caller, command, lambda progress: None),
            self.agent.cluster.proxy.send(caller, request),
        ):
            with self.assertRaises(OutOfReach):
                await refused


class AccountTokenTests(ClusterHouse):
    """The control plane's token for the tunnelled API is an account's, by TokenRequest."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(registration, "BETWEEN_REGISTRATIONS", 0.05)
        self.patch(service_token, "MIN_PAUSE", 0.05)
        self.asked: list[tuple[str | None, str | None]] = []
        self.life = 3600.0
        self.api.handlers["serviceaccounts/token"] = self.give
        self.start_sandbox()
        self.authority = Authority(utc_now())
        self.start_api(self.authority.server(["127.0.0.1"]))

    def give(self, server: FakeApi, asked: Asked, request: Request) -> bytes:
        self.asked.append((asked.namespace, asked.name))
        ends = (utc_now() + timedelta(seconds=self.life)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        status = {"token": f"the-accounts-token-{len(self.asked)}", "expirationTimestamp": ends}
        return operating.answer(request, {"kind": "TokenRequest", "status": status}, code=201)

    def start(self) -> None:
        ca = self.directory / "ca.crt"
        ca.write_bytes(self.authority.pem)
        path = self.write_kubeconfig(
            f"https://127.0.0.1:{self.listening.port}", **{"certificate-authority": str(ca)}
        )
        self.start_agent(
            self.settings(
                kubernetes={"kubeconfig": str(path)},
                agent={"pod_namespace": "agents", "poll_interval": 0.1},
                pipeops={"cluster_service_account": "control-plane"},
            )
        )

    async def test_given(self) -> None:
        """The first registration has it, with the CA and the name of the API; no log has it."""
        self.start()
        await self.until_connected()
        told = self.known.registration
        self.assertEqual(self.asked, [("agents", "control-plane")])
        self.assertEqual(told.k8s_service_token, "the-accounts-token-1")
        self.assertEqual((told.k8s_ca, told.k8s_server_name), (self.authority.pem.decode(), "127.0.0.1"))
        self.assertEqual(self.agent.board.now.registration.attempts, 1)
        (feature,) = [each for each in self.agent.features if each.name == "cluster_token"]
        self.assertTrue(feature.state(self.agent.board.now).available)
        for secret in ("the-accounts-token-1", "the-kubeconfigs-token"):
            self.assertNotIn(secret, self.logged())
            self.assertNotIn(secret, self.log.redactor.clean(f"<{secret}>"))

    async def test_renewed(self) -> None:
        """Another one is asked for before it ends, and the control plane is told."""
        self.patch(service_token, "RENEWAL", 0.0001)
        self.start()
        await self.until_connected()
        await look_until(
            lambda: (
                self.known.registration.k8s_service_token == f"the-accounts-token-{len(self.asked)}"
                and len(self.asked) > 1
            ),
            "the second one",
        )
        self.assertNotIn("the-accounts-token", self.logged())

    async def test_refused(self) -> None:
        """Without the right the agent registers without one, says what is missing, and goes on trying."""
        self.api.allowed = lambda asked: asked.subresource != "token"
        self.start()
        await self.until_connected()
        self.assertFalse(self.known.registration.k8s_service_token)
        self.assertFalse(self.known.registration.k8s_ca)
        (feature,) = [each for each in self.agent.features if each.name == "cluster_token"]
        self.assertIn("a Role in agents grants it", feature.state(self.agent.board.now).reason)
        self.assertEqual(self.logged().count("there is no new token for the control plane"), 1)
        self.api.allowed = lambda asked: True
        await look_until(lambda: self.known.registration.k8s_service_token, "the token")
        self.assertEqual(feature.state(self.agent.board.now).reason, "the control plane has one")
