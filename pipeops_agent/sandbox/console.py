"""For the person at the sandbox: who registered and which port reaches what (C{GET /}), and C{/faults}."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from twisted.logger import Logger

from pipeops_agent.clock import WallClock, rfc3339
from pipeops_agent.sandbox.callers import Guard
from pipeops_agent.sandbox.contract import named_field
from pipeops_agent.sandbox.faults import Act, Fault, FaultBox, TooManyFaults, parse_faults
from pipeops_agent.sandbox.ledger import Agent, Ledger
from pipeops_agent.sandbox.serving import Answer, Answering, BoundedRequest, error
from pipeops_agent.scheduling import Tasks

_log = Logger(namespace="sandbox")

Facts = Callable[[], Mapping[str, Any]]
"""What there is to say about the sandbox itself: name to text, in the order in which it is shown."""


class ListingResource(Answering):
    """C{GET /}: text for people, JSON for who asks for it."""

    def __init__(
        self, ledger: Ledger, box: FaultBox, guard: Guard, facts: Facts, wall: WallClock, tasks: Tasks
    ) -> None:
        super().__init__(tasks)
        self._ledger = ledger
        self._box = box
        self._guard = guard
        self._facts = facts
        self._wall = wall

    async def answer(self, request: BoundedRequest) -> Answer:
        refusal = self._guard.refusal(request)
        if refusal is not None:
            return refusal
        if request.method not in (b"GET", b"HEAD"):
            return error(405, "the listing is read with GET", allow="GET, HEAD")
        accepted = ",".join(request.requestHeaders.getRawHeaders("Accept", []))
        if "application/json" in accepted:
            return Answer(body=self._listing())
        return Answer(body=self._text(), content_type="text/plain; charset=utf-8")

    def _listing(self) -> Mapping[str, Any]:
        agents = [_shown(agent) for agent in self._ledger]
        return {**self._facts(), "agents": agents, "faults": self._box.shown()}

    def _text(self) -> str:
        lines = [f"{name.replace('_', ' '):<16} {value}" for name, value in self._facts().items() if value]
        agents = list(self._ledger)
        if not agents:
            lines += ["", "no agent has registered yet"]
        for agent in agents:
            lines += ["", *self._agent_lines(agent)]
        shown = self._box.shown()
        lines += ["", "faults switched on:" if shown else "no fault is switched on"]
        lines += [f"  {json.dumps(fault)}" for fault in shown]
        return "\n".join(lines) + "\n"

    def _agent_lines(self, agent: Agent) -> list[str]:
        heard = "no heartbeat yet"
        if agent.last_heartbeat is not None:
            seconds = (self._wall() - agent.last_heartbeat).total_seconds()
            heard = f"{agent.status}, tunnel {agent.tunnel_status}, heard {seconds:.0f} s ago"
        lines = [
            f"{agent.agent_id} ({agent.registration.name})",
            f"  cluster {agent.cluster_id}",
            f"  {heard}",
        ]
        for name, port in agent.ports.items():
            state = "open" if port in agent.listening else "not open"
            lines.append(f"  127.0.0.1:{port} -> {name} ({state})")
        return lines


def _shown(agent: Agent) -> Mapping[str, Any]:
    """An agent as JSON, without what it can log in with."""
    last = agent.last_heartbeat
    return {
        "agent_id": agent.agent_id,
        "cluster_id": agent.cluster_id,
        "name": agent.registration.name,
        "agent_version": agent.registration.agent_version,
        "registered": rfc3339(agent.registered),
        "registrations": agent.registrations,
        "heartbeats": agent.heartbeats,
        "last_heartbeat": None if last is None else rfc3339(last),
        "status": agent.status,
        "tunnel_status": agent.tunnel_status,
        "forwards": [
            {"name": name, "host": "127.0.0.1", "port": port, "listening": port in agent.listening}
            for name, port in agent.ports.items()
        ],
    }


class FaultsResource(Answering):
    """
    C{/faults}: GET shows them, POST adds one or a list, DELETE switches all off.

    @param perform: does what is not kept but done at once.
    """

    def __init__(self, box: FaultBox, guard: Guard, perform: Callable[[Act], None], tasks: Tasks) -> None:
        super().__init__(tasks)
        self._box = box
        self._guard = guard
        self._perform = perform

    async def answer(self, request: BoundedRequest) -> Answer:
        refusal = self._guard.refusal(request)
        if refusal is not None:
            return refusal
        match request.method:
            case b"GET" | b"HEAD":
                return Answer(body=self._box.shown())
            case b"DELETE":
                self._box.clear()
                _log.info("every fault is switched off")
                return Answer(body=[])
            case b"POST":
                return self._add(request.body())
            case _:
                return error(405, "faults are read, added and cleared", allow="GET, HEAD, POST, DELETE")

    def _add(self, body: bytes) -> Answer:
        try:
            asked = parse_faults(body)
            self._box.add(*(one for one in asked if isinstance(one, Fault)))
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            return error(400, named_field(str(problem)))
        except TooManyFaults as full:
            return error(409, str(full))
        for one in asked:
            _log.info("fault: {fault}", fault=json.dumps(msgspec.to_builtins(one)))
            if isinstance(one, Act):
                self._perform(one)
        return Answer(status=201, body=self._box.shown())
