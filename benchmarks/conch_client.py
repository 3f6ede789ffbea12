"""
A chisel client of Conch and Autobahn as they come: the line below which the agent must not fall.

Conch's transport (aes256-ctr, hmac-sha2-512), Conch's connection and forwarding channel, Autobahn's
C{sendMessage}. It trusts any host key, and pauses the local socket when the window is shut; no more is added.

    python -m benchmarks.conch_client SERVER_PORT USER:PASSWORD PORT TARGET_HOST TARGET_PORT
"""

from __future__ import annotations

import json
import sys
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.forwarding import SSHConnectForwardingChannel
from twisted.conch.ssh.transport import SSHClientTransport
from twisted.conch.ssh.userauth import SSHUserAuthClient
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import react
from twisted.python.failure import Failure


class Channel(SSHConnectForwardingChannel):
    """Conch's own relay, which would otherwise read ahead without end."""

    def stopWriting(self) -> None:  # noqa: N802 - Conch's name
        if self.client:
            self.client.transport.pauseProducing()

    def startWriting(self) -> None:  # noqa: N802 - Conch's name
        if self.client:
            self.client.transport.resumeProducing()


class Connection(SSHConnection):
    """Sends the configuration, and forwards whatever the server asks for."""

    transport: Any

    def __init__(self, remote: dict[str, Any]) -> None:
        super().__init__()
        self._remote = remote

    def serviceStarted(self) -> None:  # noqa: N802 - Conch's name
        super().serviceStarted()
        config = json.dumps({"Version": "0", "Remotes": [self._remote]}).encode()
        configured = self.sendGlobalRequest(b"config", config, wantReply=1)
        configured.addCallbacks(lambda _: print("connected", flush=True), self._refused)

    def _refused(self, failure: Failure) -> None:
        print(failure.getErrorMessage(), flush=True)
        self.transport.loseConnection()

    def getChannel(self, channelType: bytes, windowSize: int, maxPacket: int, data: bytes) -> Channel:  # noqa: N802, N803 - Conch's names
        host, _, port = data.decode().rpartition(":")
        return Channel((host, int(port)), remoteWindow=windowSize, remoteMaxPacket=maxPacket, conn=self)

    def gotGlobalRequest(self, requestType: bytes, data: bytes) -> Any:  # noqa: N802, N803 - Conch's names
        return (1, b"pong") if requestType == b"ping" else 0


class Login(SSHUserAuthClient):
    """By password."""

    def __init__(self, user: str, password: str, connection: Connection) -> None:
        super().__init__(user.encode(), connection)
        self._password = password.encode()

    def getPassword(self, prompt: str | None = None) -> Deferred[bytes]:  # noqa: N802 - Conch's name
        return succeed(self._password)

    def getPublicKey(self) -> None:  # noqa: N802 - Conch's name
        """There is none."""


class Transport(SSHClientTransport):
    """Conch's, with chisel's version strings."""

    ourVersionString = b"SSH-chisel-v3-client"  # noqa: N815 - Conch's name
    supportedVersions: Any = (b"chisel",)  # noqa: N815 - Conch's name
    supportedCiphers: Any = (b"aes256-ctr",)  # noqa: N815 - Conch's name
    supportedMACs: Any = (b"hmac-sha2-512",)  # noqa: N815 - Conch's name

    def __init__(self, login: Login) -> None:
        self._login = login

    def verifyHostKey(self, hostKey: bytes, fingerprint: str) -> Deferred[bool]:  # noqa: N802, N803 - Conch's
        return succeed(True)

    def connectionSecure(self) -> None:  # noqa: N802 - Conch's name
        self.requestService(self._login)


class Carrier(WebSocketClientProtocol):
    """One message for each packet; it is the transport's transport."""

    ssh: Transport
    lost: Deferred[None]

    def onOpen(self) -> None:
        self.ssh.makeConnection(self)

    def write(self, data: bytes) -> None:
        """What Conch calls."""
        self.sendMessage(data, isBinary=True)

    def loseConnection(self) -> None:
        """What Conch calls."""
        self.sendClose()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N802, N803 - Autobahn's names
        self.ssh.dataReceived(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: N802, N803 - as above
        self.lost.callback(None)


def main(
    reactor: Any, server_port: str, login: str, port: str, host: str, target_port: str
) -> Deferred[None]:
    """Run until the connection ends."""
    user, _, password = login.partition(":")
    bound = {"LocalHost": "0.0.0.0", "LocalPort": port, "LocalProto": "tcp"}  # noqa: S104 - as chisel writes it
    target = {"RemoteHost": host, "RemotePort": target_port, "RemoteProto": "tcp"}
    connection = Connection({**bound, **target, "Socks": False, "Reverse": True, "Stdio": False})
    carrier = Carrier()
    carrier.ssh = Transport(Login(user, password, connection))
    carrier.lost = Deferred()
    url = f"ws://127.0.0.1:{server_port}/"
    factory: Any = WebSocketClientFactory(url, protocols=["chisel-v3"], reactor=reactor)
    factory.protocol = lambda: carrier
    reactor.connectTCP("127.0.0.1", int(server_port), factory)
    return carrier.lost


if __name__ == "__main__":
    react(main, sys.argv[1:])
