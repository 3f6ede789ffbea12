"""A proxy, as a URL names it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, final
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from pipeops_agent.secrets import Secret
from pipeops_agent.settings.addresses import is_host
from pipeops_agent.settings.kinds import ScalarKind
from pipeops_agent.settings.problems import Unfit

Scheme = Literal["http", "https", "socks5"]

_SCHEMES: Final[dict[str, tuple[Scheme, int]]] = {
    "http": ("http", 80),
    "https": ("https", 443),
    "socks5": ("socks5", 1080),
    "socks5h": ("socks5", 1080),
}
"""Each scheme that is understood, what it means, and the port where none is named (Go's)."""

_FORM: Final = "http://, https:// or socks5://, then [user:password@]host[:port]"
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

MOST_SOCKS: Final = 255
"""Bytes of a SOCKS user or password (RFC 1929 section 2)."""


class Proxy(msgspec.Struct, frozen=True, kw_only=True):
    """
    One proxy.

    @ivar scheme: how it is spoken to: CONNECT, CONNECT over TLS, SOCKS 5.
    @ivar host: its name or address, IPv6 without brackets.
    @ivar credentials: user and password; None: it is asked without.
    @ivar named_by: the setting or variable that it stands in, for sentences.
    """

    scheme: Scheme
    host: str
    port: int
    credentials: tuple[str, Secret] | None = None
    named_by: str = ""

    @property
    def place(self) -> str:
        """C{host:port}, an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        """Its URL without credentials."""
        return f"{self.scheme}://{self.place}"

    def __repr__(self) -> str:
        return f"<proxy {self}>"


def parse_proxy(text: str, named_by: str = "") -> Proxy:
    """
    The proxy that C{text} names; without a scheme it is an HTTP one, as for Go and curl.

    C{socks5h} is C{socks5}: names are looked up on the proxy's side in any case.

    @raise Unfit: it names none. What may hold a password is never part of the message.
    """
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise Unfit("spaces, backslashes and characters outside ASCII are not allowed in a proxy's URL")
    try:
        parts = urlsplit(text if _SCHEME.match(text) else f"http://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _unfit() from None
    if parts.scheme not in _SCHEMES:
        raise Unfit(f"{parts.scheme}:// is not spoken; expected {_FORM}")
    bracketed = f"[{host}]" if ":" in host else host
    if parts.path.strip("/") or parts.query or parts.fragment or not is_host(bracketed) or port == 0:
        raise _unfit()
    scheme, usual = _SCHEMES[parts.scheme]
    return Proxy(
        scheme=scheme,
        host=host,
        port=usual if port is None else port,
        credentials=_credentials(parts, scheme),
        named_by=named_by,
    )


def _credentials(parts: SplitResult, scheme: Scheme) -> tuple[str, Secret] | None:
    if "@" not in parts.netloc:
        return None
    try:
        user = unquote(parts.username or "", errors="strict")
        password = unquote(parts.password or "", errors="strict")
    except UnicodeDecodeError:
        raise Unfit("user or password are not UTF-8 once their %-signs are decoded") from None
    if not (user + password).isprintable():
        raise Unfit("user and password must not hold control characters")
    if scheme == "socks5":
        if not all(1 <= len(part.encode()) <= MOST_SOCKS for part in (user, password)):
            raise Unfit(f"SOCKS needs a user and a password, of 1 to {MOST_SOCKS} bytes each (RFC 1929)")
    elif ":" in user:
        raise Unfit("a user with a colon can't be told from the password (RFC 7617)")
    return user, Secret(password)


def _unfit() -> Unfit:
    return Unfit(
        f"expected a proxy's URL: {_FORM}; write special characters in user or password as %40 for @,"
        " %2F for /, %23 for #"
    )


ProxyChoice = Proxy | Literal["environment", "none"]
"""One proxy for everything; those that the environment names; or none at all."""


@final
@dataclass(frozen=True)
class ProxyURL(ScalarKind[ProxyChoice]):
    """A proxy's URL, C{environment}, or C{none}; empty is none."""

    secret: ClassVar[bool] = True
    holds_host: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return "proxy's URL, environment, or none"

    def gives_away(self, text: str) -> bool:
        return "@" in text

    def parse(self, text: str) -> ProxyChoice:
        word = text.strip().lower()
        if word in ("", "none"):
            return "none"
        return "environment" if word == "environment" else parse_proxy(text.strip(), "pipeops.proxy")

    def show(self, value: ProxyChoice) -> str:
        """The URL, its password masked."""
        if not isinstance(value, Proxy):
            return value
        user = "" if value.credentials is None else f"{value.credentials[0]}:***@"
        return f"{value.scheme}://{user}{value.place}"
