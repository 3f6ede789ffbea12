"""The running agent's HTTP interface, asked over sockets."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import msgspec

from pipeops_agent.sandbox import faults
from pipeops_agent.settings import Loaded
from pipeops_agent.settings.model import DenySettings
from pipeops_agent.web.api import connectivity
from tests.agent.cluster_house import ClusterHouse, pod
from tests.agent.house import TOKEN, change, free_port, look_until


class InterfaceHouse(ClusterHouse):
    """A house whose agent is asked with its token."""

    async def ask(self, path: str) -> Any:
        """The body of an answer that is as it should be."""
        code, body = await self.get(path, token=TOKEN)
        self.assertEqual(code, 200, body)
        return json.loads(body)


class ConnectivityTests(InterfaceHouse):
    """Probes of what is really there."""

    async def test_all_there(self) -> None:
        """Control plane, its name, chisel server, API server, and the one forward that has a target."""
        self.start_sandbox()
        self.start_api()
        settings = self.with_kubeconfig()
        self.start_agent(settings)
        await self.until_connected()
        answer = await self.ask("/api/status/connectivity")
        for name in ("control_plane", "chisel_server", "kubernetes_api"):
            self.assertTrue(answer[name]["ok"], answer)
            self.assertGreater(answer[name]["latency_ms"], 0)
        self.assertIsNone(answer["dns"])  # its address is written in numbers
        forwards = {name: each["ok"] for name, each in answer["forwards"].items()}
        self.assertEqual(forwards, {"kubernetes-api": True, "kubelet-metrics": False, "agent-http": True})
        self.assertIn("refuses connections", answer["forwards"]["kubelet-metrics"]["error"])
        self.assertEqual(answer["overall_status"], "degraded")

    async def test_control_plane_away(self) -> None:
        """What has gone is named, with the reason, and what is still there as well."""
        self.patch(connectivity, "FRESH", 0.0)
        self.start_sandbox()
        self.start_api()
        self.start_agent(self.with_kubeconfig())
        await self.until_connected()
        await self.sandbox.stopService()
        await self.listening.stop()
        answer = await self.ask("/api/status/connectivity")
        self.assertEqual(answer["overall_status"], "unhealthy")
        for name in ("control_plane", "kubernetes_api"):
            self.assertFalse(answer[name]["ok"], name)
            self.assertIn("refuses connections", answer[name]["error"])
        self.assertTrue(answer["forwards"]["agent-http"]["ok"])

    async def test_names(self) -> None:
        """A name is looked up, with and without success; without tunnel and cluster these are not asked."""
        self.start_sandbox()
        port = self.sandbox.api_url.rpartition(":")[2]
        url = f"http://localhost:{port}"
        self.start_agent(self.settings(pipeops={"api_url": url}, tunnel={"enabled": False}))
        await self.until(lambda status: status.heartbeat.state == "ok", "a heartbeat")
        answer = await self.ask("/api/status/connectivity")
        self.assertEqual((answer["dns"]["ok"], answer["dns"]["target"]), (True, "localhost"))
        self.assertEqual(
            (answer["chisel_server"], answer["kubernetes_api"], answer["forwards"]), (None, None, {})
        )
        self.assertEqual(answer["overall_status"], "healthy")

    async def test_of_no_use(self) -> None:
        """A control plane that refuses the token, or fails, counts as not reached; the answer says why."""
        self.patch(connectivity, "FRESH", 0.0)
        self.start_sandbox()
        self.start_agent()
        await self.until_connected()
        for status, said in ((401, "refuses the token"), (503, "503 Service Unavailable")):
            self.sandbox.faults.add(faults.Status(call="health", status=status))
            probe = (await self.ask("/api/status/connectivity"))["control_plane"]
            self.assertFalse(probe["ok"], status)
            self.assertIn(said, probe["error"])
            self.sandbox.faults.clear()


class SettingsTests(InterfaceHouse):
    """The settings of a process."""

    async def test_no_secret(self) -> None:
        """The token is shown as length and hash; the port is the one that is listened on."""
        self.start_sandbox()
        self.start_agent()
        await self.until_connected()
        code, body = await self.get("/api/settings", token=TOKEN)
        self.assertEqual(code, 200)
        self.assertNotIn(TOKEN.reveal(), body)
        rows = {each["path"]: each["value"] for each in json.loads(body)["settings"]}
        self.assertIn(f"{len(TOKEN.reveal())} characters", rows["pipeops.token"])
        self.assertEqual(rows["server.port"], str(self.agent.settings.server.port))


class HealthTests(InterfaceHouse):
    """What the agent says of itself."""

    async def test_agree(self) -> None:
        """Health, readiness and features are of one truth; the history has begun."""
        self.start_sandbox()
        self.start_api()
        self.start_agent(self.with_kubeconfig())
        await self.until_connected()
        await self.until_watched()
        health = await self.ask("/api/health/detailed")
        self.assertEqual(health["status"], "healthy")
        self.assertEqual(health["agent"]["agent_id"], self.known.agent_id)
        self.assertEqual(health["registration"]["cluster_id"], self.known.cluster_id)
        self.assertEqual(health["cluster"]["version"], "v1.34.4")
        self.assertEqual(
            [each["name"] for each in health["tunnel"]["forwards"]],
            [each.name for each in self.agent.settings.tunnel.forwards],
        )
        features = (await self.ask("/api/status/features"))["features"]
        self.assertTrue(features["inventory"]["available"])
        history = await self.ask("/api/metrics/history")
        self.assertGreaterEqual(len(history["samples"]), 1)
        await self.get("/health", port=self.known.ports["agent-http"])
        runtime = await self.ask("/api/metrics/runtime")
        self.assertGreater(runtime["bandwidth"]["bytes_out"], 0)
        self.assertGreater(runtime["file_descriptors"]["open"], 3)


class ListTests(InterfaceHouse):
    """The cluster's objects, from a server on loopback into a page."""

    async def test_pods(self) -> None:
        """What the cluster holds is given page by page, and a new pod without asking anybody again."""
        self.start_sandbox()
        self.start_api()
        self.start_agent(self.with_kubeconfig())
        await self.until_watched()
        first = await self.ask("/api/cluster/pods?limit=1")
        self.assertEqual([each["name"] for each in first["items"]], ["a"])
        self.assertEqual(first["list"]["state"], "live")
        self.api.storage.create("pods", "shop", pod("c"))
        await look_until(lambda: len(self.agent.cluster.inventory["pods"]) == 3, "the pod")
        rest = await self.ask(f"/api/cluster/pods?continue={first['continue']}")
        self.assertEqual([each["name"] for each in rest["items"]], ["b", "c"])
        (node,) = (await self.ask("/api/cluster/nodes"))["items"]
        self.assertEqual((node["name"], node["external_ip"]), ("node-1", "203.0.113.7"))

    async def test_owners_rules(self) -> None:
        """Rules that come by SIGHUP hold for the next question."""
        self.start_sandbox()
        self.start_api()
        self.start_agent(self.with_kubeconfig())
        await self.until_watched()
        denied = change(self.agent.settings, access={"deny": DenySettings(namespaces=("shop",))})
        self.next_settings = lambda: Loaded(denied, {}, None)
        self.agent.reload()
        self.assertEqual((await self.ask("/api/cluster/pods"))["items"], [])
        code, body = await self.get("/api/cluster/pods?namespace=shop", token=TOKEN)
        self.assertEqual((code, json.loads(body)["error"]["code"]), (403, "out_of_reach"))

    async def test_no_cluster(self) -> None:
        """An agent on a machine without a cluster says so."""
        self.start_sandbox()
        self.start_agent()
        await self.until_connected()
        code, body = await self.get("/api/cluster/pods", token=TOKEN)
        self.assertEqual((code, json.loads(body)["error"]["code"]), (404, "no_cluster"))


class DescriptionTests(InterfaceHouse):
    """What the agent says that it can be asked."""

    async def test_all_routes(self) -> None:
        """Every route but the canary's is described, and nothing that is none; switched off or on."""
        self.start_sandbox()
        for switched in (True, False):
            server = {"enable_websocket": switched, "enable_sse": switched, "port": free_port()}
            agent = self.start_agent(self.settings(server=server))
            await self.until_connected()
            document = json.loads((await self.get("/openapi.json"))[1])
            described = {
                (path, method.upper()) for path, methods in document["paths"].items() for method in methods
            }
            table = agent.http._listener.site.router._tables.items()
            routes = {("/".join(segments), method) for segments, handlers in table for method in handlers}
            self.assertEqual(described, routes - {("/canary/{nonce}", "GET")})
            self.assertEqual(("/ws", "GET") in described, switched)
            await agent.stopService()

    async def test_messages(self) -> None:
        """All that C{/ws} understands, and what it answers, is as described."""
        self.start_sandbox()
        agent = self.start_agent()
        await self.until_connected()
        document = json.loads((await self.get("/asyncapi.json"))[1])
        taken = {name.removeprefix("take_") for name in document["operations"] if name.startswith("take_")}
        self.assertEqual(taken, {message.name for message in agent.realtime.messages})
        for name, data in (
            ("status_response", agent.realtime.status()),
            ("metrics_response", agent.realtime.metrics()),
        ):
            payload = document["components"]["messages"][name]["payload"]
            message = {"type": name, "timestamp": "2025-10-15T08:00:00Z", "data": msgspec.to_builtins(data)}
            schema = {**payload, "components": document["components"]}
            jsonschema_rs.validator_for(schema).validate(message)
