"""Why a WebSocket was refused or closed, in a sentence that says where to look."""

from __future__ import annotations

from typing import Final


def explain_refusal(answer: bytes, reason: str) -> str:
    """
    A sentence about a refused upgrade: status, C{Location}, C{Server}, the body's first line, a guess.

    @param answer: what has come of the HTTP answer.
    @param reason: Autobahn's word for it, for an answer that is no refusal but wrong.
    """
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    code = status.split(" ")[1] if status.startswith("HTTP/") and " " in status else ""
    if not code or code == "101":
        return f"the upgrade to a WebSocket failed: {_shown(reason)}"
    headers = {
        name.strip().lower(): value.strip()
        for name, colon, value in (line.partition(":") for line in lines)
        if colon
    }
    parts = [f"the server answered the upgrade with {_shown(status.partition(' ')[2])}"]
    parts += [f"{name} {_shown(headers[name])}" for name in ("location", "server") if name in headers]
    first = body.decode("utf-8", "replace").strip().partition("\n")[0].strip()
    if first:
        parts.append(f"body begins {_shown(first)!r}")
    guess = _GUESSES.get(code, "")
    return ", ".join(parts) + (f" ({guess})" if guess else "")


_GUESSES: Final = {
    "301": "a redirect is not followed: set the address it names",
    "302": "a redirect is not followed: set the address it names",
    "307": "a redirect is not followed: set the address it names",
    "308": "a redirect is not followed: set the address it names",
    "200": "something on the way does not pass WebSockets",
    "400": "something on the way does not pass WebSockets",
    "404": "no chisel server at this path, or an ingress that does not pass WebSockets",
    "502": "the chisel server behind a proxy is down",
    "503": "the chisel server behind a proxy is down",
    "504": "the chisel server behind a proxy does not answer",
}


def explain_close(payload: bytes) -> str:
    """A sentence about a close frame: its code and reason (RFC 6455, section 7.1.5), where it has them."""
    sentence = "the peer closed the WebSocket"
    if len(payload) < 2:
        return sentence
    reason = payload[2:].decode("utf-8", "replace")
    said = f" ({_shown(reason)})" if reason else ""
    return f"{sentence} with code {int.from_bytes(payload[:2], 'big')}{said}"


def _shown(text: str) -> str:
    """What a peer said: bounded and printable."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:200])
