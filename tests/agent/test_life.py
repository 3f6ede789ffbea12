"""An agent's life beside a sandbox: from the first page that it serves to the last word."""

from __future__ import annotations

import json

import msgspec
from twisted.internet.defer import Deferred

from pipeops_agent import agent as agent_module
from pipeops_agent import parts
from pipeops_agent.controlplane import heartbeat, registration
from pipeops_agent.errors import ExitStatus
from pipeops_agent.sandbox import faults
from pipeops_agent.scheduling import bounded, sleep
from pipeops_agent.secrets import Secret
from pipeops_agent.settings import Loaded, Problem, SettingsError
from pipeops_agent.settings.model_pipeops import RegistrationSettings
from pipeops_agent.state import MemoryStateStore, State, Stored, Unavailable
from tests.agent.house import REACTOR, TOKEN, House, change
from tests.peers.processes import PATIENCE


class ClosedStore(MemoryStateStore):
    """A store that can't be read for a while."""

    away = True

    async def load(self) -> Stored:
        if self.away:
            raise Unavailable("the file is on a disk that is away")
        return await super().load()


class StartTests(House):
    async def test_from_nothing_to_forwarding(self) -> None:
        """Registered, heard, tunnel up, and data goes through a forward and back."""
        self.start_sandbox()
        self.start_agent()
        status = await self.until_connected()
        self.assertEqual(status.registration.cluster_id, self.known.cluster_id)
        self.assertEqual(status.phase, "running")
        user = await self.connect("kubernetes-api")
        user.say(b"hello")
        self.assertEqual(await user.heard(5), b"hello")
        code, body = await self.get("/health", port=self.known.ports["agent-http"])
        self.assertEqual((code, json.loads(body)["status"]), (200, "healthy"))

    async def test_pages_before_registration(self) -> None:
        """While the registration hangs, the pages are there: alive, not ready, and why."""
        self.start_sandbox()
        self.sandbox.faults.add(faults.HalfOpen(call="register"))
        self.start_agent()
        await self.until(lambda status: status.phase == "registering", "the registration")
        self.assertEqual((await self.get("/health"))[0], 200)
        code, body = await self.get("/ready", token=TOKEN)
        self.assertEqual(code, 503)
        check = json.loads(body)["checks"]["registration"]
        self.assertEqual(check, {"ok": False, "message": "registering with the control plane"})
        self.assertEqual(list(self.sandbox.ledger), [])

    async def test_ready(self) -> None:
        """Ready once registered and heard; messages only for who has a token."""
        self.start_sandbox()
        self.start_agent()
        await self.until_connected()
        code, body = await self.get("/ready")
        self.assertEqual((code, json.loads(body)["checks"]["heartbeat"]), (200, {"ok": True}))

    async def test_state_that_can_not_be_read(self) -> None:
        """It is waited for, said why once, and no new id is made: then the agent is who it was."""
        self.patch(agent_module, "STATE_RETRY", 0.02)
        self.start_sandbox()
        store = ClosedStore()
        await store.save(State(agent_id="agent-of-old"), "")
        self.start_agent(store=store)
        why = "waiting for the agent's state: the file is on a disk that is away"
        await self.until(lambda status: status.registration.message == why, "the reason")
        code, body = await self.get("/ready", token=TOKEN)
        self.assertEqual((code, json.loads(body)["checks"]["registration"]["message"]), (503, why))
        self.assertEqual(list(self.sandbox.ledger), [])
        store.away = False
        await self.until_connected()
        self.assertEqual(self.known.agent_id, "agent-of-old")
        self.assertEqual(len(self.records(msg=why)), 1)

    async def test_same_agent_after_a_restart(self) -> None:
        """What came back is stored: another agent on the same state has the same ids, and registers again."""
        self.start_sandbox()
        self.start_agent()
        await self.until_connected()
        before = (self.known.agent_id, self.known.cluster_id)
        await self.agent.stopService()
        self.start_agent(store=self.store)
        await self.until_connected()
        self.assertEqual((self.known.agent_id, self.known.cluster_id), before)
        self.assertEqual(self.known.registrations, 2)

    async def test_port_taken(self) -> None:
        """A taken port ends the agent with status 1 and says which; nothing is asked of the control plane."""
        self.start_sandbox()
        settings = self.settings(server={"port": self.sandbox.address[1]})
        self.start_agent(settings)
        error = await self.fatal_error()
        self.assertEqual(error.status, ExitStatus.FAILURE)
        self.assertIn(
            f"can't serve HTTP on 127.0.0.1:{settings.server.port}: Address already in use", str(error)
        )
        self.assertEqual(list(self.sandbox.ledger), [])

    async def test_unforeseen(self) -> None:
        """A defect in the start phase ends the agent with status 1, not in silence."""

        class Broken(MemoryStateStore):
            async def load(self) -> Stored:
                raise ZeroDivisionError

        self.start_sandbox()
        self.start_agent(store=Broken())
        error = await self.fatal_error()
        self.assertEqual((error.status, str(error)), (1, "the agent could not start: ZeroDivisionError"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class Gate:
    """A gate that opens when it is told to, and is lost when it is told to."""

    def __init__(self) -> None:
        self.opening: Deferred[None] = Deferred()
        self.losing: Deferred[str] = Deferred()
        self.left = 0

    async def enter(self) -> None:
        await self.opening

    async def leave(self) -> None:
        self.left += 1

    def when_lost(self) -> Deferred[str]:
        return self.losing

    def lose(self) -> None:
        """Somebody else is active now; and this one may be again later."""
        losing, self.losing, self.opening = self.losing, Deferred(), Deferred()
        losing.callback("agent-b holds the lease")


class GateTests(House):
    async def test_standby(self) -> None:
        """
        Before the gate: ready as a standby, not registered. Behind it: as always, and no standby while the
        facts are collected. Stopping leaves it.
        """
        gate = Gate()
        self.start_sandbox()
        self.start_agent(gate=gate)
        await self.until(lambda status: status.phase == "standby", "the gate")
        self.assertEqual(await self.get("/ready"), (200, '{"status":"standby"}'))
        self.assertEqual(list(self.sandbox.ledger), [])
        gate.opening.callback(None)
        self.assertEqual(self.agent.board.now.phase, "starting")
        await self.until_connected()
        await self.agent.stopService()
        self.assertEqual(gate.left, 1)

    async def test_lost(self) -> None:
        """
        Without the gate the tunnel is closed and nothing is sent any more, a last word neither: the other one
        is the same agent. It stands by, and is what it was when it is let in again.
        """
        gate = Gate()
        self.start_sandbox()
        self.start_agent(gate=gate)
        gate.opening.callback(None)
        await self.until_connected()
        first, user = self.known, await self.connect("kubernetes-api")
        gate.lose()
        await self.until(lambda status: status.heartbeat.state == "pending", "the standby")
        await bounded(REACTOR, PATIENCE, user.gone, "the end of the channel")
        self.assertEqual(await self.get("/ready"), (200, '{"status":"standby"}'))
        now = self.agent.board.now
        self.assertEqual((now.phase, now.registration.registered), ("standby", False))
        self.assertEqual(now.registration.message, "standing by: agent-b holds the lease")
        count = first.heartbeats
        await sleep(REACTOR, 3 * self.agent.settings.agent.poll_interval)
        self.assertEqual((self.known.heartbeats, self.known.status), (count, first.status))
        self.assertNotEqual(first.status, "stopping")
        gate.opening.callback(None)
        await self.until_connected()
        self.assertEqual(self.known.agent_id, first.agent_id)
        self.assertEqual(self.known.registration.metadata["cluster_id"], first.cluster_id)

    async def test_lost_while_registering(self) -> None:
        """A registration under way is given up with the gate, and is no reason to end."""
        gate = Gate()
        self.start_sandbox()
        self.sandbox.faults.add(faults.HalfOpen(call="register"))
        self.start_agent(gate=gate)
        gate.opening.callback(None)
        await self.until(lambda status: status.phase == "registering", "the registration")
        gate.lose()
        await self.until(lambda status: status.phase == "standby", "the standby")
        self.assertEqual(self.fatal, [])
        self.sandbox.faults.clear()
        gate.opening.callback(None)
        await self.until_connected()

    async def test_stop_of_a_standby(self) -> None:
        """A standby that is stopped stops waiting."""
        gate = Gate()
        self.start_sandbox()
        self.start_agent(gate=gate)
        await self.until(lambda status: status.phase == "standby", "the gate")
        await self.agent.stopService()
        self.assertEqual(gate.left, 1)
        self.assertTrue(gate.opening.called)
        self.assertEqual(list(self.sandbox.ledger), [])


class ReloadTests(House):
    """SIGHUP, as the agent takes it."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(registration, "BETWEEN_REGISTRATIONS", 0.05)

    def load(self, **sections: dict[str, object]) -> None:
        """Read again, with these fields changed."""
        loaded = Loaded(change(self.agent.settings, **sections), {}, None)
        self.next_settings = lambda: loaded
        self.agent.reload()

    async def start(self) -> None:
        self.start_sandbox()
        self.start_agent()
        await self.until_connected()

    async def registered_again(self) -> None:
        await self.until(lambda status: status.registration.attempts >= 2, "the registration")
        await self.heartbeats(2)

    async def test_labels(self) -> None:
        """New labels are told by a new registration; the tunnel is not touched."""
        await self.start()
        since = self.agent.board.now.tunnel.since
        self.load(agent={"labels": {"stage": "prod"}})
        await self.registered_again()
        self.assertEqual(self.known.registration.labels["stage"], "prod")
        self.assertEqual(self.agent.board.now.tunnel.since, since)

    async def test_forwards(self) -> None:
        """Another target: the tunnel is rebuilt with it, and the registration says it too."""
        await self.start()
        first, _, http = self.agent.settings.tunnel.forwards
        moved = msgspec.structs.replace(first, local_addr=http.local_addr)
        self.load(tunnel={"forwards": (moved,)})
        await self.registered_again()
        await self.until_connected()
        self.assertEqual((await self.get("/health", port=self.known.ports["kubernetes-api"]))[0], 200)
        self.assertEqual(list(self.known.registration.tunnel_port_config), ["kubernetes_api"])

    async def test_owners_switch(self) -> None:
        """The owner's switch shows in a new registration."""
        await self.start()
        self.load(access={"read_only": True})
        await self.registered_again()
        self.assertEqual(self.known.registration.metadata["access_read_only"], "true")

    async def test_token(self) -> None:
        """A rotated token is used at once, and only that one opens the agent's own pages from then on."""
        self.patch(heartbeat, "UNKNOWN_SECONDS", 0.0)
        await self.start()
        ids = (self.known.agent_id, self.known.cluster_id)
        port = self.sandbox.address[1]
        await self.sandbox.stopService()
        new = Secret("another-token-of-the-house")
        self.start_sandbox(token=new, port=port)
        await self.until(lambda status: status.heartbeat.state == "disconnected", "the refusal")
        self.load(pipeops={"token": new})
        await self.until_connected()
        self.assertEqual((self.known.agent_id, self.known.cluster_id), ids)
        self.assertEqual((await self.get("/ready", token=new))[0], 200)
        self.assertEqual((await self.get("/ready", token=TOKEN))[0], 401)

    async def test_level(self) -> None:
        """The levels change at once, single components' too."""
        await self.start()
        self.load(logging={"level": "error", "levels": {"heartbeat": "debug"}})
        size = self.log_file.stat().st_size
        await self.heartbeats(3)
        self.assertEqual(self.log_file.stat().st_size, size)

    async def test_needs_a_restart(self) -> None:
        """What can't change is named and keeps its value."""
        await self.start()
        self.load(agent={"cluster_name": "another"}, server={"bind": "0.0.0.0"})
        for setting in ("agent.cluster_name", "server.bind"):
            self.assertEqual(len(self.records(setting=setting, level="warn")), 1)
        self.assertEqual(self.agent.settings.agent.cluster_name, "default-cluster")

    async def test_nothing(self) -> None:
        """Nothing changed: nothing happens, and it says so."""
        await self.start()
        self.load()
        self.assertEqual(
            len(self.records(msg="settings read again: nothing changed that can change while running")), 1
        )
        await self.heartbeats(2)
        self.assertEqual(self.known.registrations, 1)

    async def test_broken(self) -> None:
        """A file that can't be used changes nothing; each of its problems is said."""
        await self.start()

        def broken() -> Loaded:
            raise SettingsError(
                [Problem("agent.labels", "expected a mapping"), Problem("server.port", "too high")]
            )

        self.next_settings = broken
        before = self.agent.settings
        self.agent.reload()
        self.assertIs(self.agent.settings, before)
        said = [record["problem"] for record in self.records(level="error")]
        self.assertEqual(said, ["agent.labels: expected a mapping", "server.port: too high"])

    async def test_before_registration(self) -> None:
        """Read again while the registration hangs: it is taken in by whatever comes later."""
        self.start_sandbox()
        self.sandbox.faults.add(faults.HalfOpen(call="register", count=1))
        self.start_agent(
            self.settings(pipeops={"timeout": 0.3, "registration": RegistrationSettings(retry_for=10.0)})
        )
        await self.until(lambda status: status.phase == "registering", "the registration")
        self.load(agent={"labels": {"stage": "late"}})
        await self.until_connected()
        self.assertEqual(self.known.registration.labels["stage"], "late")


class ClusterTokenTests(House):
    async def test_rotated(self) -> None:
        """The token for the tunnelled API is sent along; another one in its file by a new registration."""
        self.patch(registration, "BETWEEN_REGISTRATIONS", 0.05)
        self.patch(parts, "TOKEN_LOOK", 0.05)
        file = self.directory / "cluster-token"
        file.write_text("the-first-cluster-token")
        self.start_sandbox()
        self.start_agent(self.settings(pipeops={"cluster_token_file": str(file)}))
        await self.until_connected()
        self.assertEqual(self.known.registration.k8s_service_token, "the-first-cluster-token")
        file.write_text("the-second-one-for-the-cluster")
        await self.until(lambda status: status.registration.attempts == 2, "the registration")
        await self.heartbeats(2)
        self.assertEqual(self.known.registration.k8s_service_token, "the-second-one-for-the-cluster")
        self.assertNotIn("cluster-token", self.logged().replace(str(file), ""))
        self.assertNotIn("the-second-one", self.logged())
