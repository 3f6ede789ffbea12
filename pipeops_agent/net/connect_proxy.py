"""
Asking an HTTP proxy for a connection: C{CONNECT} (RFC 9110 section 9.3.6), with Basic login (RFC 7617).

Bytes in, bytes out; it knows no socket.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Final

from pipeops_agent.net.problems import ProxyRefusal
from pipeops_agent.net.text import printable
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.addresses import is_host

MAX_ANSWER: Final = 16 * 1024
"""Bytes that the proxy's answers, up to the end of their headers, may have together."""

_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(r"HTTP/1\.[0-9] ([1-5][0-9]{2})(?: (.*))?")
_TLS_RECORD: Final = (b"\x15\x03", b"\x16\x03")


class ConnectExchange:
    """
    One C{CONNECT} and its answer.

    @ivar done: whether the connection stands.
    @ivar rest: what came after the answer: the target's.
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
        self._credentials = credentials
        self._received = bytearray()
        self._seen = 0
        self._passed = 0
        self.done = False
        self.rest = b""

    def begin(self) -> bytes:
        """The request."""
        lines = [f"CONNECT {self._target} HTTP/1.1", f"Host: {self._target}"]
        if self._credentials is not None:
            user, password = self._credentials
            login = b64encode(f"{user}:{password.reveal()}".encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {login}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    def feed(self, data: bytes) -> bytes:
        """
        Take in what the proxy says; there is never more to say.

        @raise ProxyRefusal: there will be no connection.
        """
        self._received += data
        self._check_start()
        while not self.done:
            limit = MAX_ANSWER - self._passed
            end = _END.search(self._received, max(0, self._seen - 3), limit)
            self._seen = len(self._received)
            if end is None:
                if self._seen >= limit:
                    raise ProxyRefusal(f"answers CONNECT with more than {MAX_ANSWER} bytes of headers")
                break
            self._take(self._received[: end.start()].decode("latin-1"), end.end())
        return b""

    def _check_start(self) -> None:
        """What can't become an HTTP answer is refused at its first bytes: such a peer may wait for more."""
        start = bytes(self._received[:7])
        if b"HTTP/1."[: len(start)] == start:
            return
        if start[:2] in _TLS_RECORD:
            raise ProxyRefusal("speaks TLS", remedy="an https:// in front of it may be right")
        begins = printable(bytes(self._received[:60]).decode("latin-1"))
        raise ProxyRefusal(
            f"does not answer as an HTTP proxy (it begins with {begins!r})",
            remedy="is this the proxy's port? a SOCKS proxy is named with socks5://",
        )

    def _take(self, head: str, end: int) -> None:
        """One answer is complete: an interim one (1xx) is passed over."""
        status, *lines = head.replace("\r\n", "\n").split("\n")
        matched = _STATUS.fullmatch(status)
        if matched is None:
            raise ProxyRefusal(f"does not answer as an HTTP proxy (it says {printable(status, 60)!r})")
        code = int(matched[1])
        if code >= 200:
            if code >= 300:
                raise self._refusal(code, matched[2] or "", _headers(lines))
            self.done = True
            self.rest = bytes(self._received[end:])
        del self._received[:end]
        self._passed += end
        self._seen = 0

    def _refusal(self, code: int, phrase: str, headers: dict[str, str]) -> ProxyRefusal:
        said = printable(f"{code} {phrase}".strip(), 80)
        if "x-squid-error" in headers:
            said += f", {printable(headers['x-squid-error'].split(' ')[0], 40)}"
        if code in (401, 407):  # tinyproxy answers a wrong password with 401
            return self._login_refused(said, headers)
        if 300 <= code < 400:
            where = f" to {printable(headers['location'], 120)}" if "location" in headers else ""
            return ProxyRefusal(f"answers CONNECT with a redirect{where} ({said})")
        if code in (403, 405):
            return ProxyRefusal(
                f"does not allow a connection to {self._target} ({said})",
                remedy="its rules must let CONNECT through to this host and port",
            )
        if code in (500, 502, 503, 504):
            return ProxyRefusal(
                f"can't reach {self._target} ({said})",
                remedy="the proxy looks up the name, and connects from where it stands",
                retryable=True,
            )
        return ProxyRefusal(f"refuses a connection to {self._target} ({said})", retryable=code in (408, 429))

    def _login_refused(self, said: str, headers: dict[str, str]) -> ProxyRefusal:
        offered = headers.get("proxy-authenticate", headers.get("www-authenticate", ""))
        if offered and not re.search(r"\bbasic\b", offered, re.IGNORECASE):
            return ProxyRefusal(
                f"wants a login that this agent does not know ({said}; it offers {printable(offered, 60)})",
                remedy="only Basic is spoken",
            )
        return login_refused(self._credentials, said)


def login_refused(credentials: tuple[str, Secret] | None, said: str) -> ProxyRefusal:
    """The refusal of a proxy that is not content with who asks."""
    if credentials is None:
        return ProxyRefusal(f"wants a user and a password ({said})", remedy="user:password@ before its host")
    return ProxyRefusal(
        f"does not accept the user and password ({said})",
        remedy="special characters in them are written as %40, %3A",
    )


def _headers(lines: list[str]) -> dict[str, str]:
    """By name in small letters; those of one name are joined (RFC 9110 section 5.2)."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            key = name.strip().lower()
            headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    return headers
