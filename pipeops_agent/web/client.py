"""C{--status}: ask the running agent how it is, and say it so that a person can read it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, TypeVar, cast

import msgspec
from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IPolicyForHTTPS, IResponse
from zope.interface import implementer

from pipeops_agent.log.render import printable
from pipeops_agent.net.tls import ClientTLS, HostTLS
from pipeops_agent.scheduling import DeadlineExceeded, bounded
from pipeops_agent.web.tunnel_summary import tunnel_summary

TIMEOUT: Final = 5.0
"""Seconds for all questions together."""
MAX_ANSWER: Final = 64 * 1024
"""Bytes of one answer."""
MAX_METRICS: Final = 4 * 1024 * 1024
"""Bytes of the metrics: some thirty lines for each forward."""

_WILDCARDS: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (replaced, not bound)

T = TypeVar("T")


class _Health(msgspec.Struct):
    status: str
    version: str
    timestamp: datetime


class _Version(msgspec.Struct):
    full_version: str


class _Check(msgspec.Struct):
    ok: bool


class _Ready(msgspec.Struct):
    status: str
    checks: dict[str, _Check] = {}


class _NotAnAgent(Exception):
    """What answered is something else; the message says how one can tell."""


class _Asking:
    """Asks by one scheme."""

    def __init__(self, agent: Agent, scheme: str) -> None:
        self._agent = agent
        self._scheme = scheme

    def get(self, where: str) -> Deferred[IResponse]:
        return self._agent.request(b"GET", f"{self._scheme}://{where}".encode())


@implementer(IPolicyForHTTPS)
class _AnyCertificate:
    """Speaks TLS with whoever listens: nothing is sent that is anybody's secret."""

    def creatorForNetloc(self, hostname: bytes, port: int) -> HostTLS:  # noqa: N802  # Twisted's
        return ClientTLS(verify=False).for_host(hostname.decode("ascii"))


async def fetch_status(reactor: Any, host: str, port: int, *, tls: bool = False) -> tuple[str, bool]:
    """
    Ask the agent that listens on C{host} and C{port}.

    No token is sent: whoever has taken the port in the agent's place would get it. What is asked needs
    none.

    @param reactor: time and connections.
    @param host: C{server.bind}; the wildcard addresses are asked on loopback.
    @param tls: ask over TLS; whose certificate it is does not matter, as nothing is given away.
    @return: what to print, without a newline at its end, and whether the agent is ready or stands by.
    """
    host = _WILDCARDS.get(host, host)
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return await bounded(reactor, TIMEOUT, _ask(reactor, place, "https" if tls else "http"), "the answer")
    except DeadlineExceeded:
        return (
            f"{place} does not answer within {TIMEOUT:g} s: the agent hangs, or something else listens there",
            False,
        )
    except error.ConnectionRefusedError:
        return (
            f"nothing listens on {place}: start the agent (twistd -n --pidfile= pipeops-agent), or name the"
            " port that it uses (--port, PIPEOPS_PORT or server.port)",
            False,
        )
    except error.ConnectError as problem:
        return f"{place} can't be reached: {printable(str(problem))}", False
    except _NotAnAgent as problem:
        return f"what listens on {place} is no pipeops-agent: {problem}", False


async def _ask(reactor: Any, place: str, scheme: str) -> tuple[str, bool]:
    pool = HTTPConnectionPool(reactor, persistent=False)
    agent = _Asking(Agent(reactor, _AnyCertificate(), connectTimeout=TIMEOUT, pool=pool), scheme)
    health_code, health = await _get(agent, place, "/health", _Health)
    _, version = await _get(agent, place, "/version", _Version)
    ready_code, ready = await _get(agent, place, "/ready", _Ready)
    tunnel = await _tunnel(agent, place, health.timestamp.timestamp())
    lines = [
        printable(version.full_version),
        f"{place}: {printable(health.status)}, {printable(ready.status)}",
    ]
    width = max(map(len, ready.checks), default=0)
    lines += (
        f"  {printable(name):<{width}}  {'ok' if check.ok else 'FAILED'}"
        for name, check in ready.checks.items()
    )
    lines += tunnel
    well = health_code == ready_code == 200
    if not well:
        lines.append("the agent's log says why")
    return "\n".join(lines), well


async def _tunnel(agent: _Asking, place: str, now: float) -> list[str]:
    """
    The tunnel, in lines; empty where the metrics are not for everybody.

    @raise _NotAnAgent: the answer is no HTTP, or too long.
    """
    code, body = await _ask_for(agent, place, "/metrics", MAX_METRICS)
    if code != 200:
        return []
    try:
        return tunnel_summary(body.decode(), now)
    except (ValueError, KeyError, IndexError):
        return ["tunnel: /metrics answers with something else than metrics"]


async def _get(agent: _Asking, place: str, path: str, kind: type[T]) -> tuple[int, T]:
    """@raise _NotAnAgent: the answer is not what an agent answers."""
    code, body = await _ask_for(agent, place, path, MAX_ANSWER)
    try:
        return code, msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise _NotAnAgent(f"{path} answers {code} with something else") from problem


async def _ask_for(agent: _Asking, place: str, path: str, most: int) -> tuple[int, bytes]:
    """Status and body, of at most so many bytes; @raise _NotAnAgent: that is no HTTP."""
    try:
        response: IResponse = await agent.get(f"{place}{path}")
        return int(response.code), await _read(response, most)
    except (CancelledError, error.ConnectError, _NotAnAgent):
        raise
    except Exception as problem:
        raise _NotAnAgent(f"{path} is not answered in HTTP ({type(problem).__name__})") from problem


def _read(response: IResponse, most: int) -> Deferred[bytes]:
    """The body, to its end."""
    reader = _BodyReader(most)
    response.deliverBody(reader)
    return reader.whole


class _BodyReader(Protocol):
    """Collects a body of bounded length."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.whole: Deferred[bytes] = Deferred(lambda _: self._abort())
        self._parts: list[bytes] = []
        self._length = 0

    def dataReceived(self, data: bytes) -> None:
        self._length += len(data)
        if self._length <= self._most:
            self._parts.append(data)
        elif not self.whole.called:
            self.whole.errback(_NotAnAgent(f"its answer is longer than {self._most} bytes"))
            self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(b"".join(self._parts))
        else:
            self.whole.errback(reason)

    def _abort(self) -> None:
        if self.transport is not None:
            cast(ITCPTransport, self.transport).abortConnection()
