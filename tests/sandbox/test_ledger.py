"""The ledger: who is who, and which port is whose."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from pipeops_agent.sandbox import ledger as module
from pipeops_agent.sandbox.contract import Registration, parse_heartbeat, parse_registration
from pipeops_agent.sandbox.ledger import Ledger, LedgerFull
from tests.sandbox.memory import NOW, wall
from tests.sandbox.test_contract import HEARTBEAT, REGISTRATION, encoded


def registration(agent_id: str = "agent-1", **changes: Any) -> Registration:
    return parse_registration(encoded(REGISTRATION | {"agent_id": agent_id} | changes))


class LedgerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.free: set[int] | None = None
        self.ledger = Ledger(wall, lambda port: self.free is None or port in self.free)

    def test_known_again(self) -> None:
        """An agent that registers again keeps its cluster and its password; what it says of itself is new."""
        first, known = self.ledger.register(registration())
        self.assertFalse(known)
        cluster, password = first.cluster_id, first.password
        again, known = self.ledger.register(registration(name="other"))
        self.assertTrue(known)
        self.assertEqual((again.cluster_id, again.password), (cluster, password))
        self.assertEqual((again.registration.name, again.registrations), ("other", 2))

    def test_remembers_by_the_agents_word(self) -> None:
        """An agent that names its last cluster gets it back, if that is a UUID and nobody else's."""
        wanted = str(uuid.uuid4())
        metadata = REGISTRATION["metadata"] | {"cluster_id": wanted}
        first, _ = self.ledger.register(registration("one", metadata=metadata))
        self.assertEqual(first.cluster_id, wanted)
        second, _ = self.ledger.register(registration("two", metadata=metadata))
        self.assertNotEqual(second.cluster_id, wanted)
        third, _ = self.ledger.register(registration("three", metadata=metadata | {"cluster_id": "mine"}))
        self.assertEqual(str(uuid.UUID(third.cluster_id)), third.cluster_id)

    def test_ports_are_kept(self) -> None:
        """The same forward of the same agent has the same port at every poll, and after it was forgotten."""
        agent, _ = self.ledger.register(registration())
        ports = dict(self.ledger.allocate(agent))
        self.assertEqual(list(ports), ["kubernetes-api", "kubelet", "agent-http"])
        self.assertEqual(self.ledger.allocate(agent), ports)
        self.ledger.forget()
        self.assertIsNone(self.ledger.agent("agent-1"))
        again, known = self.ledger.register(registration())
        self.assertFalse(known)
        self.assertEqual(self.ledger.allocate(again), ports)

    def test_move(self) -> None:
        """Other ports: none of those before, for nobody; and they stay."""
        agents = [self.ledger.register(registration(name))[0] for name in ("agent-1", "agent-2")]
        before = {port for agent in agents for port in self.ledger.allocate(agent).values()}
        self.ledger.move()
        after = [dict(self.ledger.allocate(agent)) for agent in agents]
        self.assertEqual(before & {port for ports in after for port in ports.values()}, set())
        self.assertEqual(len({port for ports in after for port in ports.values()}), 6)
        self.assertEqual([dict(self.ledger.allocate(agent)) for agent in agents], after)

    def test_ports_are_found_again(self) -> None:
        """A new ledger gives the same ports, where they are free."""
        agent, _ = self.ledger.register(registration())
        other = Ledger(wall, lambda port: True)
        same, _ = other.register(registration())
        self.assertEqual(self.ledger.allocate(agent), other.allocate(same))

    def test_ports_are_unique_and_free(self) -> None:
        """No port is given twice, or to a port that cannot be listened on; none left: an error."""
        self.free = {20005, 29999, 20001}
        agent, _ = self.ledger.register(registration())
        ports = self.ledger.allocate(agent)
        self.assertEqual(set(ports.values()), self.free)
        other, _ = self.ledger.register(registration("agent-2"))
        self.assertRaises(LedgerFull, self.ledger.allocate, other)

    def test_names_of_their_own(self) -> None:
        """A forward of one's own has a port, whether its name has hyphens or underscores."""
        agent, _ = self.ledger.register(registration(tunnel_port_config={"my_db": 5432, "web": 80}))
        ports = self.ledger.allocate(agent)
        self.assertEqual(list(ports), ["my-db", "my_db", "web"])
        self.assertEqual(len(set(ports.values())), 3)

    def test_heartbeat(self) -> None:
        """A heartbeat's words are kept."""
        agent, _ = self.ledger.register(registration())
        self.ledger.heard(agent, parse_heartbeat(encoded(HEARTBEAT | {"status": "degraded"})))
        self.assertEqual((agent.status, agent.tunnel_status), ("degraded", "connected"))
        self.assertEqual((agent.heartbeats, agent.last_heartbeat), (1, NOW))

    def test_bounded(self) -> None:
        """The ledger takes so many agents, and goes on with those it has."""
        self.patch(module, "MAX_AGENTS", 2)
        for name in ("one", "two"):
            self.ledger.register(registration(name))
        self.assertRaises(LedgerFull, self.ledger.register, registration("three"))
        self.assertTrue(self.ledger.register(registration("one"))[1])

    def test_the_repr_of_an_agent_shows_no_password(self) -> None:
        """An agent that meets a log by accident gives nothing away."""
        agent, _ = self.ledger.register(registration())
        self.assertNotIn(agent.password.reveal(), repr(agent))
        self.assertRaises(TypeError, msgspec.json.encode, agent.password)
