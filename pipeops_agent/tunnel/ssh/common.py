"""What the layers of SSH share: the error, how a peer's words are shown, services, policies."""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final, Protocol

from twisted.conch.ssh.service import SSHService

from pipeops_agent.tunnel.ssh.cipher import PacketError

_MAX_PEER_TEXT: Final = 200
"""How much of a sentence chosen by the peer is kept."""


class SSHError(Exception):
    """The SSH connection ended; the text says why, in a sentence."""


class WrongHostKey(SSHError):
    """The server's host key is not the expected one."""


def fingerprint(key_blob: bytes) -> str:
    """Return chisel's fingerprint of a host key: base64 of the SHA-256 of the key blob, padded."""
    return base64.b64encode(hashlib.sha256(key_blob).digest()).decode()


def peer_text(text: bytes) -> str:
    """What a peer says, fit to be shown: bounded, printable, on one line."""
    shown = text[:_MAX_PEER_TEXT].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)


class RekeyPolicy:
    """When this side asks for new keys: after so many bytes either way, or so many seconds."""

    MAX_PACKETS: Final = 1 << 31
    """RFC 4344, section 3.1: at least once in 2**31 packets, whatever the settings say."""

    def __init__(self, volume: float, seconds: float) -> None:
        self.volume = volume
        self.seconds = seconds


class Service(SSHService):
    """What runs over a transport (RFC 4253, section 10)."""

    transport: Any
    """The L{ChiselClientTransport} or L{ChiselServerTransport} below."""

    def data_received(self, packet: memoryview) -> None:
        """
        Take a CHANNEL_DATA, without its message number: by far the most frequent, so it stays where it lies.

        @raise PacketError: this service has no channels, or not this one.
        """
        raise PacketError("data came before there can be a channel")

    def set_congested(self, congested: bool) -> None:
        """Note that the way out is full, or free again."""


class TransportOwner(Protocol):
    """Who is told of a transport's life. Each method is called at most once."""

    def ssh_secure(self) -> None:
        """The first key exchange is done: the peer is who it should be."""

    def ssh_ended(self, error: SSHError) -> None:
        """The connection is gone; nothing more comes."""
