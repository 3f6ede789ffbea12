"""The chisel server's side of the SSH transport: for the sandbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.conch.ssh import keys
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.tunnel.ssh.cipher import PacketError
from pipeops_agent.tunnel.ssh.common import RekeyPolicy, Service, TransportOwner
from pipeops_agent.tunnel.ssh.messages import MSG_KEX_ECDH_INIT
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
    _kex_message = MSG_KEX_ECDH_INIT

    def __init__(
        self, clock: IReactorTime, owner: TransportOwner, rekey: RekeyPolicy, host_key: HostKey
    ) -> None:
        super().__init__(clock, owner, rekey)
        self.factory = host_key
        self.supportedPublicKeys = list(host_key.publicKeys)

    def ssh_KEX_DH_GEX_REQUEST_OLD(self, packet: bytes) -> None:
        """Take the client's part of an exchange (the number is that of several messages), once."""
        if self._keyExchangeState != self._KEY_EXCHANGE_PROGRESSING or self._next_opener is not None:
            raise PacketError("a client's part came to no key exchange")
        super().ssh_KEX_DH_GEX_REQUEST_OLD(packet)

    def ssh_KEX_DH_GEX_REQUEST(self, packet: bytes) -> None:
        raise PacketError("a key exchange was begun that was not agreed on")

    def ssh_KEX_DH_GEX_INIT(self, packet: bytes) -> None:
        raise PacketError("a client's part came to a key exchange that was not agreed on")

    def ssh_SERVICE_REQUEST(self, packet: bytes) -> None:
        """Start the one service that is asked for, the login; a second would end what runs."""
        if self.service is not None:
            raise PacketError("a service was asked for, and one is running")
        super().ssh_SERVICE_REQUEST(packet)
