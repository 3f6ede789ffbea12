"""
Password authentication (RFC 4252, section 8): the one method that chisel uses.

The client asks with the password at once; Conch's own service would ask for C{none} first and cost
a round trip more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.conch.ssh.common import NS, getNS
from twisted.internet.defer import Deferred

from pipeops_agent.secrets import Secret
from pipeops_agent.tunnel.ssh.cipher import PacketError
from pipeops_agent.tunnel.ssh.common import Service, SSHError
from pipeops_agent.tunnel.ssh.messages import (
    MSG_USERAUTH_BANNER,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)

USERAUTH: Final = b"ssh-userauth"
CONNECTION: Final = b"ssh-connection"


_REFUSED: Final = (
    "the server refused the credentials: those that the control plane gave are not the ones that it knows"
)


class LoginRefused(SSHError):
    """The server does not accept these credentials."""


class PasswordAuthClient(Service):
    """
    Logs in.

    @ivar done: fires when the server has accepted; fails with L{LoginRefused}, or with L{SSHError}
        where the connection ended first.
    """

    name = USERAUTH

    def __init__(self, user: str, password: Secret) -> None:
        self._user = user
        self._password = password
        self.done: Deferred[None] = Deferred()

    def serviceStarted(self) -> None:
        request = NS(self._user.encode()) + NS(CONNECTION) + NS(b"password") + b"\0"
        self.transport.sendPacket(MSG_USERAUTH_REQUEST, request + NS(self._password.reveal().encode()))

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        if messageNum == MSG_USERAUTH_SUCCESS:
            self._finish(None)
        elif messageNum == MSG_USERAUTH_FAILURE:
            self._finish(LoginRefused(_REFUSED))
        elif messageNum != MSG_USERAUTH_BANNER:
            raise PacketError(f"message {messageNum} came during login")

    def serviceStopped(self) -> None:
        self._finish(self.transport.error or SSHError("the connection ended during login"))

    def _finish(self, error: SSHError | None) -> None:
        if self.done.called:
            return
        if error is None:
            self.done.callback(None)
        else:
            self.done.errback(error)


class PasswordAuthServer(Service):
    """
    Lets in whom C{check} accepts; then C{start} makes the connection service.

    Anything but a password request is answered with the list of methods. After
    L{MAX_ATTEMPTS} failures the connection is ended.
    """

    name = USERAUTH
    MAX_ATTEMPTS: Final = 6

    def __init__(self, check: Callable[[str, Secret], bool], start: Callable[[str], Service]) -> None:
        self._check = check
        self._start = start
        self._failures = 0

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        if messageNum != MSG_USERAUTH_REQUEST:
            raise PacketError(f"message {messageNum} came during login")
        try:
            user, service, method, rest = getNS(packet, 3)
            name = user.decode()
            password = Secret(getNS(rest[1:])[0].decode()) if method == b"password" else None
        except Exception as error:
            raise PacketError("a login request is malformed") from error
        if service == CONNECTION and password is not None and self._check(name, password):
            self.transport.sendPacket(MSG_USERAUTH_SUCCESS, b"")
            self.transport.setService(self._start(name))
            return
        self._failures += method != b"none"
        if self._failures >= self.MAX_ATTEMPTS:
            raise PacketError("too many failed logins")
        self.transport.sendPacket(MSG_USERAUTH_FAILURE, NS(b"password") + b"\0")
