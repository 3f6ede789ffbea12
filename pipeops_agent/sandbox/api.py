"""The HTTP half of the contract: register, heartbeat, tunnel status, reachability. A strict peer."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http import datetimeToString

from pipeops_agent.clock import WallClock
from pipeops_agent.sandbox import faults
from pipeops_agent.sandbox.callers import bears, called_host
from pipeops_agent.sandbox.contract import ContractError, parse_heartbeat, parse_registration
from pipeops_agent.sandbox.ledger import Agent, Ledger, LedgerFull
from pipeops_agent.sandbox.serving import HTML_PAGE, Answer, Answering, BoundedRequest, Hangup, error
from pipeops_agent.scheduling import Tasks, sleep
from pipeops_agent.secrets import Secret

_log = Logger(namespace="sandbox")

USER_AGENT: Final = re.compile(r"^PipeOps-Agent/\S+$")


class Route(NamedTuple):
    """A call: how it is made, and who carries it out."""

    call: str
    method: bytes
    path: re.Pattern[str]
    carry_out: Callable[[BoundedRequest, re.Match[str]], Answer]


def _route(
    call: str, method: bytes, path: str, carry_out: Callable[[BoundedRequest, re.Match[str]], Answer]
) -> Route:
    """A route; C{{}} in its path stands for one segment."""
    return Route(call, method, re.compile(path.replace("{}", "([^/]+)") + r"\Z"), carry_out)


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the tunnel status tells of the chisel server.

    @ivar scheme: C{ws} or C{wss}.
    @ivar default_host: C{host:port} for a request without a C{Host}.
    """

    scheme: str
    default_host: str
    fingerprint: str


class ContractResource(Answering):
    """
    Everything under C{/api/}.

    @param endpoint: asked at each tunnel status: where the chisel server is.
    @param on_registered: told of each registration, and whether the agent was known.
    """

    def __init__(
        self,
        clock: IReactorTime,
        ledger: Ledger,
        box: faults.FaultBox,
        token: Secret,
        wall: WallClock,
        *,
        endpoint: Callable[[], Endpoint],
        on_registered: Callable[[Agent, bool], None],
        poll_frequency: int = 0,
        tasks: Tasks,
    ) -> None:
        super().__init__(tasks)
        self._clock = clock
        self._ledger = ledger
        self._box = box
        self._token = token
        self._wall = wall
        self._endpoint = endpoint
        self._on_registered = on_registered
        self._poll_frequency = poll_frequency
        self._routes = (
            _route("register", b"POST", "/api/v1/clusters/agent/register", self._register),
            _route("heartbeat", b"POST", "/api/v1/clusters/agent/{}/heartbeat", self._beat),
            _route("tunnel-status", b"GET", "/api/v1/tunnel/status", self._tunnel_by_query),
            _route("tunnel-status", b"GET", "/api/agents/{}/tunnel/status", self._tunnel_by_path),
            _route("health", b"GET", "/api/v1/health", self._health),
        )

    async def answer(self, request: BoundedRequest) -> Answer:
        path = request.path.decode("latin-1")
        for route in self._routes:
            found = route.path.match(path)
            if found is not None:
                return self._dated(await self._call(route, request, found))
        return self._dated(error(404, f"no such path: {path}"))

    def _dated(self, answer: Answer) -> Answer:
        skew = self._box.take(faults.Skew)
        if skew is None:
            return answer
        moment = self._wall() + timedelta(seconds=skew.seconds)
        date = datetimeToString(moment.timestamp()).decode()
        return msgspec.structs.replace(answer, headers={**answer.headers, "Date": date})

    async def _call(self, route: Route, request: BoundedRequest, found: re.Match[str]) -> Answer:
        """Carry out a call, or whatever a fault makes of it."""
        delay = self._box.take(faults.Delay, lambda fault: fault.strikes(route.call))
        if delay is not None:
            await sleep(self._clock, delay.seconds)
        fault = self._box.take(
            faults.CallFault, lambda fault: not isinstance(fault, faults.Delay) and fault.strikes(route.call)
        )
        match fault:
            case faults.Drop():
                raise Hangup
            case faults.HalfOpen():
                await Deferred()  # ended by the client, or by the stop
            case faults.Status(status=status, body=body, content_type=kind, retry_after=retry_after):
                headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
                said = {"error": f"as the sandbox was told: {status}"} if body is None else body
                return Answer(status=status, body=said, content_type=kind, headers=headers)
            case faults.Html(status=status):
                return Answer(status=status, body=HTML_PAGE, content_type="text/html; charset=utf-8")
            case faults.Redirect(status=status, location=location):
                return Answer(status=status, headers={"Location": location})
        answer = self._carry_out(route, request, found)
        if isinstance(fault, faults.Broken):
            whole = answer.encoded()
            return msgspec.structs.replace(answer, body=whole[: max(1, len(whole) // 2)])
        return answer

    def _carry_out(self, route: Route, request: BoundedRequest, found: re.Match[str]) -> Answer:
        """The call itself, once who calls and how is as the contract says."""
        if request.method not in (route.method, b"HEAD" if route.method == b"GET" else route.method):
            allowed = "GET, HEAD" if route.method == b"GET" else route.method.decode()
            return error(405, f"{route.call} is made with {allowed}", allow=allowed)
        if not bears(request, self._token):
            _log.warn("a call without the sandbox's token was refused: {call}", call=route.call)
            return error(401, "the bearer token is not the sandbox's", www_authenticate="Bearer")
        try:
            check_headers(request, body=route.method == b"POST")
            return route.carry_out(request, found)
        except ContractError as broken:
            _log.warn("{call} breaks the contract: {problem}", call=route.call, problem=str(broken))
            return error(400, str(broken))
        except LedgerFull as full:
            return error(503, str(full))

    def _register(self, request: BoundedRequest, _: re.Match[str]) -> Answer:
        agent, known = self._ledger.register(parse_registration(request.body()))
        self._on_registered(agent, known)
        name = agent.registration.name
        message = "agent known" if known else "agent registered"
        cluster = {"uuid": agent.cluster_id, "id": agent.cluster_id, "name": name, "status": "active"}
        body = {"success": True, "message": message, "cluster_id": agent.cluster_id, "name": name}
        return Answer(status=200 if known else 201, body=body | {"status": "active", "cluster": cluster})

    def _beat(self, request: BoundedRequest, found: re.Match[str]) -> Answer:
        agent = self._ledger.cluster(unquote(found[1]))
        if agent is None:
            return error(404, "no such cluster")
        beat = parse_heartbeat(request.body())
        if beat.cluster_id != agent.cluster_id:
            raise ContractError(f"cluster_id: expected the path's {agent.cluster_id}, got {beat.cluster_id}")
        if beat.agent_id != agent.agent_id:
            raise ContractError(f"agent_id: expected {agent.agent_id}, got {beat.agent_id}")
        self._ledger.heard(agent, beat)
        body: dict[str, Any] = {"success": True}
        told = self._box.take(faults.Reconnect)
        if told is not None:
            body |= {"reconnect": True, "message": told.message}
            if told.server is not None:
                body["tunnel_server_addr"] = told.server
        return Answer(body=body)

    def _tunnel_by_query(self, request: BoundedRequest, _: re.Match[str]) -> Answer:
        query = parse_qs(request.uri.partition(b"?")[2].decode("latin-1"), keep_blank_values=True)
        ids = query.get("agent_id", [])
        if len(ids) != 1 or not ids[0]:
            raise ContractError("agent_id: expected once in the query")
        return self._tunnel(request, ids[0])

    def _tunnel_by_path(self, request: BoundedRequest, found: re.Match[str]) -> Answer:
        return self._tunnel(request, unquote(found[1]))

    def _tunnel(self, request: BoundedRequest, agent_id: str) -> Answer:
        agent = self._ledger.agent(agent_id)
        if agent is None:
            return error(404, "no such agent")
        endpoint = self._endpoint()
        told = self._box.take(faults.Tunnel)
        ports = self._ledger.allocate(agent)
        login = f"{agent.cluster_id}:{agent.password.reveal()}"
        body: dict[str, Any] = {
            "status": "ready" if told is None else told.status,
            "forwards": [{"name": name, "remote_port": port} for name, port in ports.items()],
            "tunnel_server_addr": f"{endpoint.scheme}://{called_host(request) or endpoint.default_host}",
            "server_fingerprint": endpoint.fingerprint,
            "credentials": base64.b64encode(login.encode()).decode(),
        }
        if self._poll_frequency:
            body["poll_frequency"] = self._poll_frequency
        return Answer(body=body)

    def _health(self, request: BoundedRequest, _: re.Match[str]) -> Answer:
        return Answer(body={"status": "ok", "name": "pipeops sandbox"})


def check_headers(request: BoundedRequest, *, body: bool) -> None:
    """@raise ContractError: a header that every call has is missing or other."""
    agents = request.requestHeaders.getRawHeaders("User-Agent", [])
    if len(agents) != 1 or not USER_AGENT.match(agents[0]):
        raise ContractError(f"header User-Agent: expected PipeOps-Agent/<version>, got {', '.join(agents)!r}")
    if body:
        kinds = request.requestHeaders.getRawHeaders("Content-Type", [])
        if [kind.partition(";")[0].strip().lower() for kind in kinds] != ["application/json"]:
            raise ContractError(f"header Content-Type: expected application/json, got {', '.join(kinds)!r}")
