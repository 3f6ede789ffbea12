"""Why a WebSocket was refused or closed, in a sentence that says where to look."""

from __future__ import annotations

from typing import Final

from OpenSSL import SSL
from twisted.python.failure import Failure

from pipeops_agent.net.explain import explain


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
    "401": "something before the chisel server wants a login of its own",
    "403": "something before the chisel server does not let this machine in",
    "404": "no chisel server at this path, or an ingress that does not pass WebSockets",
    "405": "something on the way does not pass WebSockets",
    "421": "the server is another one than this name's",
    "426": "something on the way does not pass WebSockets",
    "429": "too many attempts, from here or from everybody",
    "500": "the server, or what stands before it, fails: its log says why",
    "502": "the chisel server behind a proxy is down",
    "503": "the chisel server behind a proxy is down",
    "504": "the chisel server behind a proxy does not answer",
}


def explain_loss(reason: Failure) -> str:
    """
    A sentence about a connection that TLS has ended; empty: it ended otherwise.

    With TLS 1.3 a server looks at the client's certificate when the client has long been done (RFC 8446
    section 4.4.2.4), so that its objection comes only now.
    """
    if not isinstance(reason.value, SSL.Error):
        return ""
    said = explain(reason.value, "the server")
    return f"{said.sentence} ({said.remedy})" if said.remedy else said.sentence


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
