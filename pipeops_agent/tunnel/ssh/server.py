"""The chisel server's side of the SSH transport: for the sandbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.conch.ssh import keys
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.tunnel.ssh.common import RekeyPolicy, Service, TransportOwner
from pipeops_agent.tunnel.ssh.negotiation import KEY_EXCHANGES, STRICT_CLIENT, STRICT_SERVER
from pipeops_agent.tunnel.ssh.transport import PacketTransport

SERVER_VERSION: Final = b"SSH-chisel-v3-server"


class HostKey:
    """The server's side of Conch's factory: one key, and the services that may be asked for."""

    def __init__(self, key: keys.Key, service: Callable[[Any, bytes], Callable[[], Service] | None]) -> None:
        name = key.sshType()
        self.publicKeys = {name: key.public()}
        self.privateKeys = {name: key}
        self.getService = service


class ChiselServerTransport(PacketTransport, SSHServerTransport):
    """A chisel server's end of a connection."""

    factory: Any

    ourVersionString = SERVER_VERSION
    peer_version = b"SSH-chisel-v3"
    supportedKeyExchanges: Any = [*KEY_EXCHANGES, STRICT_SERVER]
    _strict_theirs, _strict_ours = STRICT_CLIENT, STRICT_SERVER

    def __init__(
        self, clock: IReactorTime, owner: TransportOwner, rekey: RekeyPolicy, host_key: HostKey
    ) -> None:
        super().__init__(clock, owner, rekey)
        self.factory = host_key
        self.supportedPublicKeys = list(host_key.publicKeys)
