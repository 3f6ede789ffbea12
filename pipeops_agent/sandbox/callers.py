"""Who calls, by which name, and whether that may be."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from pipeops_agent.sandbox.serving import Answer, BoundedRequest, error
from pipeops_agent.secrets import Secret

_HOST: Final = re.compile(r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?$")


def bears(request: BoundedRequest, token: Secret) -> bool:
    """Whether C{request} carries this bearer token, once."""
    values = request.requestHeaders.getRawHeaders("Authorization", [])
    if len(values) != 1:
        return False
    scheme, _, given = values[0].partition(" ")
    return scheme.lower() == "bearer" and Secret(given.strip()) == token


def called_host(request: BoundedRequest) -> str | None:
    """The C{host[:port]} by which the sandbox was called, and so can be reached, wherever it listens."""
    values = request.requestHeaders.getRawHeaders("Host", [])
    return values[0] if len(values) == 1 and _HOST.match(values[0]) else None


class Guard:
    """
    Who may look and who may make faults.

    On loopback: every program of this machine, but no web page. A page can send requests here, by any name
    it has pointed at 127.0.0.1; so the request must be for a loopback name, and not name a page's origin.

    @param token: with a token, who bears it, and nobody else.
    """

    def __init__(self, token: Secret | None) -> None:
        self._token = token

    def refusal(self, request: BoundedRequest) -> Answer | None:
        """The answer for who may not; None: may."""
        if self._token is not None:
            if bears(request, self._token):
                return None
            return error(401, "this sandbox asks for its token", www_authenticate="Bearer")
        if request.requestHeaders.hasHeader("Origin"):
            return error(403, "web pages are not served here")
        host = called_host(request)
        if host is not None and not is_loopback(host.rsplit(":", 1)[0] if host[-1] != "]" else host):
            return error(403, "this sandbox is called by a loopback name")
        return None


def is_loopback(host: str) -> bool:
    """Whether C{host} (a name, or an address with or without brackets) is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
