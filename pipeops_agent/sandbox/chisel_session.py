"""
One chisel session as the server has it: WebSocket carrier, SSH, login, configuration, forwards.

The order is the protocol's: the upgrade, both versions, the key exchange, the login, one global request
C{config}; from then on a channel of type C{chisel} is opened for each connection to a bound port. Either the
whole configuration is bound, or nothing of it, and the reply carries the reason in chisel's words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from twisted.conch.ssh import keys
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from pipeops_agent.sandbox import faults
from pipeops_agent.sandbox.bindings import Bindings, Grant, Ground, Refused
from pipeops_agent.sandbox.chisel_layers import SandboxCarrier, SandboxConnection, SandboxTransport
from pipeops_agent.scheduling import DeadlineExceeded, Tasks, bounded, sleep
from pipeops_agent.secrets import Secret
from pipeops_agent.tunnel.carrier import CarrierLost
from pipeops_agent.tunnel.remotes import ConfigError, parse_config
from pipeops_agent.tunnel.ssh.auth import USERAUTH, PasswordAuthServer
from pipeops_agent.tunnel.ssh.common import Service, SSHError
from pipeops_agent.tunnel.ssh.connection import OpenRequest, RequestRefused
from pipeops_agent.tunnel.ssh.messages import OPEN_ADMINISTRATIVELY_PROHIBITED
from pipeops_agent.tunnel.ssh.server import HostKey

_log = Logger(namespace="sandbox")

HANDSHAKE_TIMEOUT: Final = 30.0
"""Seconds from the upgrade to the login."""

_SHOWN: Final = 100
"""How much of a user name chosen by the peer goes into the log."""


class House(Ground, Protocol):
    """The server, as its sessions see it."""

    config_timeout: float
    ping_interval: float

    def authenticate(self, user: str, password: Secret) -> Grant | None:
        """What these credentials allow; None: they are not known."""

    def host_key(self, *, wrong: bool) -> keys.Key:
        """The server's key, or another."""

    def ended(self, session: ChiselSession) -> None:
        """The session's connection is gone."""


class ChiselSession:
    """
    One client. It owns its carrier, its SSH transport and the connection upon it, and hears from each.

    @ivar carrier: the WebSocket protocol to be put on the TCP connection.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._silent = house.box.take(faults.Silent, lambda fault: fault.stage != "upgrade")
        wrong = house.box.take(faults.WrongKey) is not None
        key = HostKey(house.host_key(wrong=wrong), self._service)
        self._transport = SandboxTransport(house.reactor, self, key)
        self.carrier = SandboxCarrier(house.reactor, self._transport, self)
        self._tasks = Tasks()
        self._timer: IDelayedCall | None = None
        self._grant: Grant | None = None
        self._connection = SandboxConnection(self)
        self._bindings: Bindings | None = None
        self._asked = False
        self._over = False

    # -- faults

    def reached(self, stage: faults.Stage) -> None:
        """Go silent here, where a fault says so."""
        if self._silent is not None and self._silent.stage == stage:
            self.swallow()

    def swallow(self) -> None:
        """From now on: read everything, say nothing, keep the connection."""
        if not self.carrier.swallowing:
            _log.info("a chisel session of {subject} goes silent", subject=self._subject)
            self.carrier.swallowing = True
            self._stop_timer()
            self._tasks.stop()

    @property
    def is_up(self) -> bool:
        """Whether the configuration was accepted."""
        return bool(self._bindings)

    @property
    def _subject(self) -> str:
        return "nobody yet" if self._grant is None else self._grant.subject

    # -- the carrier's owner

    def carrier_open(self) -> None:
        self._deadline(HANDSHAKE_TIMEOUT, "it did not log in in time")

    def carrier_pong(self) -> None:
        """Not asked for: this side asks over SSH, as chisel does."""

    def carrier_lost(self, error: CarrierLost) -> None:
        self._over = True
        self._stop_timer()
        self._tasks.stop()
        if self._bindings is not None:
            self._bindings.release()
        reason = str(self._transport.error or error)
        _log.info("a chisel session of {subject} ended: {reason}", subject=self._subject, reason=reason)
        self._house.ended(self)

    # -- the SSH transport's owner

    def ssh_secure(self) -> None:
        """The key exchange is done; what the client wants it says itself."""

    def ssh_ended(self, error: SSHError) -> None:
        """The carrier ends with it; L{carrier_lost} says so too."""

    # -- login

    def _service(self, transport: object, name: bytes) -> Callable[[], Service] | None:
        if name != USERAUTH or self._grant is not None:
            return None
        return lambda: PasswordAuthServer(self._check, self._logged_in)

    def _check(self, user: str, password: Secret) -> bool:
        self.reached("auth")
        if self._house.box.take(faults.WrongPassword) is None:
            self._grant = self._house.authenticate(user, password)
        if self._grant is None:
            _log.warn("a chisel login was refused", user=user[:_SHOWN])
        return self._grant is not None

    def _logged_in(self, user: str) -> Service:
        self._deadline(self._house.config_timeout, "it did not say what it wants in time")
        return self._connection

    # -- requests and channels of the client

    def channel_requested(self, request: OpenRequest) -> None:
        request.refuse(OPEN_ADMINISTRATIVELY_PROHIBITED, "only reverse forwards are served")

    def global_requested(self, name: bytes, payload: bytes) -> bytes | None:
        """Refuse: L{SandboxConnection} asks L{requested} instead."""
        return None

    def requested(self, name: bytes, payload: bytes, wants_reply: bool) -> None:
        """The first request says what is wanted; after that there are pings."""
        first, self._asked = not self._asked, True
        if first:
            self.reached("config")
        if self.carrier.swallowing:
            return
        try:
            if first:
                self._configure(name, payload)
                answer = b""
            elif name == b"ping":
                answer = b"pong"
            else:
                raise Refused("server: unknown request")
        except Refused as refused:
            if wants_reply:
                self._connection.refuse_request(str(refused))
            return
        slow = self._house.box.take(faults.SlowPing) if name == b"ping" else None
        if slow is not None:
            self._tasks.spawn(self._reply_late(answer, slow.seconds), "a late answer to a ping")
        elif wants_reply:
            self._connection.grant_request(answer)

    async def _reply_late(self, answer: bytes, seconds: float) -> None:
        await sleep(self._house.reactor, seconds)
        self._connection.grant_request(answer)

    def _configure(self, name: bytes, payload: bytes) -> None:
        """@raise Refused: with the reason that the client is told."""
        if name != b"config":
            raise Refused("server: expecting config request")
        try:
            remotes = parse_config(payload).remotes
        except ConfigError as error:
            raise Refused(f"server: {error}") from None
        assert self._grant is not None, "nobody gets here without a login"
        self._bindings = Bindings(self._house, self._grant, self._connection)
        self._bindings.bind(remotes)
        self._stop_timer()
        self._tasks.spawn(self._keep_alive(), "keeping a chisel session alive")
        if self._house.box.take(faults.Swallow) is not None:
            # Not before the answer to this very request is out.
            self._timer = self._house.reactor.callLater(0, self._swallow_now)

    def _swallow_now(self) -> None:
        self._timer = None
        self.swallow()

    # -- life

    async def _keep_alive(self) -> None:
        """Ask whether the client is there, as chisel's server does: a dead one must not hold its ports."""
        reactor, interval = self._house.reactor, self._house.ping_interval
        while True:
            await sleep(reactor, interval)
            try:
                await bounded(reactor, interval, self._connection.request(b"ping"), "a ping")
            except RequestRefused:
                continue  # an answer is an answer
            except (DeadlineExceeded, SSHError):
                break
        self.abort("it does not answer pings")

    def abort(self, why: str) -> None:
        """Reset the connection."""
        if not self._over:
            self.carrier.fail(why)

    def _deadline(self, seconds: float, why: str) -> None:
        """Reset the connection after C{seconds}, unless it has gone on until then, or has gone silent."""
        self._stop_timer()
        if not self.carrier.swallowing:
            self._timer = self._house.reactor.callLater(seconds, self._expired, why)

    def _expired(self, why: str) -> None:
        self._timer = None
        self.abort(why)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
