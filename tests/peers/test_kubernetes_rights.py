"""Rights, tokens and proxied requests against a real Kubernetes."""

from __future__ import annotations

from typing import Any

import yaml

from pipeops_agent.clock import utc_now
from pipeops_agent.cluster import service_token
from pipeops_agent.cluster.errors import StatusError
from pipeops_agent.cluster.kubeconfig import load_kubeconfig
from pipeops_agent.cluster.needs import FEATURES, own_features, rules
from pipeops_agent.cluster.proxying import Proxy, ProxyRequest
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.reviews import Attributes, Reviews
from pipeops_agent.cluster.rights import Places, places_within, review
from pipeops_agent.cluster.scope import OutOfReach, Scope
from pipeops_agent.cluster.service_token import ServiceAccountToken, verification
from pipeops_agent.secrets import Secret
from tests.peers.kubernetes import api_server
from tests.peers.kubernetes.client import no_plugin
from tests.peers.operations_case import OperationsCase


class RightsTests(OperationsCase):
    """Who may do what."""

    start = staticmethod(api_server)

    async def test_own_token(self) -> None:
        """A caller with a Kubernetes token can do what RBAC allows it, and nothing more."""
        caller = self.caller("reader", {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]})
        await self.run_command("get_resources", "pods", caller=caller)
        refused: list[tuple[str, str, str, dict[str, Any]]] = [
            ("get_resources", "secrets", "", {}),
            ("scale", "deploy", "web", {"replicas": 1}),
            ("delete", "pods", "x", {}),
        ]
        for operation, kind, name, args in refused:
            with self.assertRaises(StatusError) as caught:
                await self.run_command(operation, kind, name, caller=caller, **args)
            self.assertTrue(caught.exception.forbidden)

    async def test_rights(self) -> None:
        """An account with rights in one namespace: allowed there, the rest told with the rule it needs."""
        token = self.token(
            "agent",
            {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["apps"], "resources": ["*/scale"], "verbs": ["patch"]},
            {
                "apiGroups": [""],
                "resources": ["secrets"],
                "resourceNames": ["pipeops-agent-state"],
                "verbs": ["get", "update"],
            },
        )
        api = self.api.acting_with(token)
        own = own_features(
            namespace=self.namespace, state_secret="pipeops-agent-state", lease="l", service_account=""
        )
        places = Places(names=(self.namespace, "kube-system"), whole=False)
        report = await review(api, (*FEATURES, *own), places)
        for name in ("inventory_pods", "logs", "scale"):
            verdict = report.features[name]
            self.assertEqual((verdict.state, verdict.namespaces), ("namespaces", (self.namespace,)), name)
        self.assertEqual(report.features["state"].state, "allowed")
        self.assertEqual(report.features["lease"].state, "denied")
        self.assertEqual(report.features["drain"].state, "denied")
        self.assertIn("create pods/eviction; a ClusterRole grants it", report.features["drain"].sentence)
        # Who may not list the namespaces has its own alone.
        self.assertEqual(await places_within(api, Scope(), self.namespace), Places(names=(self.namespace,)))

    async def test_what_is_told_is_enough(self) -> None:
        """With the very rules that a missing right is reported with, everything is allowed."""
        needs = [need for feature in FEATURES for need in feature.needs]
        api = self.api.acting_with(self.token("agent"))
        places = Places(names=(self.namespace,))
        before = await review(api, FEATURES, places)
        self.assertEqual({verdict.state for verdict in before.features.values()}, {"denied"})
        self.kube.make_account(self.namespace, "agent", *map(yaml.safe_load, rules(needs)), everywhere=True)
        after = await review(api, FEATURES, places)
        self.assertEqual({verdict.state for verdict in after.features.values()}, {"allowed"})

    async def test_reviews(self) -> None:
        """TokenReview says who; SubjectAccessReview what they may do."""
        token = self.token("visitor", {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]})
        reviews = Reviews(self.reactor, self.api)
        identity = await reviews.identify(token, "test")
        assert identity is not None
        self.assertEqual(identity.username, f"system:serviceaccount:{self.namespace}:visitor")
        may = Attributes(verb="list", resource="pods", namespace=self.namespace)
        self.assertTrue(await reviews.allowed(identity, may))
        may_not = Attributes(verb="delete", resource="pods", namespace=self.namespace)
        self.assertFalse(await reviews.allowed(identity, may_not))
        forged = Secret(token.reveal()[:-8] + "AAAAAAAA")
        self.assertIsNone(await reviews.identify(forged, "test"))

    async def test_service_token(self) -> None:
        """A token that the server takes, with the CA and name by which the server can be verified."""
        self.token("pipeops-control")
        source = ServiceAccountToken(
            self.reactor, self.api, lambda: self.namespace, "pipeops-control", wall=utc_now
        )
        source.startService()
        self.addCleanup(source.stopService)
        await self.in_time(source.asked())
        identity = await Reviews(self.reactor, self.api).identify(source.current() or Secret(""), "test")
        assert identity is not None
        self.assertTrue(identity.username.endswith(":pipeops-control"))
        config = load_kubeconfig(self.kube.kubeconfig, "", no_plugin)
        authority, name = verification(config)
        self.assertIn("BEGIN CERTIFICATE", authority)
        self.assertEqual(name, config.host)

    async def test_no_right_to_tokens(self) -> None:
        """Without the right to ask for it the rule is told; with that very rule there is a token."""
        self.patch(service_token, "MIN_PAUSE", 0.2)
        self.token("pipeops-control")
        api = self.api.acting_with(self.token("agent"))
        source = ServiceAccountToken(
            self.reactor, api, lambda: self.namespace, "pipeops-control", wall=utc_now
        )
        source.startService()
        self.addCleanup(source.stopService)
        await self.in_time(source.asked())
        assert source.problem is not None
        _, _, rule = source.problem.partition(" grants it with ")
        self.kube.make_account(self.namespace, "agent", yaml.safe_load(rule))
        await self.until(lambda: source.current() is not None)


class ProxyTests(OperationsCase):
    """Callers' own requests."""

    start = staticmethod(api_server)

    async def test_proxy(self) -> None:
        """Any path, streamed both ways, within the owner's rules."""
        proxy = Proxy(self.api, self.discovery, Reach())
        listed = await proxy.send(
            self.admin,
            ProxyRequest(path=f"/api/v1/namespaces/{self.namespace}/configmaps", query={"limit": "5"}),
        )
        self.assertEqual(listed.status_code, 200)
        self.assertIn(b"ConfigMapList", (await listed.whole()).body)

        pieces = [b'{"metadata": {"name": "sent"}, ', b'"data": {"a": "', b"x" * 100_000, b'"}}']

        class Source:
            async def read(self) -> bytes:
                return pieces.pop(0) if pieces else b""

        made = await proxy.send(
            self.admin,
            ProxyRequest(
                method="POST",
                path=f"/api/v1/namespaces/{self.namespace}/configmaps",
                headers={"Content-Type": "application/json"},
            ),
            Source(),
        )
        self.assertEqual((await made.whole()).status_code, 201)

        watch = await proxy.send(
            self.admin,
            ProxyRequest(
                path=f"/api/v1/namespaces/{self.namespace}/configmaps",
                query={"watch": "true", "fieldSelector": "metadata.name=sent"},
                stream=True,
            ),
        )
        head, first = await watch.read(), await watch.read()
        self.assertEqual((head.status_code, head.chunk, first.chunk, first.done), (200, 0, 1, False))
        self.assertIn(b'"ADDED"', first.body)
        watch.close()

        missing = await proxy.send(
            self.admin, ProxyRequest(path=f"/api/v1/namespaces/{self.namespace}/pods/none")
        )
        self.assertEqual((await missing.whole()).status_code, 404)

        limited = Proxy(
            self.api, self.discovery, Reach(scope=Scope(denied_namespaces=frozenset({"kube-system"})))
        )
        for path in ("/api/v1/secrets", "/api/v1/namespaces/kube-system/pods", "/api/v1/namespaces"):
            with self.assertRaises(OutOfReach):
                await limited.send(self.admin, ProxyRequest(path=path))

    async def test_proxy_with_own_token(self) -> None:
        """A caller's own token goes out in place of the agent's."""
        caller = self.caller("poor")
        exchange = await Proxy(self.api, self.discovery, Reach()).send(
            caller, ProxyRequest(path=f"/api/v1/namespaces/{self.namespace}/pods")
        )
        answer = await exchange.whole()
        self.assertEqual(answer.status_code, 403)
        self.assertIn(b"poor", answer.body)
