"""
The SSH transport (RFC 4253) that chisel speaks: Conch's key exchange over our packet layer.

Conch brings the key exchange; this module replaces what Conch does with packets: the ciphers
(L{packets}), strict key exchange (C{kex-strict-c-v00@openssh.com}), rekeying by volume and by time,
new keys taken into use the moment NEWKEYS passes, and one error for whatever a peer does wrong.
Conch is untyped; nothing beyond this module, its two sides (L{client}, L{server}), C{hybrid} and C{auth}
touches it.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.transport import SSHTransportBase
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pipeops_agent.tunnel.ssh.cipher import Keys, Opener, PacketError
from pipeops_agent.tunnel.ssh.common import (
    RekeyPolicy,
    SSHError,
    TransportOwner,
    peer_text,
)
from pipeops_agent.tunnel.ssh.messages import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_HOST_KEY_NOT_VERIFIABLE,
    DISCONNECT_KEY_EXCHANGE_FAILED,
    DISCONNECT_PROTOCOL_ERROR,
    FIRST_SERVICE_MESSAGE,
    MSG_CHANNEL_DATA,
    MSG_DISCONNECT,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_UNIMPLEMENTED,
)
from pipeops_agent.tunnel.ssh.negotiation import (
    HOST_KEYS,
    Agreement,
    Proposal,
    agree,
    guess_was_wrong,
    parse_proposal,
    propose,
)
from pipeops_agent.tunnel.ssh.packets import PacketReader, PacketWriter
from pipeops_agent.tunnel.ssh.suites import CIPHERS, MACS, make_opener, make_sealer, preferred_ciphers

MAX_VERSION_LINE: Final = 255
"""RFC 4253, section 4.2, with the line end. chisel sends nothing before its version."""


MAX_HELD: Final = 65_536
"""The most packets held back by a key exchange: data waits elsewhere, so these are short."""

MAX_BACKLOG: Final = 8 * 1024 * 1024
"""The most bytes written on top of a carrier that is full: data stops then, answers to the peer can't."""

_STRICT: Final = frozenset({MSG_DISCONNECT, MSG_KEXINIT, MSG_NEWKEYS})
"""What may come in a strict key exchange, beside that exchange's own message (OpenSSH's PROTOCOL)."""
_DATA: Final = struct.Struct(">BLL")
"""CHANNEL_DATA until the data: message number, recipient, length (RFC 4254, section 5.2)."""


@implementer(IPushProducer)
class PacketTransport(SSHTransportBase):
    """What both sides share; it stands before Conch's client or server in the class order."""

    transport: Any
    """The carrier: an C{ITransport} and C{IConsumer}, from L{connectionMade} on."""
    service: Any
    """The L{Service} that runs at present, or None."""
    supportedCiphers: Any = preferred_ciphers()
    supportedMACs: Any = list(MACS)
    supportedCompressions: Any = [b"none"]
    supportedPublicKeys: Any = list(HOST_KEYS)
    _blockedByKeyExchange: Any
    ignoreNextPacket: Any = False

    peer_version: bytes
    """What the peer's version line must begin with."""
    _strict_theirs: bytes
    _strict_ours: bytes
    """The names by which either side's KEXINIT says that it does strict key exchange."""
    _kex_message: int
    """The one message of a key exchange that the peer sends beside KEXINIT and NEWKEYS."""

    def __init__(self, clock: IReactorTime, owner: TransportOwner, rekey: RekeyPolicy) -> None:
        # On the instance: as a class attribute it would be renamed after the class.
        self._log = Logger(namespace="tunnel.ssh", source=self)
        self._clock = clock
        self._owner = owner
        self._rekey = rekey
        self._reader = PacketReader()
        self._writer = PacketWriter()
        self._next_opener: Opener | None = None
        self._keys_since = clock.seconds()
        self._agreement: Agreement
        self._volume = rekey.volume
        self._strict = False
        self._secure = False
        self._over = False
        self._ended = False
        self._carrier_full = False
        self._backlog = 0
        self._version_line = b""
        self.error: SSHError | None = None
        self.key_exchanges = 0

    # -- life

    def connectionMade(self) -> None:
        self.transport.write(self.ourVersionString + b"\r\n")
        self.sendKexInit()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Stop the service, then tell the owner, once, with the best reason known."""
        self._over = True
        if self._ended:
            return
        self._ended = True
        if self.error is None:
            text = reason.getErrorMessage() if reason is not None else "closed"
            self.error = SSHError(f"the connection was lost: {text}")
        service, self.service = self.service, None
        if service is not None:
            service.serviceStopped()
        self._owner.ssh_ended(self.error)

    def fail(self, sentence: str, code: int = DISCONNECT_PROTOCOL_ERROR) -> None:
        """End the connection because of C{sentence}, which is also told to the peer."""
        self.end(SSHError(peer_text(sentence.encode())), code)

    def end(self, error: SSHError, code: int) -> None:
        """End the connection because of C{error}: the first one counts, nothing is sent after it."""
        if self._over:
            return
        if self.error is None:
            self.error = error
        description = str(error).encode()
        self._write(MSG_DISCONNECT, struct.pack(">L", code) + NS(description) + NS(b""))
        self._over = True
        self.transport.loseConnection()

    def loseConnection(self) -> None:
        self.fail("closed", DISCONNECT_BY_APPLICATION)

    def sendDisconnect(self, reason: int, desc: bytes | str) -> None:
        """
        End the connection because of what Conch has found, and says in bytes, or in text.

        It takes whatever goes wrong with a reply for a bad host key; L{verifyHostKey} knows better.
        """
        if reason == DISCONNECT_HOST_KEY_NOT_VERIFIABLE:
            reason, desc = DISCONNECT_KEY_EXCHANGE_FAILED, b"the reply to the key exchange is malformed"
        self.fail(desc if isinstance(desc, str) else peer_text(desc), reason)

    def ssh_DISCONNECT(self, packet: bytes) -> None:
        description, _ = getNS(packet[4:])
        self.error = SSHError(f"the peer disconnected: {peer_text(description)}")
        self._over = True
        self.transport.loseConnection()

    # -- in

    def dataReceived(self, data: bytes | memoryview) -> None:
        if self._over:
            return
        try:
            if not self.gotVersion:
                data = self._receive_version(bytes(data))
                if not self.gotVersion:
                    return
            for payload in self._reader.feed(data):
                self._received(payload)
                if self._finished():
                    return
        except PacketError as error:
            self.fail(str(error), error.code)

    def _finished(self) -> bool:
        """Whether the connection has been given up, perhaps by what was just dispatched."""
        return self._over

    def _receive_version(self, data: bytes) -> bytes:
        """Collect the version line; return what follows it."""
        line, end, rest = (self._version_line + data).partition(b"\n")
        if len(line) > MAX_VERSION_LINE:
            raise PacketError("the peer's first line is longer than an SSH version can be")
        if not end:
            self._version_line = line
            return b""
        line = line.rstrip(b"\r")
        if not line.startswith(self.peer_version):
            raise PacketError(f"the peer does not speak chisel: its first line is {peer_text(line)!r}")
        self.gotVersion = True
        self.otherVersionString = line
        return rest

    def _received(self, payload: memoryview) -> None:
        message = payload[0]
        if message >= FIRST_SERVICE_MESSAGE:
            if self.service is None:
                raise PacketError(f"message {message} came before its service was started")
            if self._keyExchangeState == self._KEY_EXCHANGE_PROGRESSING:  # RFC 4253, section 7.1
                raise PacketError(f"message {message} came inside a key exchange")
            if message == MSG_CHANNEL_DATA:
                self.service.data_received(payload[1:])
            else:
                self.service.packetReceived(message, bytes(payload[1:]))
            return
        if self.ignoreNextPacket and 30 <= message <= 49:
            self.ignoreNextPacket = False
            return
        # Until NEWKEYS has come: between the reply and that a message could still be added on the way.
        if self._strict and not self._secure and message not in {*_STRICT, self._kex_message}:
            raise PacketError(f"message {message} is not allowed in a strict key exchange")
        try:
            self.dispatchMessage(message, bytes(payload[1:]))
        except PacketError:
            raise
        except Exception as error:  # Conch parses with whatever struct and slicing raise
            self._log.debug("malformed transport message {message}", message=message)
            raise PacketError(f"message {message} is malformed ({type(error).__name__})") from error
        self._renew_keys_if_due()

    # -- out

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        if self._over:
            return
        if self.exchanging_keys and not self._allowedKeyExchangeMessageType(messageType):
            self._blockedByKeyExchange.append((messageType, payload))
            if len(self._blockedByKeyExchange) > MAX_HELD:
                self.fail("the peer asks on and on, and does not end a key exchange")
            return
        self._write(messageType, payload)
        if self._backlog > MAX_BACKLOG:
            self.fail("the peer does not read what it is sent")
        if messageType >= FIRST_SERVICE_MESSAGE:
            self._renew_keys_if_due()

    def send_data(self, recipient: int, data: memoryview, size: int) -> None:
        """
        Send C{data} in a channel: in packets of at most C{size} bytes of it, which go out together.

        Not to be called while L{congested}: what waits, waits in its channel.
        """
        if self._over:
            return
        for start in range(0, len(data), size):
            part = data[start : start + size]
            self._seal(_DATA.pack(MSG_CHANNEL_DATA, recipient, len(part)), part)
        self.transport.flush()
        self._renew_keys_if_due()

    def _write(self, message: int, payload: bytes) -> None:
        self._seal(bytes((message,)), payload)
        self.transport.flush()

    def _seal(self, head: bytes, data: bytes | memoryview) -> None:
        """Put the payload C{head + data} into the next packet, on its way out."""
        size = self._writer.measure(len(head) + len(data))
        if self._carrier_full:
            self._backlog += size
        self._writer.seal(head, data, self.transport.room(size))

    def sendUnimplemented(self) -> None:
        """Answer the packet at hand: it is the last one that was opened."""
        number = (self._reader.sequence - 1) & 0xFFFFFFFF
        self.sendPacket(MSG_UNIMPLEMENTED, struct.pack(">L", number))

    # -- flow: this transport is the push producer of its carrier

    @property
    def congested(self) -> bool:
        """Whether services should write no more at present: the carrier is full, or keys change."""
        return self._carrier_full or self.exchanging_keys

    def pauseProducing(self) -> None:
        self._carrier_full = True
        self._tell_flow()

    def resumeProducing(self) -> None:
        self._carrier_full = False
        self._backlog = 0
        self._tell_flow()

    def stopProducing(self) -> None:
        """The carrier is gone; L{connectionLost} says so too."""

    def _tell_flow(self) -> None:
        if self.service is not None and not self._over:
            self.service.set_congested(self.congested)

    # -- keys

    def sendKexInit(self) -> None:
        super().sendKexInit()
        self._tell_flow()

    @property
    def exchanging_keys(self) -> bool:
        """Whether packets of the services are held back at present."""
        return bool(self._keyExchangeState != self._KEY_EXCHANGE_NONE)

    def _renew_keys_if_due(self) -> None:
        if not self._secure or self._over or self.exchanging_keys:
            return
        reader, writer, policy = self._reader, self._writer, self._rekey
        volume = max(reader.bytes_opened, writer.bytes_sealed)
        packets = max(reader.packets_opened, writer.packets_sealed)
        age = self._clock.seconds() - self._keys_since
        if volume >= self._volume or packets >= policy.MAX_PACKETS or age >= policy.seconds:
            self.sendKexInit()

    def ssh_KEXINIT(self, packet: bytes) -> None:
        """Agree on algorithms, answer with our own KEXINIT where that is still due, and begin."""
        if self._keyExchangeState == self._KEY_EXCHANGE_PROGRESSING:
            raise PacketError("a key exchange was begun inside a key exchange")
        theirs, ours = parse_proposal(packet), self._proposal()
        self.otherKexInitPayload = bytes((MSG_KEXINIT,)) + packet
        if self.sessionID is None:
            self._strict = (
                self._strict_theirs in theirs.key_exchanges and self._strict_ours in ours.key_exchanges
            )
            if self._strict and self._reader.sequence != 1:
                raise PacketError("KEXINIT is not the first packet of a strict key exchange")
        client, server = (ours, theirs) if self.isClient else (theirs, ours)
        self._agreement = agree(client, server)
        self.kexAlg, self.keyAlg = self._agreement.key_exchange, self._agreement.host_key
        self.ignoreNextPacket = guess_was_wrong(ours, theirs)
        if not self.exchanging_keys:
            self.sendKexInit()
        self._keyExchangeState = self._KEY_EXCHANGE_PROGRESSING
        self._begin_key_exchange()

    def _proposal(self) -> Proposal:
        """What our own KEXINIT offers."""
        return propose(
            self.supportedKeyExchanges, self.supportedPublicKeys, self.supportedCiphers, self.supportedMACs
        )

    def _begin_key_exchange(self) -> None:
        """Send what this side sends first, if anything."""

    def _keySetup(self, sharedSecret: bytes, exchangeHash: bytes) -> None:
        """Derive the keys, say NEWKEYS, and use ours from the next packet on (RFC 4253, 7.3)."""
        if not self.sessionID:
            self.sessionID = exchangeHash
        iv_cs, iv_sc, key_cs, key_sc, mac_cs, mac_sc = (
            self._getKey(letter, sharedSecret, exchangeHash)
            for letter in (b"A", b"B", b"C", b"D", b"E", b"F")
        )
        ours, theirs = Keys(iv_cs, key_cs, mac_cs), Keys(iv_sc, key_sc, mac_sc)
        if not self.isClient:
            ours, theirs = theirs, ours
        agreed = self._agreement
        outgoing, incoming = (agreed.cipher_cs, agreed.mac_cs), (agreed.cipher_sc, agreed.mac_sc)
        if not self.isClient:
            outgoing, incoming = incoming, outgoing
        self._volume = min(
            self._rekey.volume, CIPHERS[agreed.cipher_cs].volume, CIPHERS[agreed.cipher_sc].volume
        )
        self.sendPacket(MSG_NEWKEYS, b"")
        self._writer.renew(make_sealer(*outgoing, ours), reset_sequence=self._strict)
        self._next_opener = make_opener(*incoming, theirs)

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        if packet or self._next_opener is None:
            raise PacketError("NEWKEYS came without a key exchange")
        opener, self._next_opener = self._next_opener, None
        self._reader.renew(opener, reset_sequence=self._strict)
        self._keys_since = self._clock.seconds()
        self._keyExchangeState = self._KEY_EXCHANGE_NONE
        self.key_exchanges += 1
        held, self._blockedByKeyExchange = self._blockedByKeyExchange, None
        for message_type, payload in held:
            self.sendPacket(message_type, payload)
        self._tell_flow()
        if not self._secure:
            self._secure = True
            self._owner.ssh_secure()

    def ssh_EXT_INFO(self, packet: bytes) -> None:
        """None of these (RFC 8308) is for us, and to read each of them Conch copies all the others."""

    # -- what Conch would log by itself

    def receiveUnimplemented(self, seqnum: int) -> None:
        self._log.debug("the peer does not implement packet {seqnum}", seqnum=seqnum)

    def receiveDebug(self, alwaysDisplay: bool, message: bytes, lang: bytes) -> None:
        self._log.debug("the peer says: {text}", text=peer_text(message))
