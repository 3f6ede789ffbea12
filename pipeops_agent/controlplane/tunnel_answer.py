"""The answer to the question for the tunnel: from JSON to a L{TunnelOrder}, or to nothing at all."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from pipeops_agent.controlplane.errors import AnswerError
from pipeops_agent.controlplane.strict import kind, optional_text, parse_object
from pipeops_agent.orders import Allocation, ServerAddress, TunnelOrder, TunnelServer
from pipeops_agent.secrets import Secret

MIN_WAIT: Final = 1.0
MAX_WAIT: Final = 600.0
"""Every wait that an answer asks for is clamped to these seconds."""
MAX_ALLOCATIONS: Final = 1000
"""More ports than this are no allocation but a mistake."""

_STATES: Final[dict[str, Literal["wanted", "idle", "disabled"]]] = {
    "ready": "wanted",
    "required": "wanted",
    "active": "wanted",
    "idle": "idle",
    "disabled": "disabled",
}


class TunnelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """
    What an answer says.

    @ivar order: what is wanted of the tunnel; None: nothing changes.
    @ivar poll_after: the seconds until the next poll, clamped; None: as configured.
    @ivar unknown_status: the status that this agent does not know, where that is why nothing changes.
    """

    order: TunnelOrder | None = None
    poll_after: float | None = None
    unknown_status: str | None = None


def clamp(seconds: float) -> float:
    """C{seconds}, between 1 s and 10 min."""
    return min(MAX_WAIT, max(MIN_WAIT, seconds))


def parse_tunnel_answer(
    body: bytes, *, allow_insecure: bool = False, allowed_servers: Collection[str] = ()
) -> TunnelAnswer:
    """
    Read an answer.

    @param allow_insecure: whether a server without TLS may be named.
    @param allowed_servers: the servers that may be named (host, host:port, *.domain); empty: any.
    @raise AnswerError: a field can't be used; nothing of the answer counts then.
    """
    answer = parse_object(body)
    poll_after = _poll_after(answer.get("poll_frequency"))
    word = optional_text(answer, "status", "status")
    if word is None:
        raise AnswerError("status: missing")
    state = _STATES.get(word.strip().lower())
    if state is None:
        return TunnelAnswer(poll_after=poll_after, unknown_status=word.strip()[:64])
    if state != "wanted":
        return TunnelAnswer(order=TunnelOrder(state=state), poll_after=poll_after)
    address = _address(answer, allow_insecure, allowed_servers)
    server = TunnelServer(
        address=address,
        fingerprint=_fingerprint(optional_text(answer, "server_fingerprint", "server_fingerprint")),
        credentials=_credentials(optional_text(answer, "credentials", "credentials")),
    )
    if server.fingerprint is None and not address.tls:
        raise AnswerError(
            "server_fingerprint: missing, and without TLS nothing else can tell the server from another"
        )
    order = TunnelOrder(state=state, server=server, allocations=_allocations(answer.get("forwards")))
    return TunnelAnswer(order=order, poll_after=poll_after)


def _poll_after(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AnswerError(f"poll_frequency: expected seconds as a number, got {kind(value)}")
    if value < 0 or (isinstance(value, float) and not math.isfinite(value)):
        raise AnswerError("poll_frequency: expected a number of seconds from 0")
    return clamp(min(value, MAX_WAIT)) if value else None


def _allocations(value: Any) -> tuple[Allocation, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise AnswerError(f"forwards: expected an array, got {kind(value)}")
    if len(value) > MAX_ALLOCATIONS:
        raise AnswerError(f"forwards: more than {MAX_ALLOCATIONS}")
    allocations: list[Allocation] = []
    names: set[str] = set()
    ports: set[int] = set()
    for index, item in enumerate(value):
        place = f"forwards[{index}]"
        if not isinstance(item, dict):
            raise AnswerError(f"{place}: expected an object, got {kind(item)}")
        name = optional_text(item, "name", f"{place}.name")
        if name is None:
            raise AnswerError(f"{place}.name: missing")
        port = item.get("remote_port")
        if type(port) is not int:  # bool is an int to Python
            raise AnswerError(f"{place}.remote_port: expected a port, got {kind(port)}")
        if not 1 <= port <= 65535:
            raise AnswerError(f"{place}.remote_port: expected a port from 1 to 65535")
        if name in names:
            raise AnswerError(f"{place}.name: {name[:64]!r} is allocated twice")
        if port in ports:
            raise AnswerError(f"{place}.remote_port: {port} is allocated twice")
        names.add(name)
        ports.add(port)
        allocations.append(Allocation(name, port))
    return tuple(allocations)


def _address(answer: Mapping[str, Any], allow_insecure: bool, allowed: Collection[str]) -> ServerAddress:
    place = "tunnel_server_addr"
    text = optional_text(answer, place, place)
    if text is None:
        place = "tunnel_url"
        text = optional_text(answer, place, place)
    if text is None:
        raise AnswerError("tunnel_server_addr: missing, and tunnel_url too")
    address = parse_address(text.strip(), place)
    if not address.tls and not allow_insecure:
        raise AnswerError(f"{place}: a server without TLS is refused (tunnel.allow_insecure)")
    if allowed and not any(_matches(address, pattern.lower()) for pattern in allowed):
        raise AnswerError(f"{place}: {address.host} is not among tunnel.allowed_servers")
    return address


def parse_address(text: str, place: str) -> ServerAddress:
    """
    A chisel server as an answer names it: C{wss://host[:port][/path]}, C{https://...}, or bare.

    @param place: how an error names the field. What stands in it is not repeated: it may be a password.
    @raise AnswerError: it is none of these.
    """
    if not re.fullmatch(r"[\x21-\x7e]+", text) or "\\" in text:
        raise AnswerError(f"{place}: spaces, backslashes and characters outside ASCII are not allowed")
    scheme, separator, _ = text.partition("://")
    if not separator:
        text = f"wss://{text}"
        scheme = "wss"
    scheme = scheme.lower()
    if scheme not in ("wss", "https", "ws", "http"):
        raise AnswerError(f"{place}: expected wss://host[:port][/path], https://... or host[:port]")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise AnswerError(f"{place}: no valid host and port") from None
    if parts.username is not None or parts.password is not None:
        raise AnswerError(f"{place}: a user or password does not belong here, but into credentials")
    if parts.fragment or parts.query:
        raise AnswerError(f"{place}: a query or fragment is not allowed")
    if not host or port == 0 or parts.netloc.endswith(":"):
        raise AnswerError(f"{place}: no valid host and port")
    bare = not parts.netloc.startswith("[")
    if (":" in host) == bare or not re.fullmatch(r"[0-9a-z_.:%-]+", host):
        raise AnswerError(f"{place}: no valid host and port (an IPv6 address stands in brackets)")
    tls = scheme in ("wss", "https")
    return ServerAddress(host=host, port=port or (443 if tls else 80), path=parts.path or "/", tls=tls)


def _matches(address: ServerAddress, pattern: str) -> bool:
    host = address.host.rstrip(".")
    if pattern.startswith("*."):
        return host.endswith(pattern[1:].rstrip(".")) and host != pattern[2:]
    bracketed = f"[{host}]" if ":" in host else host
    return pattern.rstrip(".") in (host, bracketed, f"{bracketed}:{address.port}")


def _fingerprint(text: str | None) -> str | None:
    if text is None:
        return None
    text = text.strip()
    if re.fullmatch(r"(?:[0-9a-fA-F]{2}:){15}[0-9a-fA-F]{2}", text):
        raise AnswerError(
            "server_fingerprint: the old MD5 form (aa:bb:...) proves nothing and is refused; "
            "expected the base64 of a SHA-256"
        )
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 32 or base64.b64encode(digest).decode() != text:
        raise AnswerError("server_fingerprint: expected the base64 of a SHA-256, 44 characters")
    return text


def _credentials(text: str | None) -> tuple[str, Secret] | None:
    """C{user:password}, as it is or in base64. A colon is no character of base64, so the form is certain."""
    if text is None:
        return None
    if ":" not in text:
        try:
            text = base64.b64decode(text.strip(), validate=True).decode()
        except (binascii.Error, ValueError):
            # The error of a failed decoding carries what could not be decoded.
            raise AnswerError("credentials: expected user:password, or its base64") from None
        if ":" not in text:
            raise AnswerError("credentials: expected user:password, or its base64")
    user, _, password = text.partition(":")
    return user, Secret(password)
