"""Who registered, what was heard of them, and which port of ours is whose."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pipeops_agent.clock import WallClock
from pipeops_agent.sandbox.contract import Heartbeat, Registration
from pipeops_agent.secrets import Secret

MAX_AGENTS: Final = 1000
"""How many agents the ledger takes in."""

FIRST_PORT: Final = 20000
LAST_PORT: Final = 29999
"""Where ports are looked for: below the range that systems use for outgoing connections."""

CONTRACT_NAMES: Final = {"kubernetes_api": "kubernetes-api", "kubelet": "kubelet", "agent_http": "agent-http"}
"""The contract's keys of C{tunnel_port_config}, and the names under which their ports are allocated."""


class LedgerFull(Exception):
    """No agent or no port more can be taken in."""


@dataclass
class Agent:
    """
    One agent that registered.

    @ivar password: what it logs in to the chisel server with; the user is its cluster's id.
    @ivar ports: the port of each forward, by the forward's name. Once given, they stay until L{Ledger.move}.
    @ivar listening: the ports that are open now, and the forward that each reaches.
    """

    registration: Registration
    cluster_id: str
    password: Secret
    registered: datetime
    registrations: int = 1
    ports: dict[str, int] = field(default_factory=dict)
    listening: dict[int, str] = field(default_factory=dict)
    heartbeats: int = 0
    last_heartbeat: datetime | None = None
    status: str = "registered"
    tunnel_status: str = "unknown"

    @property
    def agent_id(self) -> str:
        """The id under which it registered."""
        return self.registration.agent_id


class Ledger:
    """
    The agents, and the ports given to them.

    @param is_free: whether a port of the interface can be listened on now.
    """

    def __init__(
        self,
        wall: WallClock,
        is_free: Callable[[int], bool],
        *,
        first_port: int = FIRST_PORT,
        last_port: int = LAST_PORT,
    ) -> None:
        self._wall = wall
        self._is_free = is_free
        self._first_port = first_port
        self._span = last_port - first_port + 1
        self._agents: dict[str, Agent] = {}
        self._kept_ports: dict[tuple[str, str], int] = {}

    def __iter__(self) -> Iterator[Agent]:
        return iter(tuple(self._agents.values()))

    def register(self, registration: Registration) -> tuple[Agent, bool]:
        """
        Take in an agent, or hear of it again.

        An agent that names the cluster that it was before gets the same one again, also from a new ledger.

        @return: the agent, and whether it was known.
        @raise LedgerFull: there are L{MAX_AGENTS} already.
        """
        agent = self._agents.get(registration.agent_id)
        if agent is not None:
            agent.registration = registration
            agent.registrations += 1
            return agent, True
        if len(self._agents) >= MAX_AGENTS:
            raise LedgerFull(f"the sandbox takes {MAX_AGENTS} agents")
        agent = Agent(
            registration=registration,
            cluster_id=self._cluster_id(registration.metadata.get("cluster_id")),
            password=Secret(secrets.token_urlsafe(24)),
            registered=self._wall(),
        )
        self._agents[registration.agent_id] = agent
        return agent, False

    def _cluster_id(self, before: str | None) -> str:
        try:
            wanted = str(uuid.UUID(before or ""))
        except ValueError:
            return str(uuid.uuid4())
        return str(uuid.uuid4()) if self.cluster(wanted) else wanted

    def agent(self, agent_id: str) -> Agent | None:
        """The agent with this id."""
        return self._agents.get(agent_id)

    def cluster(self, cluster_id: str) -> Agent | None:
        """The agent of this cluster."""
        return next((agent for agent in self if agent.cluster_id == cluster_id), None)

    def heard(self, agent: Agent, beat: Heartbeat) -> None:
        """Note a heartbeat."""
        agent.heartbeats += 1
        agent.last_heartbeat = self._wall()
        agent.status = beat.status
        agent.tunnel_status = beat.tunnel_status

    def forget(self) -> None:
        """
        Forget every agent, as a control plane that lost its database. A port stays with whom it was given to.
        """
        self._agents.clear()

    def move(self) -> None:
        """Give every agent other ports than it has."""
        left = set(self._kept_ports.values())
        for agent in self:
            for name in agent.ports:
                self._kept_ports.pop((agent.agent_id, name), None)
            agent.ports = {name: self._port(agent.agent_id, name, left) for name in agent.ports}

    def allocate(self, agent: Agent) -> Mapping[str, int]:
        """
        A port for each of the agent's forwards: the same as before, or a free one.

        @return: the ports by forward name.
        @raise LedgerFull: no port is free.
        """
        for key in agent.registration.tunnel_port_config:
            for name in _forward_names(key):
                if name not in agent.ports:
                    agent.ports[name] = self._port(agent.agent_id, name)
        return agent.ports

    def _port(self, agent_id: str, name: str, but: Collection[int] = ()) -> int:
        """
        The search starts where the names say: so an agent mostly finds its ports again after a restart.

        @param but: ports that it must not be.
        """
        kept = self._kept_ports.get((agent_id, name))
        if kept is not None:
            return kept
        taken = {*but, *self._kept_ports.values()}
        digest = hashlib.sha256(f"{agent_id}\n{name}".encode()).digest()
        start = int.from_bytes(digest[:4], "big")
        for step in range(self._span):
            port = self._first_port + (start + step) % self._span
            if port not in taken and self._is_free(port):
                self._kept_ports[agent_id, name] = port
                return port
        raise LedgerFull(f"no free port for {name}")


def _forward_names(key: str) -> tuple[str, ...]:
    """
    The names that the forward behind a key of C{tunnel_port_config} may have.

    The contract's own keys have underscores where the forwards' names have hyphens. A key of another forward
    does not tell which of the two its name has, so that each gets a port, and the agent takes its own.
    """
    if key in CONTRACT_NAMES:
        return (CONTRACT_NAMES[key],)
    return tuple(dict.fromkeys((key.replace("_", "-"), key)))
