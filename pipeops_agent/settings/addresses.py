"""Hosts, ports and URLs: how they are written in settings, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from string import Formatter
from typing import ClassVar, Final, final
from urllib.parse import urlsplit

from pipeops_agent.settings.kinds import ScalarKind
from pipeops_agent.settings.problems import Unfit, unexpected

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*\.?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_PATH = re.compile(r"/[!-~]*")


def split_host_port(text: str) -> tuple[str, int]:
    """
    C{text}, C{host:port}, in its parts; an IPv6 address stands in brackets, and comes back without.

    @raise ValueError: it is not of that form, or the port is not 1 to 65535.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not is_host(host) or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError("expected host:port")
    return host.strip("[]"), int(port)


def is_host(text: str) -> bool:
    """Whether C{text} is a host's name, an IPv4 address, or an IPv6 address in brackets."""
    if text.startswith("[") and text.endswith("]"):
        return _version(text[1:-1]) == 6
    if not _HOST_NAME.fullmatch(text):
        return False
    # The last label of a name is not a number (RFC 3696, section 2): what looks like IPv4 must be.
    return not text.rstrip(".").rpartition(".")[2].isdigit() or _version(text) == 4


def is_loopback(host: str) -> bool:
    """Whether C{host}, without brackets, is this machine: C{localhost}, 127.0.0.0/8 or ::1."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _version(host) is not None and ip_address(host).is_loopback


def _version(text: str) -> int | None:
    try:
        return ip_address(text).version
    except ValueError:
        return None


@final
@dataclass(frozen=True)
class HostPort(ScalarKind[str]):
    """Where something listens: C{host:port}, kept as written."""

    holds_host: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return "host:port"

    def parse(self, text: str) -> str:
        try:
            split_host_port(text)
        except ValueError:
            if _version(text.rpartition(":")[0]) == 6 or _version(text) == 6:
                raise unexpected("host:port, an IPv6 address in brackets ([::1]:6443)", text) from None
            raise unexpected("host:port", text) from None
        return text


@final
@dataclass(frozen=True)
class BindAddress(ScalarKind[str]):
    """An address of this machine to listen on."""

    @property
    def label(self) -> str:
        return "IP address"

    def parse(self, text: str) -> str:
        bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        if _version(bare) is None:
            raise unexpected("an IP address such as 127.0.0.1, 0.0.0.0 or ::", text)
        return bare


@final
@dataclass(frozen=True)
class ServerPattern(ScalarKind[str]):
    """Which servers: C{host}, C{host:port}, or C{*.domain} for every host below a domain."""

    holds_host: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return "host, host:port or *.domain"

    def parse(self, text: str) -> str:
        host = text.removeprefix("*.")
        if text == host and _version(text) == 6:
            raise unexpected("an IPv6 address in brackets, [::1]", text)
        if not is_host(host) or (text != host and _version(host) is not None):
            try:
                split_host_port(text)
            except ValueError:
                raise unexpected(self.label, text) from None
        return text.lower()


@final
@dataclass(frozen=True)
class BaseURL(ScalarKind[str]):
    """The control plane's address: http or https, a host, at most a port and a path."""

    holds_host: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return "URL, https://host[:port][/path]"

    def parse(self, text: str) -> str:
        """What may hold a password is never repeated in an error."""
        if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
            raise Unfit("spaces, backslashes and characters outside ASCII are not allowed in a URL")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise unexpected("a URL such as https://api.pipeops.sh", text) from None
        if "@" in text:
            raise Unfit("a user or password in the URL is not allowed; the token has a setting of its own")
        if "?" in text or "#" in text:
            raise Unfit("a query or fragment in the URL is not allowed")
        if parts.scheme not in ("http", "https") or not host:
            raise unexpected("a URL such as https://api.pipeops.sh", text)
        bracketed = f"[{host}]" if ":" in host else host
        if not is_host(bracketed) or port == 0 or parts.netloc.endswith(":"):
            raise unexpected("a URL such as https://api.pipeops.sh", text)
        authority = bracketed if port is None else f"{bracketed}:{port}"
        return f"{parts.scheme}://{authority}{parts.path.rstrip('/')}"


@final
@dataclass(frozen=True)
class PortURL(ScalarKind[str]):
    """Where a port of the tunnel server is reached: a URL with C{{host}} and C{{port}} in it."""

    @property
    def label(self) -> str:
        return "URL, may hold {host} and {port}"

    def parse(self, text: str) -> str:
        filled = text.replace("{host}", "tunnel.example").replace("{port}", "1")
        if "{" in filled or "}" in filled:
            raise Unfit("placeholders allowed here: {host} and {port}")
        BaseURL().parse(filled)
        return text.rstrip("/")


@final
@dataclass(frozen=True)
class PathTemplate(ScalarKind[str]):
    """The path of one call, with the placeholders that it may have."""

    placeholders: Collection[str] = ()

    @property
    def label(self) -> str:
        if not self.placeholders:
            return "URL path"
        return "URL path, may hold " + " and ".join(f"{{{name}}}" for name in self.placeholders)

    def parse(self, text: str) -> str:
        if not _PATH.fullmatch(text) or text.startswith("//") or "#" in text:
            raise Unfit("expected a path that begins with one '/' and holds no space or fragment")
        try:
            fields = [part[1:] for part in Formatter().parse(text) if part[1] is not None]
        except ValueError:
            raise Unfit("its braces don't match") from None
        for name, spec, conversion in fields:
            if name not in self.placeholders or spec or conversion:
                allowed = " and ".join(f"{{{known}}}" for known in self.placeholders) or "none"
                raise Unfit(f"placeholders allowed here: {allowed}")
        return text
