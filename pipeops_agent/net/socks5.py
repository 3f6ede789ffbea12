"""
Asking a SOCKS 5 proxy for a connection (RFC 1928), with user and password (RFC 1929).

Bytes in, bytes out; it knows no socket.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final

from pipeops_agent.net.connect_proxy import login_refused
from pipeops_agent.net.problems import ProxyRefusal
from pipeops_agent.net.text import printable
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.addresses import is_host

_VERSION: Final = 5
_LOGIN_VERSION: Final = 1
_NO_LOGIN: Final = 0
_PASSWORD: Final = 2
_NO_METHOD: Final = 0xFF
_CONNECT: Final = 1
_IPV4: Final = 1
_NAME: Final = 3
_IPV6: Final = 4

_REPLIES: Final = {
    1: ("fails to reach {target} (general failure)", True),
    2: ("does not allow a connection to {target} (its rules forbid it)", False),
    3: ("can't reach {target}: network unreachable", True),
    4: ("can't reach {target}: host unreachable", True),
    5: ("can't reach {target}: connection refused", True),
    6: ("can't reach {target}: TTL expired", True),
    7: ("does not know how to connect (command not supported)", False),
    8: ("does not know this kind of address (of {target})", False),
}
"""RFC 1928 section 6: what each reply says, and whether it may be another one later."""


class Socks5Exchange:
    """
    One conversation up to the connection.

    All that the proxy may say has a length that is known from its first bytes, at most 262; of what it says
    no more is waited for.

    @ivar done: whether the connection stands.
    @ivar rest: what came after the last reply: the target's.
    """

    def __init__(self, host: str, port: int, credentials: tuple[str, Secret] | None = None) -> None:
        """
        @param host: the target, a name or an address (IPv6 without brackets); the proxy looks it up.
        @raise UnicodeError: C{host} is neither.
        """
        bracketed = f"[{host}]" if ":" in host else host
        if not is_host(bracketed):
            raise UnicodeError("this is not a host name")
        self._target = f"{bracketed}:{port}"
        self._destination = _destination(host) + port.to_bytes(2, "big")
        self._credentials = credentials
        self._received = b""
        self._await: Callable[[], bytes | None] = self._method
        self.done = False
        self.rest = b""

    def begin(self) -> bytes:
        """The greeting: the ways to log in that we know."""
        methods = [_NO_LOGIN] if self._credentials is None else [_NO_LOGIN, _PASSWORD]
        return bytes([_VERSION, len(methods), *methods])

    def feed(self, data: bytes) -> bytes:
        """
        Take in what the proxy says, and return what is to be said next, which may be nothing.

        @raise ProxyRefusal: there will be no connection.
        """
        self._received += data
        said = b""
        while not self.done:
            answer = self._await()
            if answer is None:
                break
            said += answer
        if self.done:
            self.rest, self._received = self._received, b""
        return said

    def _take(self, length: int) -> bytes | None:
        if len(self._received) < length:
            return None
        taken, self._received = self._received[:length], self._received[length:]
        return taken

    def _check_version(self, version: int) -> None:
        """Also where no more than the first byte has come: who speaks HTTP may wait for a request."""
        if self._received and self._received[0] != version:
            begins = printable(self._received[:60].decode("latin-1"))
            raise ProxyRefusal(
                f"does not answer as a SOCKS 5 proxy (it begins with {begins!r})",
                remedy="is this the proxy's port? an HTTP proxy is named with http://",
            )

    def _method(self) -> bytes | None:
        self._check_version(_VERSION)
        taken = self._take(2)
        if taken is None:
            return None
        method = taken[1]
        if method == _NO_LOGIN:
            self._await = self._reply
            return self._request()
        if method == _PASSWORD and self._credentials is not None:
            self._await = self._login
            user, password = (text.encode() for text in _texts(self._credentials))
            return bytes([_LOGIN_VERSION, len(user)]) + user + bytes([len(password)]) + password
        if method in (_NO_METHOD, _PASSWORD):
            raise login_refused(self._credentials, "it takes none of the offered ways to log in")
        raise ProxyRefusal(f"chooses a way to log in that it was not offered ({method})")

    def _login(self) -> bytes | None:
        self._check_version(_LOGIN_VERSION)
        taken = self._take(2)
        if taken is None:
            return None
        if taken[1] != 0:
            raise login_refused(self._credentials, f"status {taken[1]}")
        self._await = self._reply
        return self._request()

    def _request(self) -> bytes:
        return bytes([_VERSION, _CONNECT, 0]) + self._destination

    def _reply(self) -> bytes | None:
        self._check_version(_VERSION)
        got = self._received
        if len(got) >= 2 and got[1] != 0:  # some say no more than this
            sentence, retryable = _REPLIES.get(got[1], (f"refuses {{target}} (reply {got[1]})", False))
            raise ProxyRefusal(sentence.format(target=self._target), retryable=retryable)
        if len(got) < 5:
            return None
        lengths = {_IPV4: 4, _IPV6: 16, _NAME: 1 + got[4]}
        if got[3] not in lengths:
            raise ProxyRefusal(f"answers with an address of an unknown kind ({got[3]})")
        if self._take(4 + lengths[got[3]] + 2) is None:
            return None
        self.done = True
        return b""


def _texts(credentials: tuple[str, Secret]) -> tuple[str, str]:
    user, password = credentials
    return user, password.reveal()


def _destination(host: str) -> bytes:
    """RFC 1928 section 5: kind and address; a name with its length."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        return bytes([_NAME, len(name)]) + name
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed
