"""The HTTP half of the contract, as an agent meets it, and its faults."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.sandbox import faults
from pipeops_agent.sandbox.api import ContractResource, Endpoint
from pipeops_agent.sandbox.faults import FaultBox
from pipeops_agent.sandbox.ledger import Agent, Ledger
from pipeops_agent.sandbox.serving import MAX_BODY, QuietSite
from pipeops_agent.scheduling import Tasks
from tests.sandbox.memory import TOKEN, Exchange, Reactor, Response, ask, wall
from tests.sandbox.test_contract import HEARTBEAT, REGISTRATION, encoded

HEADERS = {
    "Authorization": f"Bearer {TOKEN.reveal()}",
    "User-Agent": "PipeOps-Agent/1.0",
    "Content-Type": "application/json",
}
REGISTER = "/api/v1/clusters/agent/register"


class APITestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.ledger = Ledger(wall, lambda port: True)
        self.box = FaultBox()
        self.registered: list[tuple[Agent, bool]] = []
        self.tasks = Tasks()
        self.site = self.make_site()
        self.addCleanup(lambda: self.assertEqual(self.reactor.getDelayedCalls(), []))

    def make_site(self, poll_frequency: int = 0) -> QuietSite:
        endpoint = Endpoint(scheme="ws", default_host="127.0.0.1:9", fingerprint="F" * 43 + "=")
        resource = ContractResource(
            self.reactor,
            self.ledger,
            self.box,
            TOKEN,
            wall,
            endpoint=lambda: endpoint,
            on_registered=lambda agent, known: self.registered.append((agent, known)),
            poll_frequency=poll_frequency,
            tasks=self.tasks,
        )
        return QuietSite(self.reactor, resource)

    def post(self, path: str, body: Any, headers: Mapping[str, str] = HEADERS) -> Response:
        return ask(self.site, "POST", path, headers, encoded(body))

    def get(self, path: str, headers: Mapping[str, str] = HEADERS) -> Response:
        return ask(self.site, "GET", path, headers)

    def exchange(self) -> Exchange:
        exchange = Exchange(self.site)
        self.addCleanup(exchange.close)
        return exchange

    def register(self) -> Agent:
        self.post(REGISTER, REGISTRATION)
        return self.registered[-1][0]

    def beat(self, agent: Agent, **changes: Any) -> Response:
        body = HEARTBEAT | {"cluster_id": agent.cluster_id, "agent_id": agent.agent_id} | changes
        return self.post(f"/api/v1/clusters/agent/{agent.cluster_id}/heartbeat", body)


class ContractTests(APITestCase):
    def test_register(self) -> None:
        """A registration is answered with the cluster's UUID: 201 the first time, 200 again."""
        first = self.post(REGISTER, REGISTRATION)
        agent = self.registered[0][0]
        self.assertEqual((first.status, first.json["cluster_id"]), (201, agent.cluster_id))
        self.assertEqual(first.json["cluster"]["uuid"], agent.cluster_id)
        again = self.post(REGISTER, REGISTRATION)
        self.assertEqual((again.status, again.json["cluster_id"]), (200, agent.cluster_id))
        self.assertEqual([known for _, known in self.registered], [False, True])

    def test_heartbeat(self) -> None:
        """A heartbeat of a known cluster is taken; one of another is 404 with a JSON object."""
        agent = self.register()
        self.assertEqual(self.beat(agent).status, 200)
        self.assertEqual(agent.heartbeats, 1)
        self.ledger.forget()
        gone = self.beat(agent)
        self.assertEqual((gone.status, gone.json), (404, {"error": "no such cluster"}))

    def test_heartbeat_of_somebody_else(self) -> None:
        """The ids in a heartbeat are those of its path."""
        agent = self.register()
        for change in ({"agent_id": "agent-2"}, {"cluster_id": "elsewhere"}):
            with self.subTest(change=change):
                answer = self.beat(agent, **change)
                self.assertEqual(answer.status, 400)
                self.assertTrue(answer.json["error"].startswith(next(iter(change))))
        self.assertEqual(agent.heartbeats, 0)

    def test_tunnel_status_both_paths(self) -> None:
        """New path or old, the tunnel status is the same: server, login, and a port per forward."""
        agent = self.register()
        answer = self.get(f"/api/v1/tunnel/status?agent_id={agent.agent_id}").json
        self.assertEqual(answer, self.get(f"/api/agents/{agent.agent_id}/tunnel/status").json)
        self.assertEqual(answer["status"], "ready")
        self.assertEqual(answer["tunnel_server_addr"], "ws://127.0.0.1")
        self.assertEqual(answer["server_fingerprint"], "F" * 43 + "=")
        login = base64.b64decode(answer["credentials"]).decode()
        self.assertEqual(login, f"{agent.cluster_id}:{agent.password.reveal()}")
        named = {one["name"]: one["remote_port"] for one in answer["forwards"]}
        self.assertEqual(named, agent.ports)
        self.assertEqual(len(set(named.values())), 3)
        self.assertNotIn("poll_frequency", answer)

    def test_tunnel_server_by_the_name_called(self) -> None:
        """The chisel server is named as the sandbox was called; without a usable Host by its own address."""
        agent = self.register()
        path = f"/api/v1/tunnel/status?agent_id={agent.agent_id}"
        for host, named in (
            ("sandbox.test:8443", "ws://sandbox.test:8443"),
            ("[::1]:99", "ws://[::1]:99"),
            ("a b/c", "ws://127.0.0.1:9"),
        ):
            with self.subTest(host=host):
                self.assertEqual(self.get(path, HEADERS | {"Host": host}).json["tunnel_server_addr"], named)

    def test_poll_frequency(self) -> None:
        """A poll frequency is told where one is set."""
        agent = self.register()
        self.site = self.make_site(poll_frequency=7)
        self.assertEqual(
            self.get(f"/api/v1/tunnel/status?agent_id={agent.agent_id}").json["poll_frequency"], 7
        )

    def test_tunnel_status_of_nobody(self) -> None:
        """An unknown agent is 404; none, or two, in the query is 400."""
        self.assertEqual(self.get("/api/v1/tunnel/status?agent_id=x").status, 404)
        for query in ("", "?agent_id=", "?agent_id=a&agent_id=b"):
            with self.subTest(query=query):
                self.assertEqual(self.get(f"/api/v1/tunnel/status{query}").status, 400)

    def test_health(self) -> None:
        """The reachability call answers who bears the token."""
        self.assertEqual(self.get("/api/v1/health").status, 200)

    def test_token(self) -> None:
        """No token, another one, another scheme, two headers: 401, and nothing is done."""
        for value in (None, "Bearer other", f"Basic {TOKEN.reveal()}", "Bearer", TOKEN.reveal()):
            with self.subTest(value=value):
                headers = {name: text for name, text in HEADERS.items() if name != "Authorization"}
                if value is not None:
                    headers["Authorization"] = value
                self.assertEqual(self.post(REGISTER, REGISTRATION, headers).status, 401)
        self.assertEqual(self.registered, [])

    def test_headers(self) -> None:
        """The agent's name and the kind of body are in the contract: 400 names the header that is wrong."""
        for name, value in (("User-Agent", "curl/8"), ("Content-Type", "text/plain")):
            with self.subTest(name=name):
                answer = self.post(REGISTER, REGISTRATION, HEADERS | {name: value})
                self.assertEqual(answer.status, 400)
                self.assertIn(f"header {name}", answer.json["error"])

    def test_broken_body(self) -> None:
        """What breaks the contract is 400 with the field's name."""
        answer = self.post(REGISTER, REGISTRATION | {"agent_id": 7})
        self.assertEqual(answer.status, 400)
        self.assertTrue(answer.json["error"].startswith("agent_id: expected"), answer.json)

    def test_methods_and_paths(self) -> None:
        """A wrong method is 405 with Allow, an unknown path 404, HEAD as GET without a body."""
        answer = self.get(REGISTER)
        self.assertEqual((answer.status, answer.headers["allow"]), (405, "POST"))
        self.assertEqual(self.get("/api/v2/health").status, 404)
        head = ask(self.site, "HEAD", "/api/v1/health", HEADERS)
        self.assertEqual((head.status, head.body), (200, b""))

    def test_too_large(self) -> None:
        """A body beyond the limit is 413, and is not kept."""
        exchange = self.exchange().send("POST", REGISTER, HEADERS, b"x" * (MAX_BODY + 1))
        self.assertEqual(exchange.response.status, 413)

    def test_too_large_in_chunks(self) -> None:
        """The same for a body that does not say how long it is."""
        exchange = self.exchange()
        exchange.send("POST", REGISTER, HEADERS | {"Transfer-Encoding": "chunked"})
        for _ in range(MAX_BODY // 65536 + 1):
            exchange.protocol.dataReceived(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        exchange.protocol.dataReceived(b"0\r\n\r\n")
        self.assertEqual(exchange.response.status, 413)

    def test_no_more_agents(self) -> None:
        """A full ledger is 503, as a service's trouble, not the agent's."""
        full = Ledger(wall, lambda port: False)
        self.ledger = full
        self.site = self.make_site()
        agent = self.register()
        self.assertEqual(self.get(f"/api/v1/tunnel/status?agent_id={agent.agent_id}").status, 503)


class FaultTests(APITestCase):
    def health(self) -> Exchange:
        return self.exchange().send("GET", "/api/v1/health", HEADERS)

    def test_status(self) -> None:
        """Another status, with whatever body, as often as asked; the call is not carried out."""
        self.box.add(faults.Status(call="register", status=503, retry_after=3, count=1))
        answer = self.post(REGISTER, REGISTRATION)
        self.assertEqual((answer.status, answer.headers["retry-after"]), (503, "3"))
        self.assertEqual(self.registered, [])
        self.assertEqual(self.post(REGISTER, REGISTRATION).status, 201)
        self.box.add(faults.Status(status=404, body="gone", content_type="text/plain"))
        answer = self.get("/api/v1/health")
        self.assertEqual((answer.status, answer.body), (404, b"gone"))

    def test_only_its_call(self) -> None:
        """A fault of one call leaves the others alone."""
        self.box.add(faults.Status(call="heartbeat", status=500))
        self.assertEqual(self.get("/api/v1/health").status, 200)
        self.assertEqual(self.beat(self.register()).status, 500)

    def test_html(self) -> None:
        """A proxy's page instead of JSON."""
        self.box.add(faults.Html())
        answer = self.get("/api/v1/health")
        self.assertEqual((answer.status, answer.headers["content-type"]), (200, "text/html; charset=utf-8"))
        self.assertTrue(answer.body.startswith(b"<html>"))

    def test_broken(self) -> None:
        """The call is carried out, and its JSON cut in the middle."""
        self.box.add(faults.Broken())
        answer = self.post(REGISTER, REGISTRATION)
        self.assertEqual(len(self.registered), 1)
        self.assertRaises(ValueError, lambda: answer.json)
        self.assertEqual(int(answer.headers["content-length"]), len(answer.body))

    def test_redirect(self) -> None:
        """A redirection with its location."""
        self.box.add(faults.Redirect(location="https://other.test/"))
        answer = self.get("/api/v1/health")
        self.assertEqual((answer.status, answer.headers["location"]), (301, "https://other.test/"))

    def test_skew(self) -> None:
        """Every answer's Date is that much off, of whatever call."""
        self.box.add(faults.Skew(seconds=-120))
        self.assertEqual(self.get("/api/v1/health").headers["date"], "Sun, 01 Mar 2026 11:58:00 GMT")
        self.assertEqual(self.get("/api/nothing").headers["date"], "Sun, 01 Mar 2026 11:58:00 GMT")

    def test_delay(self) -> None:
        """The answer comes late, also together with another fault."""
        self.box.add(faults.Delay(seconds=2.5), faults.Status(status=500))
        exchange = self.health()
        self.reactor.advance(2.4)
        self.assertFalse(exchange.answered)
        self.reactor.advance(0.1)
        self.assertEqual(exchange.response.status, 500)

    def test_client_gone_while_delayed(self) -> None:
        """When its client goes, a delayed answer is given up: no timer is left."""
        self.box.add(faults.Delay(seconds=60))
        exchange = self.health()
        exchange.close(ConnectionLost())
        self.assertEqual(len(self.tasks), 0)

    def test_drop(self) -> None:
        """The connection is reset without a byte of an answer."""
        self.box.add(faults.Drop())
        exchange = self.health()
        self.assertTrue(exchange.was_reset)
        self.assertFalse(exchange.answered)
        exchange.close(ConnectionLost())

    def test_half_open(self) -> None:
        """The request is taken and never answered; stopping ends the wait."""
        self.box.add(faults.HalfOpen())
        exchange = self.health()
        self.reactor.advance(3600)
        self.assertFalse(exchange.answered or exchange.was_reset)
        self.assertEqual(len(self.tasks), 1)
        self.successResultOf(self.tasks.stop())
        self.assertEqual(len(self.tasks), 0)

    def test_tunnel(self) -> None:
        """The tunnel status says what it was told."""
        agent = self.register()
        for status in ("IDLE", "disabled", "REQUIRED", "what is this"):
            self.box.add(faults.Tunnel(status=status, count=1))
            answer = self.get(f"/api/v1/tunnel/status?agent_id={agent.agent_id}")
            self.assertEqual(answer.json["status"], status)

    def test_reconnect(self) -> None:
        """The answers to heartbeats ask for another connection, and name another server if there is one."""
        agent = self.register()
        self.assertEqual(self.beat(agent).json, {"success": True})
        self.box.add(faults.Reconnect(count=1, message="we move"))
        asked = {"success": True, "reconnect": True, "message": "we move"}
        self.assertEqual(self.beat(agent).json, asked)
        self.assertEqual(self.beat(agent).json, {"success": True})
        self.box.add(faults.Reconnect(server="wss://other.test"))
        self.assertEqual(self.beat(agent).json["tunnel_server_addr"], "wss://other.test")
