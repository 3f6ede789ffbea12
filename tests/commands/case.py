"""Callers of the WebSocket and of HTTP, the real desk, and the fake API server: all in memory, one clock."""

from __future__ import annotations

from typing import Any, Final

from treq.testing import RequestTraversalAgent
from twisted.internet.error import ConnectionLost

from pipeops_agent.access.audit import Audit
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.config import ClusterConfig, StaticCredentials
from pipeops_agent.cluster.discovery import Discovery
from pipeops_agent.cluster.logs import Logs
from pipeops_agent.cluster.operations import Kit, Operations
from pipeops_agent.cluster.proxying import Proxy
from pipeops_agent.cluster.reach import Reach
from pipeops_agent.cluster.scope import Scope
from pipeops_agent.cluster.streaming import Streams
from pipeops_agent.cluster.transport import Transport
from pipeops_agent.commands.desk import Desk
from pipeops_agent.commands.http import CommandStreams
from pipeops_agent.commands.messages import command_messages, pod_logs
from pipeops_agent.events import Event
from pipeops_agent.log import Redactor
from pipeops_agent.net import ClientTLS
from pipeops_agent.secrets import Secret
from pipeops_agent.tokens import SettingsToken
from pipeops_agent.web.sse import EventStreams
from pipeops_agent.web.websocket.messages import LogQuery
from pipeops_agent.web.websocket.running import Call
from tests.cluster.case import AgentsOf
from tests.cluster.fakeapi import FakeApi, operating
from tests.cluster.fakeapi.logs import FakeLogs
from tests.cluster.fakeapi.sockets import FakeEndpoints, FakeSocket
from tests.web.websocket.harness import HubCase, Peer

NOON: Final = 1_705_320_000.0
"""2024-01-15T12:00:00Z"""

RUNNING: Final[dict[str, Any]] = {"running": {"startedAt": "2024-01-15T10:00:00Z"}}


class Cluster:
    """What a L{Desk} asks for: the real things, on a fake API server, by the rules of C{scope}."""

    def __init__(self, case: DeskCase) -> None:
        self._case = case
        self._discovery = Discovery(case.clock, case.api)
        self.scope = Scope()

    @property
    def reach(self) -> Reach:
        return Reach.of(
            self.scope,
            namespace="pipeops-system",
            state_secret="pipeops-agent-state",
            lease="pipeops-agent",
        )

    @property
    def operations(self) -> Operations:
        case = self._case
        return Operations(
            Kit(clock=case.clock, wall=case.wall, api=case.api, discovery=self._discovery, reach=self.reach)
        )

    @property
    def proxy(self) -> Proxy:
        return Proxy(self._case.api, self._discovery, self.reach)

    @property
    def logs(self) -> Logs:
        return Logs(self._case.clock, self._case.api, self.reach, random=lambda: 0.5)

    @property
    def streams(self) -> Streams:
        case = self._case
        return Streams(
            case.clock, case.endpoints, case.config, self.reach, version="0", observe=lambda *_: None
        )


class DeskCase(HubCase):
    """
    A desk that is asked over the WebSocket and by HTTP.

    @ivar audited: the audit records so far.
    """

    scopes: tuple[str, ...] = ("read", "operate")

    def setUp(self) -> None:
        super().setUp()
        if self.scopes:
            self.let_in(*self.scopes)
        self.kube = FakeApi()
        self.storage = self.kube.storage
        operating.Discovery(self.kube)
        operating.serve_scale(self.kube)
        self.kubelet = FakeLogs()
        self.kube.handlers["pods/log"] = self.kubelet
        self._traversal = RequestTraversalAgent(self.kube)
        self.config = ClusterConfig(
            origin="a test",
            host="kube.test",
            port=6443,
            tls=ClientTLS(),
            credentials=StaticCredentials(SettingsToken(Secret("the agent's own token"))),
        )
        transport = Transport(
            self.clock,
            AgentsOf(self._traversal),
            self.config,
            version="0",
            observe=lambda *_: None,
            random=lambda: 0.5,
        )
        self.api = Api(transport)
        self.endpoints = FakeEndpoints(self.clock)
        self.cluster = Cluster(self)
        self.desk = Desk(self.clock, self.cluster, Audit(self.clock, self.events_hub, Redactor().clean))
        self.registry.add(*command_messages(self.desk))
        self.commands = CommandStreams(self.clock, self.wall, self.desk, self.presences)
        self.streams = EventStreams(
            self.reactor,
            self.events,
            self.logs,
            self.presences,
            self.state,
            most=lambda: self.most,
            pod_logs=self.commands.pod_logs,
        )
        self.build(*self.hub.routes(), *self.commands.routes(), *self.streams.routes())
        self.commands.start()
        self.audited: list[dict[str, Any]] = []
        self.events_hub.subscribe(self._note)

    async def pod_logs(self, call: Call, query: LogQuery) -> None:
        await pod_logs(self.desk, call, query)

    def leaves_nothing(self) -> None:
        for client in self.clients:
            client.transport.end()
        self.flush()
        for link in self.endpoints.links:
            link.lose(ConnectionLost())
        self.assertEqual(len(self.commands), 0)
        self.successResultOf(self.commands.stop())
        self.successResultOf(self.streams.stop())
        self.assertEqual(self.kubelet.following, [])
        limits = self.entrance.limits
        self.assertEqual((limits.held("commands"), limits.held("log_streams")), (0, 0))
        super().leaves_nothing()

    def _note(self, event: Event) -> None:
        if event.channel == "audit":
            self.audited.append(dict(event.data))

    # -- what there is in the cluster

    def pod(self, name: str = "web", *containers: str, namespace: str = "shop") -> None:
        """Let there be a pod that runs."""
        names = containers or ("main",)
        status = [{"name": each, "restartCount": 0, "state": RUNNING} for each in names]
        self.storage.create(
            "pods",
            namespace,
            {
                "metadata": {"name": name, "labels": {"app": "shop"}},
                "spec": {"containers": [{"name": each} for each in names]},
                "status": {"phase": "Running", "containerStatuses": status},
            },
        )

    def deployment(self, name: str = "web", namespace: str = "shop", **changes: Any) -> None:
        """Let there be a deployment."""
        made: dict[str, Any] = {
            "metadata": {"name": name},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}},
        }
        made.update(changes)
        self.storage.create("deployments.apps", namespace, made)

    # -- what goes on

    def flush(self) -> None:
        """Let everything arrive that was sent."""
        self._traversal.flush()
        for link in self.endpoints.links:
            link.pump(1 << 30)

    def advance(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass in small steps, and arrive what is sent meanwhile."""
        self.flush()
        while seconds > 1e-9:
            self.clock.advance(min(step, seconds))
            self.flush()
            seconds -= step

    @property
    def process(self) -> FakeSocket:
        """The server's end of the last stream to a pod."""
        server: FakeSocket = self.endpoints.links[-1].server
        return server

    def say_to(self, peer: Peer, name: str, data: Any, request: str = "1", seconds: float = 0.0) -> None:
        """Send a message, and let so much time pass."""
        peer.send(name, data, request)
        self.advance(seconds)

    def command(
        self, peer: Peer, kind: str, target: str = "", *, seconds: float = 0.0, **fields: Any
    ) -> dict[str, Any]:
        """What a command ends with; C{fields}: see L{command_of}."""
        self.say_to(peer, "command", command_of(kind, target, **fields), seconds=seconds)
        messages = peer.take()
        self.assertEqual(messages[-1]["type"], "command_response", messages)
        self.said = messages[:-1]
        found: dict[str, Any] = messages[-1]["data"]
        return found

    def refusal(self, peer: Peer, name: str, data: Any) -> tuple[str, str]:
        """Code and message of the error that a message is answered with."""
        self.say_to(peer, name, data)
        message = peer.one()
        self.assertEqual((message["type"], message["id"]), ("error", "1"), message)
        return message["data"]["code"], message["data"]["message"]


def command_of(kind: str, target: str = "", **fields: Any) -> dict[str, Any]:
    """
    A command as JSON has it.

    @param target: C{type namespace/name}, or C{type}.
    @param fields: C{command}, C{timeout}, C{container}; all else is an argument.
    """
    what, _, place = target.partition(" ")
    namespace, _, name = place.rpartition("/")
    own: dict[str, Any] = {each: fields.pop(each) for each in ("command", "timeout") if each in fields}
    container = fields.pop("container", "")
    where = {"type": what, "namespace": namespace, "name": name, "container": container}
    return {"type": kind, "target": where, "args": fields, **own}


def output(messages: list[dict[str, Any]]) -> str:
    """What these messages show of a command's output."""
    return "".join(each["data"].get("output", "") for each in messages if each["type"] == "command_output")
