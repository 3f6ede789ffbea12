"""What the person at the sandbox sees and may do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.sandbox.callers import Guard, is_loopback
from pipeops_agent.sandbox.console import FaultsResource, ListingResource
from pipeops_agent.sandbox.faults import Act, DropTunnels, FaultBox, WrongKey
from pipeops_agent.sandbox.ledger import Ledger
from pipeops_agent.sandbox.service import SandboxService, SandboxSettings
from pipeops_agent.sandbox.serving import Answer, Fixed, QuietSite, Root
from pipeops_agent.scheduling import Tasks
from pipeops_agent.secrets import Secret
from tests.sandbox.memory import TOKEN, Reactor, Response, ask, wall
from tests.sandbox.test_ledger import registration


class ConsoleTestCase(SynchronousTestCase):
    token: Secret | None = None

    def setUp(self) -> None:
        reactor, tasks = Reactor(), Tasks()
        self.ledger = Ledger(wall, lambda port: True)
        self.box = FaultBox()
        self.acts: list[Act] = []
        guard = Guard(self.token)
        facts = {"api_url": "http://127.0.0.1:1"}
        children = {
            b"": ListingResource(self.ledger, self.box, guard, lambda: facts, wall, tasks),
            b"faults": FaultsResource(self.box, guard, self.acts.append, tasks),
        }
        missing = Fixed(Answer(status=404, body="Not found", content_type="text/plain"), tasks)
        self.site = QuietSite(reactor, Root(children, missing))

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Response:
        return ask(self.site, method, path, headers, body)


class ListingTests(ConsoleTestCase):
    def test_nobody(self) -> None:
        """With nobody there the listing says so."""
        text = self.ask("GET", "/").body.decode()
        self.assertIn("http://127.0.0.1:1", text)
        self.assertIn("no agent has registered yet", text)
        self.assertIn("no fault is switched on", text)

    def test_text(self) -> None:
        """Each agent is shown with its ports, which forward each reaches, and whether it is open."""
        agent, _ = self.ledger.register(registration())
        ports = self.ledger.allocate(agent)
        agent.listening[ports["kubelet"]] = "kubelet"
        self.box.add(WrongKey())
        text = self.ask("GET", "/").body.decode()
        self.assertIn("agent-1 (default-cluster)", text)
        self.assertIn(f"127.0.0.1:{ports['kubelet']} -> kubelet (open)", text)
        self.assertIn(f"127.0.0.1:{ports['agent-http']} -> agent-http (not open)", text)
        self.assertIn('"kind": "wrong-key"', text)

    def test_json(self) -> None:
        """The same as JSON for who accepts it; neither holds a password."""
        agent, _ = self.ledger.register(registration())
        self.ledger.allocate(agent)
        answer = self.ask("GET", "/", {"Accept": "application/json"})
        self.assertEqual(answer.json["agents"][0]["forwards"][1]["name"], "kubelet")
        for body in (answer.body, self.ask("GET", "/").body):
            self.assertNotIn(agent.password.reveal().encode(), body)

    def test_methods_and_paths(self) -> None:
        """The listing is only read; other paths are not there."""
        self.assertEqual(self.ask("POST", "/").status, 405)
        self.assertEqual(self.ask("GET", "/nothing").status, 404)


class FaultsTests(ConsoleTestCase):
    def test_add_show_clear(self) -> None:
        """POST adds, GET shows, DELETE clears."""
        added = self.ask("POST", "/faults", body=b'{"kind": "wrong-key", "count": 2}')
        self.assertEqual((added.status, added.json), (201, [{"kind": "wrong-key", "count": 2}]))
        self.assertEqual(self.ask("GET", "/faults").json, added.json)
        self.assertEqual(self.ask("DELETE", "/faults").json, [])
        self.assertEqual(self.box.shown(), [])

    def test_at_once(self) -> None:
        """What happens at once is done, and not kept."""
        answer = self.ask("POST", "/faults", body=b'[{"kind": "drop-tunnels"}]')
        self.assertEqual((answer.status, answer.json, self.acts), (201, [], [DropTunnels()]))

    def test_wrong(self) -> None:
        """What is no fault is 400 with the place, and of a list with a slip nothing is taken."""
        answer = self.ask("POST", "/faults", body=b'[{"kind": "wrong-key"}, {"kind": "drop", "call": 3}]')
        self.assertEqual(answer.status, 400)
        self.assertTrue(answer.json["error"].startswith("[1].call"), answer.json)
        self.assertEqual(self.box.shown(), [])

    def test_too_many(self) -> None:
        """More faults than the box holds: 409, and nothing is done."""
        body = b"[" + b",".join([b'{"kind": "wrong-key"}'] * 101) + b"]"
        self.assertEqual(self.ask("POST", "/faults", body=body).status, 409)
        self.assertEqual(self.box.shown(), [])

    def test_method(self) -> None:
        """Any other method is 405."""
        self.assertEqual(self.ask("PUT", "/faults", body=b"{}").status, 405)


class GuardTests(ConsoleTestCase):
    def test_no_web_page(self) -> None:
        """On loopback no page may look or make faults, whichever name it has pointed here."""
        for headers in ({"Origin": "http://127.0.0.1"}, {"Host": "evil.test"}, {"Host": "evil.test:80"}):
            for path in ("/", "/faults"):
                with self.subTest(headers=headers, path=path):
                    self.assertEqual(self.ask("GET", path, headers).status, 403)

    def test_loopback_names(self) -> None:
        """Every name of loopback will do."""
        for host in ("localhost", "localhost:8181", "127.0.0.1:1", "127.1.2.3", "[::1]", "[::1]:8181"):
            with self.subTest(host=host):
                self.assertEqual(self.ask("GET", "/", {"Host": host}).status, 200)

    def test_is_loopback(self) -> None:
        """Addresses and names of this machine alone are loopback."""
        own = ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")
        others = ("0.0.0.0", "::", "10.0.0.1", "localhost.evil.test", "", "evil.test")
        self.assertEqual([is_loopback(host) for host in own], [True] * len(own))
        self.assertEqual([is_loopback(host) for host in others], [False] * len(others))


class PublicTests(ConsoleTestCase):
    token = TOKEN

    def test_asks_for_the_token(self) -> None:
        """Where other machines can reach it, the listing and the faults ask for the token."""
        bearer = {"Authorization": f"Bearer {TOKEN.reveal()}", "Host": "sandbox.test"}
        for path in ("/", "/faults"):
            with self.subTest(path=path):
                self.assertEqual(self.ask("GET", path).status, 401)
                self.assertEqual(self.ask("GET", path, bearer).status, 200)
        self.assertEqual(self.ask("POST", "/faults", body=b'{"kind": "wrong-key"}').status, 401)
        self.assertEqual(self.box.shown(), [])

    def test_wherever_others_can_reach_it(self) -> None:
        """A whole sandbox that listens on all addresses is built so; one on loopback asks for no token."""
        for listen, status in (("0.0.0.0", 401), ("::", 401), ("127.0.0.1", 200)):
            with self.subTest(listen=listen):
                reactor: Any = Reactor()
                settings = SandboxSettings(listen=listen, tls=True, token=TOKEN)
                sandbox = SandboxService(reactor, settings, wall)
                sandbox.startService()
                site = reactor.factory_of(0).wrappedFactory  # what TLS is wrapped around
                for path in ("/", "/faults"):
                    self.assertEqual(ask(site, "GET", path).status, status)
                self.successResultOf(sandbox.stopService())
