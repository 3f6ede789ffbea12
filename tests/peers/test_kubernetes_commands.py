"""Commands, logs and processes through the running agent, in a real Kubernetes with real pods."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from pipeops_agent.caller import Grant
from pipeops_agent.cluster.pod_state import PodState
from pipeops_agent.cluster.resources import NAMESPACES, PODS
from pipeops_agent.settings.model_server import ServerToken
from tests.agent.house import REACTOR, TOKEN, look_until
from tests.agent.test_realtime import RealtimeCase
from tests.peers.kubernetes.busybox import IMAGE, cluster_with_busybox
from tests.peers.kubernetes.client import Client
from tests.peers.processes import Program

PATIENCE = 90.0
"""Seconds in which a pod must be there, also on a busy machine."""

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: IMAGE
        imagePullPolicy: Never
        command: [sh, -c, "echo begun; sleep 3600"]
"""


class CommandTests(RealtimeCase):
    """An agent beside a cluster, and a WebSocket client of another making."""

    timeout = 300

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        super().setUp()
        kube = cluster_with_busybox()
        client = Client(REACTOR)
        self.addCleanup(lambda: Deferred.fromCoroutine(client.close()))
        self.kube_api = client.administrator(kube)
        self.namespace = f"test-{secrets.token_hex(4)}"
        await self.kube_api.create(dict, NAMESPACES, {"metadata": {"name": self.namespace}})
        token = ServerToken(name="tester", token=TOKEN, scopes=(Grant("read"), Grant("operate")))
        self.start_agent(
            self.settings(kubernetes={"kubeconfig": str(kube.kubeconfig)}, server={"tokens": (token,)})
        )
        await self.until(lambda status: status.cluster.reachable, "the cluster")
        self.ws = self.websocket()
        await self.ws.wait_for("open")

    async def pod(self, name: str, script: str) -> None:
        """Let there be a pod that runs C{script}."""
        container = {
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", script],
            "stdin": True,
        }
        spec = {"containers": [container], "terminationGracePeriodSeconds": 0, "restartPolicy": "Never"}
        body = {"metadata": {"name": name}, "spec": spec}
        await self.retried(lambda: self.kube_api.create(dict, PODS, body, namespace=self.namespace))
        running = False
        while not running:
            state = await self.kube_api.get(PodState, PODS, name, namespace=self.namespace)
            running = state.container("main").state.running is not None

    async def retried(self, what: Callable[[], Any]) -> None:
        """Do it when the namespace's account is there, which a controller makes."""
        while True:
            try:
                await what()
            except Exception as error:
                if "serviceaccount" not in str(error):
                    raise
            else:
                return

    # -- the client

    def say(self, name: str, data: Any, request: str = "1") -> None:
        self.ws.order("send", message={"type": name, "id": request, "data": data})

    def came(self, request: str, *types: str, client: Program | None = None) -> list[dict[str, Any]]:
        """The messages that have come with this id."""
        messages = [event["message"] for event in (client or self.ws).events if event["event"] == "message"]
        return [each for each in messages if each.get("id") == request and each["type"] in types]

    async def until_came(self, request: str, *types: str) -> dict[str, Any]:
        """The first message with this id and one of these types."""
        await look_until(lambda: self.came(request, *types, "error"), f"{types} of {request}", PATIENCE)
        (message, *_) = self.came(request, *types, "error")
        self.assertIn(message["type"], types, message)
        data: dict[str, Any] = message["data"]
        return data

    def begin(self, kind: str, target: str, request: str, **fields: Any) -> None:
        """Send a command about something in the namespace."""
        what, _, name = target.partition("/")
        own = {each: fields.pop(each) for each in ("command", "timeout") if each in fields}
        place = {"type": what, "name": name, "namespace": self.namespace}
        self.say("command", {"type": kind, "target": place, "args": fields, **own}, request)

    async def command(self, kind: str, target: str, request: str, **fields: Any) -> dict[str, Any]:
        """How a command has ended."""
        self.begin(kind, target, request, **fields)
        return await self.until_came(request, "command_response")

    def output(self, request: str) -> str:
        """What a command has written."""
        return "".join(each["data"].get("output", "") for each in self.came(request, "command_output"))

    # -- what is tested

    async def test_exec(self) -> None:
        """Output of both streams, exit codes, input up to its end; each with an audit record."""
        await self.pod("box", "sleep 3600")
        ended = await self.command(
            "exec", "pod/box", "a", command=["sh", "-c", "echo one; echo two >&2; exit 3"]
        )
        self.assertEqual((ended["success"], ended["exit_code"]), (False, 3))
        streams = {
            each["data"]["stream"]: each["data"]["output"] for each in self.came("a", "command_output")
        }
        self.assertEqual(streams, {"stdout": "one\n", "stderr": "two\n"})
        self.begin("exec", "pod/box", "b", command=["cat"], stdin=True)
        for text in ("hello\n", "world\n"):
            self.say("input", {"data": text}, "b")
        self.say("input", {"eof": True}, "b")
        ended = await self.until_came("b", "command_response")
        self.assertEqual((ended["success"], self.output("b")), (True, "hello\nworld\n"))
        ended = await self.command("exec", "pod/box", "c", command=["no-such-program"])
        self.assertFalse(ended["success"])
        self.assertIn("no-such-program", ended["error"])
        ended = await self.command("exec", "pod/nobody", "d", command=["true"])
        self.assertEqual(ended["code"], "not_found")
        records = self.records(component="audit", action="exec")
        self.assertEqual([each["verdict"] for each in records], ["failed", "done", "failed", "failed"])
        self.assertEqual((records[1]["subject"], records[1]["bytes_in"]), ("tester", 12))

    async def test_timeout_and_cancel(self) -> None:
        """What takes too long, and what is cancelled, ends at once and says so."""
        await self.pod("box", "sleep 3600")
        ended = await self.command("exec", "pod/box", "a", command=["sleep", "60"], timeout=1)
        self.assertEqual((ended["success"], ended["code"]), (False, "timed_out"))
        self.begin("exec", "pod/box", "b", command=["sh", "-c", "echo begun; sleep 60"])
        await self.until_came("b", "command_output")
        self.say("cancel", {"id": "b"}, "c")
        await self.until_came("b", "cancelled")

    async def test_shell(self) -> None:
        """A terminal of the size that is asked for, which is typed into."""
        await self.pod("box", "sleep 3600")
        self.begin("shell", "pod/box", "s", cols=100, rows=30)
        self.say("input", {"data": "stty size\n"}, "s")
        await look_until(lambda: "30 100" in self.output("s"), "the first size", PATIENCE)
        self.say("resize", {"cols": 80, "rows": 24}, "s")
        self.say("input", {"data": "sleep 0; stty size\n"}, "s")
        await look_until(lambda: "24 80" in self.output("s"), "the second size", PATIENCE)
        self.say("input", {"data": "exit 7\n"}, "s")
        ended = await self.until_came("s", "command_response")
        self.assertEqual(ended["exit_code"], 7)

    async def test_logs(self) -> None:
        """Lines as they are written, to two followers, of which one is cancelled; then the pod's end."""
        await self.pod("say", "echo one; while read line; do echo got $line; done")
        for request in ("a", "b"):
            self.say("logs", {"namespace": self.namespace, "pod": "say"}, request)
            await self.until_lines(request, "one")
        self.begin("attach", "pod/say", "t", stdin=True)
        self.say("input", {"data": "two\n"}, "t")
        await self.until_lines("b", "one", "got two")
        self.say("cancel", {"id": "a"}, "c")
        await self.until_came("a", "cancelled")
        ended = await self.command("delete", "pod/say", "d", wait=True)
        self.assertTrue(ended["success"], ended)
        end = await self.until_came("b", "log_end")
        self.assertIn(end["reason"], ("gone", "ended"))
        ended = await self.command("logs", "pod/say", "e")
        self.assertEqual(ended["code"], "not_found")

    async def until_lines(self, request: str, *lines: str) -> None:
        await look_until(lambda: self.lines(request) == [*lines], f"the lines {lines}", PATIENCE)

    def lines(self, request: str) -> list[str]:
        return [line["line"] for each in self.came(request, "log") for line in each["data"].get("lines", ())]

    async def test_rollout(self) -> None:
        """A deployment is applied, rolled out, scaled and restarted, with progress; by C{POST} as well."""
        manifest = DEPLOYMENT.replace("IMAGE", IMAGE)
        ended = await self.command("deploy", "", "a", manifest=manifest)
        self.assertTrue(ended["success"], ended)
        ended = await self.command("rollout", "deployment/web", "b", wait=True, timeout=120)
        self.assertEqual(ended["result"]["state"], "done", ended)
        self.assertTrue(self.output("b"))
        ended = await self.command("scale", "deploy/web", "c", replicas=2)
        self.assertEqual(ended["result"]["replicas"], 2)
        ended = await self.command("restart", "deploy/web", "d")
        self.assertTrue(ended["success"], ended)
        place = {"type": "deploy", "name": "web", "namespace": self.namespace}
        command = {"type": "rollout", "target": place, "args": {"wait": True}, "timeout": 120}
        post = self.curl("/api/commands", "-d", json.dumps(command))
        await look_until(
            lambda: "command_response" in {each["value"] for each in post.seen("event")}, "the end", PATIENCE
        )
        message = self.data(post)[-1]
        self.assertEqual((message["type"], message["data"]["result"]["state"]), ("command_response", "done"))
        ended = await self.command("get_resources", "pods", "e", labels="app=web")
        self.assertGreaterEqual(len(ended["result"]["items"]), 2)

    async def test_proxy(self) -> None:
        """A watch by proxy: parts as they come, until it is cancelled."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        self.say("proxy", {"path": path, "query": "watch=1", "stream": True}, "w")
        first = await self.until_came("w", "proxy_response")
        self.assertEqual((first["status_code"], first["done"]), (200, False))
        await self.pod("box", "sleep 3600")
        await look_until(lambda: len(self.came("w", "proxy_response")) > 2, "events", PATIENCE)
        self.say("cancel", {"id": "w"}, "c")
        await self.until_came("w", "cancelled")
