"""Two SSH transports joined in memory: bytes move only when the test pumps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.conch.ssh.keys import Key
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from pipeops_agent.secrets import Secret
from pipeops_agent.tunnel.ssh.auth import USERAUTH, PasswordAuthClient, PasswordAuthServer
from pipeops_agent.tunnel.ssh.channel import Channel
from pipeops_agent.tunnel.ssh.client import ChiselClientTransport
from pipeops_agent.tunnel.ssh.common import RekeyPolicy, Service, SSHError
from pipeops_agent.tunnel.ssh.connection import ConnectionLayer, OpenRequest
from pipeops_agent.tunnel.ssh.server import ChiselServerTransport, HostKey
from pipeops_agent.tunnel.ssh.windows import Windows

HOST_KEY = Key(ec.derive_private_key(12345, ec.SECP256R1()))
NEVER = RekeyPolicy(1 << 40, 1e9)


class Wire:
    """One end's carrier: keeps what is written until it is pumped."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.producer: Any = None
        self.closed = False
        self._rooms: list[bytearray] = []

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.written += data

    def room(self, size: int) -> memoryview:
        self._rooms.append(bytearray(size))
        return memoryview(self._rooms[-1])

    def flush(self) -> None:
        self.write(b"".join(self._rooms))
        self._rooms.clear()

    def loseConnection(self) -> None:
        self.closed = True

    abortConnection = loseConnection


class Owner:
    """Records what a transport tells its owner."""

    def __init__(self) -> None:
        self.secure = 0
        self.ended: list[SSHError] = []
        self.on_secure: Callable[[], None] = lambda: None

    def ssh_secure(self) -> None:
        self.secure += 1
        self.on_secure()

    def ssh_ended(self, error: SSHError) -> None:
        self.ended.append(error)


class Requests:
    """The owner of a connection layer: keeps what is asked for."""

    def __init__(self) -> None:
        self.opens: list[OpenRequest] = []
        self.on_channel: Callable[[OpenRequest], None] = self.opens.append
        self.globals: list[tuple[bytes, bytes]] = []
        self.answer: bytes | None = b"pong"

    def channel_requested(self, request: OpenRequest) -> None:
        self.on_channel(request)

    def global_requested(self, name: bytes, payload: bytes) -> bytes | None:
        self.globals.append((name, payload))
        return self.answer


class Handler:
    """The handler of a channel: keeps what comes; consumes at once unless told not to."""

    def __init__(self, *, consume: bool = True) -> None:
        self.channel: Channel | None = None
        self.consume = consume
        self.data = bytearray()
        self.events: list[str] = []

    def data_received(self, data: bytes | memoryview) -> None:
        self.data += data
        if self.consume and self.channel is not None:
            self.channel.consumed(len(data))

    def eof_received(self) -> None:
        self.events.append("eof")

    def channel_closed(self, lost: bool) -> None:
        self.events.append("lost" if lost else "closed")

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


class Pair:
    """
    A client and a server transport, and the wires between them.

    @param window: of each channel, fixed; C{windows}: the client's, instead.
    """

    def __init__(
        self,
        *,
        expected: str | None = None,
        client_rekey: RekeyPolicy = NEVER,
        server_rekey: RekeyPolicy = NEVER,
        client_class: type[ChiselClientTransport] = ChiselClientTransport,
        password: str = "right",
        window: int = 64 * 1024,
        max_channels: int = 100,
        clock: Clock | None = None,
        windows: Windows | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.client_owner, self.server_owner = Owner(), Owner()
        self.client_requests, self.server_requests = Requests(), Requests()
        self.client = client_class(self.clock, self.client_owner, client_rekey, expected)
        self.server = ChiselServerTransport(
            self.clock, self.server_owner, server_rekey, HostKey(HOST_KEY, self._service)
        )
        self.client_layer = ConnectionLayer(
            self.client_requests, windows=windows or Windows.fixed(window), max_channels=max_channels
        )
        self.server_layer = ConnectionLayer(
            self.server_requests, windows=Windows.fixed(window), max_channels=max_channels
        )
        self.login = PasswordAuthClient("user", Secret(password))
        self.client_wire, self.server_wire = Wire(), Wire()
        self._lost = False

    def _service(self, transport: object, name: bytes) -> Callable[[], Service] | None:
        if name != USERAUTH:
            return None
        return lambda: PasswordAuthServer(
            lambda user, password: (user, password.reveal()) == ("user", "right"),
            lambda user: self.server_layer,
        )

    def connect(self) -> None:
        """Start both ends and exchange keys."""
        self.client.makeConnection(self.client_wire)
        self.server.makeConnection(self.server_wire)
        self.pump()

    def log_in(self) -> None:
        """L{connect}, then log in and start both connection layers."""
        self.connect()
        self.client.requestService(self.login)
        self.login.done.addCallback(lambda _: self.client.setService(self.client_layer))
        self.pump()

    def pump(self, *, size: int = 1 << 30, rounds: int = 2000) -> None:
        """Move bytes both ways, in pieces of C{size}, until nothing moves."""
        for _ in range(rounds):
            moved = self._move(self.client_wire, self.server, size)
            moved = self._move(self.server_wire, self.client, size) or moved
            if not moved:
                break
        else:
            raise AssertionError("the two ends never stop talking")
        if self.client_wire.closed or self.server_wire.closed:
            self.lose()

    def _move(self, wire: Wire, receiver: Any, size: int) -> bool:
        data = bytes(wire.written[:size])
        del wire.written[:size]
        if data:
            receiver.dataReceived(data)
        return bool(data)

    def lose(self) -> None:
        """Cut the wires."""
        if not self._lost:
            self._lost = True
            self.client_wire.closed = self.server_wire.closed = True
            self.client.connectionLost(Failure(ConnectionDone()))
            self.server.connectionLost(Failure(ConnectionDone()))
