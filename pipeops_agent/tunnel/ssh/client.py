"""The chisel client's side of the SSH transport: the agent's."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Final

from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.transport import SSHClientTransport
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.tunnel.ssh.cipher import PacketError
from pipeops_agent.tunnel.ssh.common import RekeyPolicy, TransportOwner, WrongHostKey, fingerprint
from pipeops_agent.tunnel.ssh.hybrid import HYBRID, HybridClient
from pipeops_agent.tunnel.ssh.messages import (
    DISCONNECT_HOST_KEY_NOT_VERIFIABLE,
    DISCONNECT_KEY_EXCHANGE_FAILED,
    MSG_KEX_ECDH_INIT,
    MSG_KEX_ECDH_REPLY,
)
from pipeops_agent.tunnel.ssh.negotiation import KEY_EXCHANGES, STRICT_CLIENT, STRICT_SERVER
from pipeops_agent.tunnel.ssh.transport import PacketTransport

CLIENT_VERSION: Final = b"SSH-chisel-v3-client"


class ChiselClientTransport(PacketTransport, SSHClientTransport):
    """
    The agent's side.

    @param expected: the server's fingerprint, or None where TLS has vouched for the server; then
        any key is taken, but the same one at every key exchange.
    """

    ourVersionString = CLIENT_VERSION
    peer_version = b"SSH-chisel-v3"
    supportedKeyExchanges: Any = [*KEY_EXCHANGES, STRICT_CLIENT]
    _strict_theirs, _strict_ours = STRICT_SERVER, STRICT_CLIENT
    _kex_message = MSG_KEX_ECDH_REPLY

    def __init__(
        self,
        clock: IReactorTime,
        owner: TransportOwner,
        rekey: RekeyPolicy,
        expected: str | None,
    ) -> None:
        super().__init__(clock, owner, rekey)
        self._expected = expected
        self._requested = False
        self._hybrid: HybridClient
        self.host_fingerprint: str | None = None

    def _begin_key_exchange(self) -> None:
        """Send our half of the exchange (RFC 5656, section 4; RFC 8731; C{hybrid})."""
        if self.kexAlg == HYBRID:
            self._hybrid = HybridClient()
            self.sendPacket(MSG_KEX_ECDH_INIT, NS(self._hybrid.init))
            return
        self.ecPriv = self._generateECPrivateKey()
        self.ecPub = self.ecPriv.public_key()
        self.sendPacket(MSG_KEX_ECDH_INIT, NS(self._encodeECPublicKey(self.ecPub)))

    def verifyHostKey(self, hostKey: bytes, fingerprint_md5: bytes) -> Deferred[bool]:
        error = self._check_host_key(hostKey)
        return succeed(True) if error is None else fail(error)

    def _check_host_key(self, host_key: bytes) -> WrongHostKey | None:
        """Remember the server's key; end the connection where it is not the one that it must be."""
        got = fingerprint(host_key)
        expected = self._expected or self.host_fingerprint or got
        if not hmac.compare_digest(got, expected):
            sentence = f"the server's host key is not the expected one: expected {expected}, got {got}"
            error = WrongHostKey(sentence)
            self.end(error, DISCONNECT_HOST_KEY_NOT_VERIFIABLE)
            return error
        self.host_fingerprint = got
        return None

    def ssh_KEX_DH_GEX_GROUP(self, packet: bytes) -> Any:
        """Take the server's part of an exchange (the number is that of several messages), once."""
        if self._keyExchangeState != self._KEY_EXCHANGE_PROGRESSING or self._next_opener is not None:
            raise PacketError("a reply came to no key exchange")
        if self.kexAlg == HYBRID:
            self._finish_hybrid(packet)
            return None
        return super().ssh_KEX_DH_GEX_GROUP(packet)

    def _finish_hybrid(self, packet: bytes) -> None:
        """Take the server's half: its key, its share, and its signature over all of the exchange."""
        host_key, share, signature, _ = getNS(packet, 3)
        if self._check_host_key(host_key) is not None:
            return
        secret = self._hybrid.secret(share)
        versions = NS(self.ourVersionString) + NS(self.otherVersionString)
        proposals = NS(self.ourKexInitPayload) + NS(self.otherKexInitPayload)
        shares = NS(host_key) + NS(self._hybrid.init) + NS(share)
        exchange_hash = hashlib.sha256(versions + proposals + shares + secret).digest()
        if Key.fromString(host_key).verify(signature, exchange_hash):
            self._keySetup(secret, exchange_hash)
        else:
            self.sendDisconnect(DISCONNECT_KEY_EXCHANGE_FAILED, b"bad signature")

    def ssh_KEX_DH_GEX_REPLY(self, packet: bytes) -> None:
        raise PacketError("a reply came to a key exchange that was not agreed on")

    def requestService(self, instance: Any) -> None:
        self._requested = True
        super().requestService(instance)

    def ssh_SERVICE_ACCEPT(self, packet: bytes) -> None:
        """Start the service that was asked for; a second time would start it over another one."""
        if not self._requested:
            raise PacketError("a service was accepted that was not asked for")
        self._requested = False
        super().ssh_SERVICE_ACCEPT(packet)
