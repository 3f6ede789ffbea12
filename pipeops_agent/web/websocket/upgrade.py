"""Whether a request may become a WebSocket (RFC 6455, 4.2.1), and what the connection is told of it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection
from typing import Final

from autobahn.websocket.compress_deflate import PerMessageDeflateOffer

from pipeops_agent.web.replies import Refusal
from pipeops_agent.web.request import AgentRequest

VERSION: Final = "13"
_KEY_BYTES: Final = 16
_MAX_OFFERS: Final = 1024
"""Characters of the extensions offered that are looked at."""


def check_upgrade(request: AgentRequest, origins: Collection[str]) -> bytes:
    """
    See whether C{request} asks for a WebSocket as it must, and comes from a page that may.

    @param origins: those allowed besides the agent's own.
    @return: the request as Autobahn is to see it: no more of it than it needs, and no header of the caller's.
    @raise Refusal: 400, 403, 426.
    """
    headers = request.requestHeaders
    if request.method != b"GET" or request.clientproto != b"HTTP/1.1" or not _asks(request):
        message = "this path is for WebSockets (GET, Upgrade: websocket)"
        raise Refusal(426, "upgrade_required", message, ("Upgrade", "websocket"), ("Connection", "Upgrade"))
    if _values(request, "sec-websocket-version") != [VERSION]:
        raise Refusal(
            426,
            "upgrade_required",
            f"only version {VERSION} of the protocol is spoken",
            ("Sec-WebSocket-Version", VERSION),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
        )
    keys = headers.getRawHeaders(b"sec-websocket-key", [])
    if len(keys) != 1 or not _is_key(keys[0]):
        raise Refusal(400, "bad_request", "expected one Sec-WebSocket-Key of 16 bytes in base64")
    _check_origin(request, origins)
    lines = [
        b"GET /ws HTTP/1.1",
        b"Host: localhost",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: " + keys[0].strip(),
    ]
    if offers_deflate(",".join(_values(request, "sec-websocket-extensions"))):
        # What is offered, with what the answer adds: the client may forget each message after it was read.
        lines.append(b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover")
    return b"\r\n".join([*lines, b"", b""])


def offers_deflate(extensions: str) -> bool:
    """
    Whether one of the offers can be taken: with the whole window, which a frame made for all needs.

    An offer that is malformed is no offer (RFC 7692, 7), and no reason to refuse the connection.
    """
    for offer in extensions[:_MAX_OFFERS].split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        if name.lower() != "permessage-deflate":
            continue
        asked: dict[str, list[str | bool]] = {}
        for parameter in parameters:
            key, equals, value = (part.strip() for part in parameter.partition("="))
            asked.setdefault(key.lower(), []).append(value.strip('"') if equals else True)
        try:
            taken = PerMessageDeflateOffer.parse(asked)
        except Exception:  # noqa: S112 (Autobahn raises nothing narrower for an offer that is wrong)
            continue
        if taken.request_max_window_bits in (0, 15):
            return True
    return False


def _asks(request: AgentRequest) -> bool:
    connection = ",".join(_values(request, "connection")).lower()
    upgrade = ",".join(_values(request, "upgrade")).lower()
    return "upgrade" in _tokens(connection) and "websocket" in _tokens(upgrade)


def _check_origin(request: AgentRequest, origins: Collection[str]) -> None:
    """
    Refuse another site's page: a browser sends whatever it has for us along with its request.

    @raise Refusal: 403.
    """
    shown = _values(request, "origin")
    if not shown:
        return  # no browser
    if len(shown) == 1:
        origin = shown[0].lower()
        if origin in {each.lower().rstrip("/") for each in origins}:
            return
        own = [host.lower() for host in _values(request, "host")]
        # By host and port alone: whether TLS ends before this agent it can't know.
        place = origin.partition("://")[2]
        if place and own == [place]:
            return
    raise Refusal(403, "origin", "pages of this origin may not connect (realtime.origins)")


def _is_key(text: bytes) -> bool:
    try:
        return len(base64.b64decode(text.strip(), validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False


def _tokens(text: str) -> list[str]:
    return [token.strip() for token in text.split(",")]


def _values(request: AgentRequest, name: str) -> list[str]:
    return [
        value.decode("latin-1").strip() for value in request.requestHeaders.getRawHeaders(name.encode(), [])
    ]
