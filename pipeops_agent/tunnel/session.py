"""
One session: from the way out to a tunnel that is proven to be up, and to its end.

The steps, each with a deadline and each kept in the trace: C{dns}, C{tcp}, C{proxy}, C{tls} (the way out's),
C{upgrade}, C{ssh} (version, key exchange, the server's key), C{login}, C{configuration}, C{ping}.
When to open a session, and what to do when it ends, is the manager's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pipeops_agent.net.connector import Connector
from pipeops_agent.net.problems import ConnectProblem
from pipeops_agent.net.tls import ClientTLS
from pipeops_agent.net.trace import Trace
from pipeops_agent.orders import TunnelServer
from pipeops_agent.scheduling import DeadlineExceeded, Tasks, bounded
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_tunnel import TunnelSettings
from pipeops_agent.tunnel.carrier import CarrierLost, ClientCarrier, client_factory
from pipeops_agent.tunnel.errors import RemotesRefused, SessionError
from pipeops_agent.tunnel.forwarding import Forwarder
from pipeops_agent.tunnel.keepalive import Keepalive
from pipeops_agent.tunnel.remotes import Remote, config_payload, named_ports
from pipeops_agent.tunnel.ssh.auth import LoginRefused, PasswordAuthClient
from pipeops_agent.tunnel.ssh.client import ChiselClientTransport
from pipeops_agent.tunnel.ssh.common import RekeyPolicy, SSHError, WrongHostKey, peer_text
from pipeops_agent.tunnel.ssh.connection import ConnectionLayer, RequestRefused
from pipeops_agent.tunnel.ssh.windows import Windows
from pipeops_agent.tunnel.traffic import TrafficCounters

_log = Logger(namespace="tunnel.session")

PING: Final = b"ping"
PONG: Final = b"pong"
CONFIG: Final = b"config"

CLOSE_TIMEOUT: Final = 1.5
"""Seconds until a session that is being closed is over, whatever the server does."""


class ChiselSession:
    """
    See L{pipeops_agent.tunnel.session_api.Session}.

    It is the owner of the three layers (carrier, transport, connection) and hears from each of them.
    """

    def __init__(
        self,
        reactor: Any,
        server: TunnelServer,
        remotes: tuple[Remote, ...],
        *,
        forwarder: Forwarder,
        traffic: TrafficCounters,
        settings: TunnelSettings,
        version: str,
        on_ping: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._clock: IReactorTime = reactor
        self._on_ping = on_ping
        self.server = server
        self.remotes = remotes
        self._forwarder = forwarder
        self._traffic = traffic
        self._settings = settings
        self._version = version
        self._stage: Deferred[None] | None = None
        self._awaited: Deferred[Any] | None = None
        self._passed: set[str] = set()
        self._ended: str | None = None
        self._error: SSHError | None = None
        self._closing: str | None = None
        self._waiters: list[Deferred[str]] = []
        self._opened_at: float = self._clock.seconds()
        self.confirmed: float = self._opened_at
        self._windows = Windows(self._clock.seconds, settings.window_size)
        self._connection = ConnectionLayer(self, windows=self._windows, max_channels=settings.max_channels)
        self._transport = ChiselClientTransport(
            self._clock,
            self,
            RekeyPolicy(settings.rekey_bytes, settings.rekey_interval),
            server.fingerprint,
        )
        self._carrier = ClientCarrier(self._clock, self._transport, self)
        self._pings = self._make_keepalive("SSH", self._send_ping)
        self._frames = self._make_keepalive("WebSocket", self._carrier.ping)
        self._tasks = Tasks()

    # -- the Session interface

    @property
    def rtt(self) -> float | None:
        return self._pings.rtt

    @property
    def channels(self) -> int:
        return self._forwarder.connections

    def last_activity(self) -> float:
        times = (self._traffic.forward(remote.forward).last_byte for remote in self.remotes)
        return max(self._opened_at, *(time or 0.0 for time in times))

    def when_lost(self) -> Deferred[str]:
        if self._ended is not None:
            return succeed(self._ended)
        waiter: Deferred[str] = Deferred()
        self._waiters.append(waiter)
        return waiter

    def close(self, why: str) -> Deferred[None]:
        if self._ended is None and self._closing is None:
            self._closing = why
            self._stop_pings()
            self._tasks.spawn(self._close(), "closing a tunnel session")
        return self.when_lost().addCallback(lambda _: None)

    def abort(self, why: str) -> None:
        if self._ended is None:
            self._closing = self._closing or why
            self._stop_pings()
            self._carrier.fail(why)

    async def _close(self) -> None:
        self._forwarder.stop()
        self._transport.loseConnection()
        try:
            await bounded(self._clock, CLOSE_TIMEOUT, self.when_lost(), "the end of a session")
        except DeadlineExceeded:
            self._carrier.fail("the server does not close the connection")

    # -- opening

    async def open(self, connector: Connector, tls: ClientTLS | None, trace: Trace) -> None:
        """
        Go through all steps.

        @raise SessionError: one of them failed; nothing is left behind.
        """
        try:
            await self._connect(connector, tls, trace)
            await self._step(trace, "ssh", "the SSH key exchange")
            await self._login(trace)
            await self._configure(trace)
            await self._first_ping(trace)
        except BaseException:
            self._carrier_cut()
            raise
        self._pings.start()
        self._frames.start()

    async def _connect(self, connector: Connector, tls: ClientTLS | None, trace: Trace) -> None:
        address = self.server.address
        factory = client_factory(
            self._reactor, address.url, f"PipeOps-Agent/{self._version}", lambda: self._carrier
        )
        endpoint = connector.endpoint(address.host, address.port, tls=tls, trace=trace, prompt=True)
        try:
            await endpoint.connect(factory)
        except ConnectProblem as problem:
            raise SessionError(problem.step, str(problem), problem.retryable) from problem
        await self._step(trace, "upgrade", "the upgrade to a WebSocket")

    async def _step(self, trace: Trace, name: str, what: str) -> None:
        """Wait until the step C{name} is passed, or the session has ended."""
        with trace.step(name):
            if name in self._passed:
                return
            self._stage = Deferred()
            await self._in_time(name, self._stage, what)

    async def _in_time(self, step: str, waiting: Deferred[Any], what: str) -> Any:
        """
        Wait for C{waiting}, or for the end of the session.

        Whatever goes wrong becomes a L{SessionError} of this step.
        """
        self._check_alive(step)
        self._awaited = waiting
        try:
            return await bounded(self._clock, self._settings.connect_timeout, waiting, what)
        except CancelledError:
            raise
        except DeadlineExceeded as error:
            raise SessionError(step, str(error)) from error
        except LoginRefused as error:
            raise SessionError(step, str(error), retryable=False) from error
        except (SSHError, CarrierLost) as error:
            self._check_alive(step)
            raise SessionError(step, str(error)) from error
        finally:
            self._awaited = None

    def _check_alive(self, step: str) -> None:
        if self._ended is not None:
            wrong_key = isinstance(self._error, WrongHostKey)
            raise SessionError(step, self._ended, retryable=not wrong_key)

    async def _login(self, trace: Trace) -> None:
        user, password = self.server.credentials or ("", Secret(""))
        with trace.step("login"):
            login = PasswordAuthClient(user, password)
            self._transport.requestService(login)
            await self._in_time("login", login.done, "the login")
            self._transport.setService(self._connection)

    async def _configure(self, trace: Trace) -> None:
        with trace.step("configuration"):
            payload = config_payload(self.remotes, self._version)
            waiting = self._connection.request(CONFIG, payload)
            try:
                objection = await self._in_time("configuration", waiting, "the answer to the configuration")
            except RequestRefused as refusal:
                objection = refusal.reason or b"no reason given"
            if objection:  # a text in the reply is a refusal, whatever the reply's kind
                text = peer_text(objection)
                reason = f"the server refused the configuration: {text}"
                raise RemotesRefused(reason, named_ports(text))

    async def _first_ping(self, trace: Trace) -> None:
        with trace.step("ping"):
            began = self._clock.seconds()
            waiting = self._connection.request(PING)
            with suppress(RequestRefused):  # an answer is an answer: servers may not know pings
                await self._in_time("ping", waiting, "the answer to the first ping")
            self._pings.rtt = self._clock.seconds() - began
            self._confirm()

    def _carrier_cut(self) -> None:
        """Leave nothing behind of an attempt that failed."""
        self._forwarder.stop()
        if self._ended is None and self._carrier.transport is not None:
            self._carrier.fail("the attempt was given up")

    # -- pings

    def _make_keepalive(self, name: str, send: Callable[[], None]) -> Keepalive:
        return Keepalive(
            self._clock,
            name,
            interval=self._settings.ping_interval,
            timeout=self._settings.ping_timeout,
            send=send,
            heard=lambda: self._carrier.last_received,
            dead=self._carrier.fail,
        )

    def _send_ping(self) -> None:
        self._connection.request(PING).addBoth(self._ponged)

    def _ponged(self, result: bytes | Failure) -> None:
        """A refusal is an answer too; the end of the connection is none, and told elsewhere."""
        if isinstance(result, bytes) or result.check(RequestRefused):
            self._pings.answered()
            self._confirm()
            self._count_bytes()
            self._on_ping()

    def _confirm(self) -> None:
        """The server has just proved to be there, and with it the ports that it listens on for us."""
        self.confirmed = now = self._clock.seconds()
        if self._pings.rtt is not None:
            self._windows.note_round_trip(self._pings.rtt)
        for remote in self.remotes:
            self._traffic.forward(remote.forward).confirmed = now

    def _stop_pings(self) -> None:
        self._pings.stop()
        self._frames.stop()

    def _count_bytes(self) -> None:
        carrier, traffic = self._carrier, self._traffic
        traffic.carrier_bytes_in += carrier.bytes_in
        traffic.carrier_bytes_out += carrier.bytes_out
        carrier.bytes_in = carrier.bytes_out = 0

    # -- what the layers tell

    def carrier_open(self) -> None:
        self._pass("upgrade")

    def carrier_pong(self) -> None:
        self._frames.answered()

    def ssh_secure(self) -> None:
        self._pass("ssh")

    def _pass(self, name: str) -> None:
        self._passed.add(name)
        stage, self._stage = self._stage, None
        if stage is not None and not stage.called:
            stage.callback(None)

    def channel_requested(self, request: Any) -> None:
        self._forwarder.channel_requested(request)

    def global_requested(self, name: bytes, payload: bytes) -> bytes | None:
        return PONG if name == PING else None

    def ssh_ended(self, error: SSHError) -> None:
        self._error = error

    def carrier_lost(self, error: CarrierLost) -> None:
        self._stop_pings()
        self._count_bytes()
        self._ended = self._closing or str(self._error or error)
        self._forwarder.stop()
        awaited, self._awaited = self._awaited, None
        if awaited is not None and not awaited.called:
            awaited.errback(error)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(self._ended)
