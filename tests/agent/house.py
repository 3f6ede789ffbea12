"""An agent and a sandbox in the test's own process, on loopback: what can be seen of both, and waited for."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ClientEndpoint, TCP4ClientEndpoint
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from pipeops_agent.agent import Agent
from pipeops_agent.clock import utc_now
from pipeops_agent.errors import FatalError
from pipeops_agent.log import AgentLog, LogConfig, Redactor
from pipeops_agent.sandbox.ledger import Agent as KnownAgent
from pipeops_agent.sandbox.service import SandboxService, SandboxSettings
from pipeops_agent.scheduling import DeadlineExceeded, bounded, sleep
from pipeops_agent.secrets import Secret
from pipeops_agent.settings import DIRECT, Forward, Loaded, Proxies, Settings
from pipeops_agent.settings.model import AgentSettings
from pipeops_agent.settings.model_pipeops import PipeopsSettings, ReconnectSettings
from pipeops_agent.settings.model_server import ServerSettings
from pipeops_agent.settings.model_tunnel import TunnelSettings
from pipeops_agent.sources import Host
from pipeops_agent.state import MemoryStateStore, StateStore
from pipeops_agent.status import AgentStatus
from tests.peers.processes import PATIENCE, real_reactor

TOKEN = Secret("the-token-of-the-house")
REACTOR: Any = real_reactor()

_LOOK = 0.01
"""Seconds between two looks at what tells nobody that it has changed."""


def free_port() -> int:
    """A port of loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


async def look_until(condition: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    """Wait for what nobody tells of, by looking again and again."""

    async def look() -> None:
        while not condition():
            await sleep(REACTOR, _LOOK)

    await bounded(REACTOR, timeout, look(), what)


class Echo(Protocol):
    """Sends back what it gets."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class User(Protocol):
    """Somebody who connects, and hears what comes back."""

    def __init__(self) -> None:
        self.received = b""
        self.gone: Deferred[None] = Deferred()
        self._waiting: list[tuple[int, Deferred[None]]] = []

    def say(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    async def heard(self, length: int) -> bytes:
        """The first C{length} bytes."""
        if len(self.received) < length:
            waiting: Deferred[None] = Deferred()
            self._waiting.append((length, waiting))
            await bounded(REACTOR, PATIENCE, waiting, f"{length} bytes")
        return self.received[:length]

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        ready = [waiter for length, waiter in self._waiting if length <= len(self.received)]
        self._waiting = [each for each in self._waiting if each[1] not in ready]
        for waiter in ready:
            waiter.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone.callback(None)


class House(TestCase):
    """
    A test with a sandbox and an agent, both stopped at its end; trial sees to it that nothing is left.

    @ivar fatal: the errors that would have ended the agent's process.
    """

    timeout = 60

    def setUp(self) -> None:
        self.fatal: list[FatalError] = []
        self.ended: Deferred[FatalError] = Deferred()
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir(mode=0o700)
        self.log_file = self.directory / "log"
        self.log = AgentLog(LogConfig(level="debug", output=str(self.log_file)), REACTOR, Redactor())
        globalLogPublisher.addObserver(self.log.observer)
        self.addCleanup(self.log.close)
        self.addCleanup(globalLogPublisher.removeObserver, self.log.observer)
        self.next_settings: Callable[[], Loaded] = lambda: Loaded(self.agent.settings, {}, None)

    def start_sandbox(self, **settings: Any) -> SandboxService:
        """Start a sandbox; it ends with the test."""
        wanted = SandboxSettings(**{"token": TOKEN, **settings})
        sandbox = SandboxService(REACTOR, wanted, utc_now)
        sandbox.startService()
        self.addCleanup(lambda: sandbox.stopService() if sandbox.running else None)
        self.sandbox = sandbox
        return sandbox

    def listen(self, factory: Factory) -> int:
        """Serve C{factory} on a port of loopback until the test ends; return the port."""
        port = REACTOR.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    def settings(self, **sections: Mapping[str, Any]) -> Settings:
        """Settings that are quick to try again; C{sections} replaces fields of a section."""
        port = free_port()
        forwards = (
            Forward(name="kubernetes-api", local_addr=f"127.0.0.1:{self.listen(Factory.forProtocol(Echo))}"),
            Forward(name="kubelet-metrics", local_addr=f"127.0.0.1:{free_port()}", aliases=("kubelet",)),
            Forward(name="agent-http", local_addr=f"127.0.0.1:{port}"),
        )
        settings = Settings(
            agent=AgentSettings(poll_interval=0.1),
            pipeops=PipeopsSettings(
                api_url=self.sandbox.api_url,
                token=TOKEN,
                timeout=5.0,
                reconnect=ReconnectSettings(interval=0.05, backoff=0.0, stable_after=0.0),
            ),
            tunnel=TunnelSettings(
                poll_interval=0.1, allow_insecure=True, forwards=forwards, connect_timeout=5.0
            ),
            server=ServerSettings(port=port),
        )
        return change(settings, **sections)

    def start_agent(
        self,
        settings: Settings | None = None,
        *,
        store: StateStore | None = None,
        proxies: Proxies = DIRECT,
        host: Host | None = None,
        **how: Any,
    ) -> Agent:
        """Start an agent; it ends with the test."""
        self.store = store or MemoryStateStore()
        self.agent = Agent(
            REACTOR,
            Loaded(settings or self.settings(), {}, None, proxies=proxies),
            self.log,
            host or self.host(),
            reload=self._load_again,
            end=self._end,
            # In a pod it finds its own.
            store=store if host is not None else self.store,
            **how,
        )
        self.agent.startService()
        agent = self.agent
        self.addCleanup(lambda: agent.stopService() if agent.running else None)
        return agent

    def host(self, **changes: Any) -> Host:
        """The machine that an agent takes this one for."""
        host = Host(
            hostname="host-of-the-test",
            environ={},
            home=self.directory,
            wall=utc_now,
            random_bytes=os.urandom,
        )
        return msgspec.structs.replace(host, **changes)

    def _load_again(self) -> Loaded:
        return self.next_settings()

    def _end(self, error: FatalError) -> None:
        self.fatal.append(error)
        if not self.ended.called:
            self.ended.callback(error)

    async def fatal_error(self) -> FatalError:
        """The error that ends the agent."""
        return await bounded(REACTOR, PATIENCE, self.ended, "the end of the agent")

    async def until(
        self, condition: Callable[[AgentStatus], object], what: str, timeout: float = PATIENCE
    ) -> AgentStatus:
        """Wait until the agent's status is as C{condition} wants it."""
        board = self.agent.board
        if condition(board.now):
            return board.now
        there: Deferred[None] = Deferred()

        def look(_: object) -> None:
            if not there.called and condition(board.now):
                there.callback(None)

        unsubscribe = self.agent.hub.subscribe(look)
        try:
            await bounded(REACTOR, timeout, there, what)
        except DeadlineExceeded as late:
            raise DeadlineExceeded(f"{late}; the status is {board.now}") from None
        finally:
            unsubscribe()
        # On with the reactor's next turn: the event came from the middle of something of the agent's.
        await sleep(REACTOR, 0)
        return board.now

    async def until_connected(self) -> AgentStatus:
        """Wait until the tunnel stands with everything that it forwards, and heartbeats get through."""
        return await self.until(
            lambda status: (
                status.tunnel.state == "connected"
                and all(each.state in ("listening", "proven") for each in status.tunnel.forwards)
                and status.heartbeat.state == "ok"
            ),
            "the tunnel",
        )

    async def heartbeats(self, count: int) -> None:
        """Wait for so many more heartbeats to have got through."""
        for _ in range(count):
            await self._heartbeat(self.agent.board.now.heartbeat.last_success)

    async def _heartbeat(self, last: datetime | None) -> None:
        await self.until(lambda status: status.heartbeat.last_success != last, "a heartbeat")

    @property
    def known(self) -> KnownAgent:
        """The agent as the sandbox knows it."""
        (known,) = self.sandbox.ledger
        return known

    async def connect(self, forward: str) -> User:
        """Connect through a forward, named as the control plane does."""
        user = await dial(self.known.ports[forward])
        self.addCleanup(self._hang_up, user)
        return user

    def _hang_up(self, user: User) -> Deferred[None] | None:
        if user.gone.called or user.transport is None:
            return None
        user.transport.abortConnection()  # type: ignore[attr-defined]  # a TCP one
        return user.gone

    async def get(
        self, path: str, *, port: int | None = None, token: Secret | None = None
    ) -> tuple[int, str]:
        """Status and body of an HTTP answer, by default the agent's own."""
        port = self.agent.settings.server.port if port is None else port
        return await get(port, path, token)

    def logged(self) -> str:
        """The whole log so far."""
        return self.log_file.read_text()

    def records(self, **match: object) -> list[dict[str, Any]]:
        """The records so far that have these fields."""
        records = [json.loads(line) for line in self.logged().splitlines()]
        return [one for one in records if all(one.get(key) == value for key, value in match.items())]


class _One(ClientFactory):
    """Makes the one user."""

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> User:
        return User()


async def dial(port: int, *, tls: bool = False) -> User:
    """Connect to a port of loopback, with TLS that trusts everybody."""
    endpoint: IStreamClientEndpoint = TCP4ClientEndpoint(REACTOR, "127.0.0.1", port)
    if tls:
        endpoint = SSL4ClientEndpoint(REACTOR, "127.0.0.1", port, CertificateOptions())
    user: Any = await bounded(REACTOR, PATIENCE, endpoint.connect(_One()), "a connection")
    assert isinstance(user, User)
    return user


async def get(port: int, path: str, token: Secret | None = None, *, tls: bool = False) -> tuple[int, str]:
    """Status and body of an HTTP answer from loopback."""
    user = await dial(port, tls=tls)
    authorization = f"Authorization: Bearer {token.reveal()}\r\n" if token else ""
    user.say(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}Connection: close\r\n\r\n".encode())
    await bounded(REACTOR, PATIENCE, user.gone, f"the answer to {path}")
    head, _, body = user.received.decode().partition("\r\n\r\n")
    return int(head.split(" ", 2)[1]), body


def change(settings: Settings, **sections: Mapping[str, Any]) -> Settings:
    """C{settings} with other fields in some sections."""
    return msgspec.structs.replace(
        settings,
        **{
            name: msgspec.structs.replace(getattr(settings, name), **fields)
            for name, fields in sections.items()
        },
    )
