"""The tunnel's own layers in the server's role, each with what the sandbox needs of it beyond that."""

from __future__ import annotations

from typing import Final, Protocol

from twisted.conch.ssh.common import getNS
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.sandbox.faults import Stage
from pipeops_agent.tunnel.carrier import CarrierOwner, ServerCarrier
from pipeops_agent.tunnel.ssh.cipher import PacketError
from pipeops_agent.tunnel.ssh.common import RekeyPolicy, TransportOwner
from pipeops_agent.tunnel.ssh.connection import MAX_REQUEST, ConnectionLayer, ConnectionOwner
from pipeops_agent.tunnel.ssh.messages import MSG_GLOBAL_REQUEST, MSG_REQUEST_FAILURE, MSG_REQUEST_SUCCESS
from pipeops_agent.tunnel.ssh.server import ChiselServerTransport, HostKey
from pipeops_agent.tunnel.ssh.windows import Windows

WINDOW: Final = 2 * 1024 * 1024
"""What a channel's peer may have under way, in bytes: what chisel's server announces."""

MAX_CHANNELS: Final = 4096
"""From how many open channels on the client is not even asked what it wants another one for."""

REKEY: Final = RekeyPolicy(volume=1 << 30, seconds=3600.0)


class LayersOwner(CarrierOwner, TransportOwner, ConnectionOwner, Protocol):
    """The session, as its layers see it."""

    def reached(self, stage: Stage) -> None:
        """The step C{stage} would be taken next."""

    def requested(self, name: bytes, payload: bytes, wants_reply: bool) -> None:
        """Answer a global request, now or later; later ones wait for nobody."""


class SandboxCarrier(ServerCarrier):
    """
    A carrier that can be made to swallow what comes and goes.

    @ivar swallowing: bytes are read and dropped, pings and close frames included, and nothing is sent.
    """

    swallowing = False

    def __init__(self, clock: IReactorTime, inner: ChiselServerTransport, owner: LayersOwner) -> None:
        super().__init__(clock, inner, owner)
        self._session = owner

    def onOpen(self) -> None:
        self._session.reached("version")
        super().onOpen()

    def dataReceived(self, data: bytes) -> None:
        if not self.swallowing:
            super().dataReceived(data)

    def send_frames(self, frames: memoryview) -> None:
        if not self.swallowing:
            super().send_frames(frames)


class SandboxTransport(ChiselServerTransport):
    """Tells the session before it sends its part of a key exchange."""

    def __init__(self, clock: IReactorTime, session: LayersOwner, host_key: HostKey) -> None:
        super().__init__(clock, session, REKEY, host_key)
        self._session = session

    def sendKexInit(self) -> None:
        self._session.reached("kex")
        super().sendKexInit()


class SandboxConnection(ConnectionLayer):
    """Answers global requests with a reason, and late where it is told to."""

    def __init__(self, session: LayersOwner) -> None:
        super().__init__(session, windows=Windows.fixed(WINDOW), max_channels=MAX_CHANNELS)
        self._session = session

    def packetReceived(self, messageNum: int, packet: bytes) -> None:  # noqa: N802, N803 - Conch's names
        if messageNum != MSG_GLOBAL_REQUEST:
            super().packetReceived(messageNum, packet)
            return
        try:
            name, rest = getNS(packet)
            wants_reply, payload = rest[0] != 0, rest[1:]
        except Exception as error:  # getNS fails with whatever struct and slicing raise
            raise PacketError("a global request is malformed") from error
        if len(payload) > MAX_REQUEST:
            raise PacketError("a global request is too long")
        self._session.requested(name, payload, wants_reply)

    def grant_request(self, payload: bytes) -> None:
        """Reply to a request as wished."""
        self.transport.sendPacket(MSG_REQUEST_SUCCESS, payload)

    def refuse_request(self, reason: str) -> None:
        """Refuse a request, with a reason as chisel gives one."""
        self.transport.sendPacket(MSG_REQUEST_FAILURE, reason.encode())
