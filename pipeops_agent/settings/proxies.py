"""
Which proxy leads to which target: C{pipeops.proxy}, and the variables that every program reads.

The rules are those of Go's C{net/http} (package C{golang.org/x/net/http/httpproxy}), as the rest of a cluster
follows them, with C{ALL_PROXY} and SOCKS added as curl has them. docs/proxies.md says them for operators.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import msgspec

from pipeops_agent.secrets import Secret
from pipeops_agent.settings.addresses import is_loopback
from pipeops_agent.settings.problems import Origin, Problem, Unfit
from pipeops_agent.settings.proxy_url import Proxy, ProxyChoice, parse_proxy

Address = IPv4Address | IPv6Address

_SERVICE: Final = "KUBERNETES_SERVICE_HOST"
_BRACKETED = re.compile(r"\[([^\]]*)\](?::([0-9]+))?")


class Exemption(msgspec.Struct, frozen=True, kw_only=True):
    """
    One entry of C{NO_PROXY}: targets that are reached directly.

    @ivar network: addresses; else C{domain}: the names that end so, with its first dot. Neither: everything.
    @ivar itself: whether the domain's own name is meant as well.
    @ivar port: the only port that is meant; None: all.
    """

    network: IPv4Network | IPv6Network | None = None
    domain: str = ""
    itself: bool = False
    port: int | None = None

    def covers(self, host: str, addresses: Collection[Address], port: int) -> bool:
        """
        Whether a target is meant.

        @param host: in lower case, without brackets and final dot.
        @param addresses: those that C{host} is (L{_addresses}); none: it is a name.
        """
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return any(address in self.network for address in addresses)
        if not self.domain:
            return True
        return host.endswith(self.domain) or (self.itself and host == self.domain[1:])


def parse_exemptions(text: str) -> tuple[tuple[Exemption, ...], tuple[str, ...]]:
    """
    The entries of a C{NO_PROXY}, separated by commas or blanks, and those of them that mean nothing.

    C{*}; an address; a network (C{10.0.0.0/8}); C{name}, which is the name and all below it; C{.name} or
    C{*.name}, which is only what is below. Addresses and names may have a port; an IPv6 address then has
    brackets.
    """
    exemptions, unreadable = [], []
    for entry in re.split(r"[,\s]+", text.lower()):
        if not entry:
            continue
        exemption = _exemption(entry)
        if exemption is None:
            unreadable.append(entry)
        else:
            exemptions.append(exemption)
    return tuple(exemptions), tuple(unreadable)


def _exemption(entry: str) -> Exemption | None:
    if entry == "*":
        return Exemption()
    if "/" in entry:
        try:
            return Exemption(network=ip_network(entry, strict=False))
        except ValueError:
            return None
    host, port = _split(entry)
    addresses = _addresses(host)
    if addresses:
        return Exemption(network=ip_network(addresses[-1]), port=port)
    name = (host[1:] if host.startswith("*.") else host).rstrip(".")
    if not re.fullmatch(r"\.?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", name) or (port is not None and port > 65535):
        return None
    return Exemption(domain=f".{name.removeprefix('.')}", itself=not name.startswith("."), port=port)


def _split(entry: str) -> tuple[str, int | None]:
    """Host and port of an entry; an IPv6 address without brackets has no port."""
    bracketed = _BRACKETED.fullmatch(entry)
    if bracketed:
        return bracketed[1], int(bracketed[2]) if bracketed[2] else None
    host, colon, port = entry.rpartition(":")
    if colon and ":" not in host and port.isdecimal():
        return host, int(port)
    return entry, None


def _addresses(host: str) -> tuple[Address, ...]:
    """The address that C{host} is, where it is one; an IPv4 one within it (C{::ffff:10.0.0.1}) comes last."""
    try:
        address = ip_address(host)
    except ValueError:
        return ()
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (address,) if mapped is None else (address, mapped)


class Proxies(msgspec.Struct, frozen=True, kw_only=True):
    """
    The ways out.

    @ivar https: the proxy for targets with TLS, and C{http} for those without; None: directly.
    @ivar exemptions: what is reached directly all the same.
    @ivar service: the API server as this pod's environment names it: never through a proxy.
    """

    https: Proxy | None = None
    http: Proxy | None = None
    exemptions: tuple[Exemption, ...] = ()
    service: str = ""

    def for_target(self, host: str, port: int, *, tls: bool) -> Proxy | None:
        """
        The proxy for a target; None: it is reached directly.

        What counts is the target as it is named: a name is not looked up for this, and may be one that only
        the proxy knows. So a name other than C{localhost} that stands for loopback goes through the proxy.
        """
        name = host.lower().rstrip(".")
        addresses = _addresses(name)
        if is_loopback(name) or any(address.is_loopback for address in addresses):
            return None
        if self.service and (name == self.service or any(str(each) == self.service for each in addresses)):
            return None
        if any(exemption.covers(name, addresses, port) for exemption in self.exemptions):
            return None
        return self.https if tls else self.http

    def way_to(self, host: str, port: int, *, tls: bool) -> str:
        """How a target is reached, in words, without credentials."""
        return _way(self.for_target(host, port, tls=tls))

    @property
    def usual_way(self) -> str:
        """How targets with TLS are reached that are not exempt."""
        return _way(self.https)

    def secrets(self) -> tuple[Secret, ...]:
        """The passwords, so that the log can mask them."""
        both = (self.https, self.http)
        return tuple(each.credentials[1] for each in both if each is not None and each.credentials)


def _way(proxy: Proxy | None) -> str:
    return "directly" if proxy is None else f"through the proxy {proxy} ({proxy.named_by})"


DIRECT: Final = Proxies()
"""No proxy for anything."""


@dataclass(frozen=True)
class ReadProxies:
    """The proxies, what is wrong with those that were named, and what their owner should hear."""

    proxies: Proxies
    problems: tuple[Problem, ...] = ()
    cautions: tuple[str, ...] = ()


def read_proxies(choice: ProxyChoice, environ: Mapping[str, str]) -> ReadProxies:
    """
    What C{pipeops.proxy} says; where it leaves that to the environment, what C{HTTPS_PROXY}, C{HTTP_PROXY}
    and C{ALL_PROXY} say, in capitals or, where that is unset or empty, in small letters. C{NO_PROXY} holds
    for both.
    """
    if choice == "none":
        return ReadProxies(DIRECT)
    reader = _Environment(environ)
    https, http = (choice, choice) if isinstance(choice, Proxy) else reader.proxies()
    if https is None and http is None:
        return ReadProxies(DIRECT, tuple(reader.problems), tuple(reader.cautions))
    service = environ.get(_SERVICE, "").lower()
    proxies = Proxies(
        https=https,
        http=http,
        exemptions=reader.exemptions(),
        service=str(_addresses(service)[0]) if _addresses(service) else service,
    )
    return ReadProxies(proxies, tuple(reader.problems), tuple(reader.cautions))


class _Environment:
    """Reads the variables, and notes what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[Problem] = []
        self.cautions: list[str] = []

    def _find(self, name: str) -> tuple[str, str]:
        """The variable that counts, and its value, which may be empty."""
        upper, lower = (self._environ.get(each, "").strip() for each in (name, name.lower()))
        if upper and lower and upper != lower:
            self.cautions.append(f"variables {name} and {name.lower()} differ; {name} is used, as Go does")
        return (name, upper) if upper else (name.lower(), lower)

    def proxies(self) -> tuple[Proxy | None, Proxy | None]:
        """For targets with TLS, and without."""
        everything = self._proxy("ALL_PROXY")
        return self._proxy("HTTPS_PROXY") or everything, self._proxy("HTTP_PROXY") or everything

    def _proxy(self, name: str) -> Proxy | None:
        variable, text = self._find(name)
        if not text:
            return None
        try:
            return parse_proxy(text, variable)
        except Unfit as error:
            self.problems.append(Problem(variable, str(error), Origin("variable", variable)))
            return None

    def exemptions(self) -> tuple[Exemption, ...]:
        variable, text = self._find("NO_PROXY")
        exemptions, unreadable = parse_exemptions(text)
        self.cautions += [f"variable {variable}: {entry!r} means nothing there" for entry in unreadable]
        return exemptions
