"""What is said of a TLS handshake that failed: the peer's certificate, or what OpenSSL tells of the rest."""

from __future__ import annotations

from typing import Final

from OpenSSL import SSL

from pipeops_agent.net.explanation import Explanation
from pipeops_agent.net.problems import CertificateProblem
from pipeops_agent.net.tls import ClientTLS


def explain_certificate(
    error: CertificateProblem, place: str, tls: ClientTLS | None, clock_note: str = ""
) -> Explanation:
    """
    Say what is wrong with a certificate.

    @param clock_note: what is known of this machine's clock; it takes the place of the suspicion.
    """
    match error.fault:
        case "name":
            return Explanation(
                sentence=f"the certificate of {place} is not for this name, but for {error.subject}",
                remedy="is this the right server, under the name that its certificate has?",
            )
        case "expired":
            return Explanation(
                sentence=(
                    f"the certificate of {error.subject} at {place} expired at "
                    f"{error.not_after:%Y-%m-%d %H:%M} UTC"
                ),
                remedy=clock_note or "the server needs a new one, or this machine's clock is wrong",
            )
        case "not yet valid":
            return Explanation(
                sentence=(
                    f"the certificate of {error.subject} at {place} is not valid before "
                    f"{error.not_before:%Y-%m-%d %H:%M} UTC"
                ),
                remedy=clock_note or "it is too new, or this machine's clock is wrong",
            )
        case "unknown CA" | "self-signed":
            return Explanation(
                sentence=(
                    f"the certificate of {place} is issued by {error.issuer}, which is not among"
                    f" {_authorities(tls)}"
                ),
                remedy=(tls or ClientTLS()).ca_remedy,
            )
    return Explanation(sentence=f"the certificate of {place} was not accepted: {error}")


def _authorities(tls: ClientTLS | None) -> str:
    """Whom a certificate should have come from."""
    if tls is None or not (tls.ca_file or tls.ca_data):
        return "the system's authorities"
    return f"the authorities of {tls.origin}" if tls.origin else f"the CA file {tls.ca_file}"


_VERSION: Final = ("protocol version", "unsupported protocol", "no protocols available")
_NOT_TLS: Final = ("wrong version number", "http request", "packet length too long", "record layer failure")
_OUR_CERTIFICATE: Final = ("certificate required", "bad certificate", "unknown ca", "certificate unknown")


_ALERTS: Final = (
    (
        "unrecognized name",
        "does not know the name that it was asked for",
        "is the name in the address right, and does the server have a certificate for it?",
    ),
    ("no application protocol", "wants a protocol (ALPN) that was not offered", "is this the right port?"),
    (
        "handshake failure",
        "ended the TLS handshake",
        "no common cipher, or it wants a client certificate",
    ),
    ("internal error", "failed during the TLS handshake", "its own log says why"),
)
"""The server's alerts (RFC 8446 section 6): what it is said to do, and where to look."""


def explain_tls_error(error: SSL.Error, place: str, tls: ClientTLS | None) -> Explanation:
    """Say what OpenSSL's error means; its reasons are a list of C{(library, function, reason)}."""
    reasons = [str(item[2]) for item in error.args[0]] if error.args and error.args[0] else []
    text = ", ".join(reason for reason in reasons if reason) or type(error).__name__
    if any(word in text for word in _VERSION):
        lowest = tls.min_version if tls else "1.3"
        return Explanation(
            sentence=f"{place} does not speak TLS {lowest} or newer ({text})",
            remedy='tls.min_version: "1.2" lets an older server in' if lowest == "1.3" else "",
        )
    if "unexpected eof" in text:
        return Explanation(sentence=f"{place} closed the connection", retryable=True, lost=True)
    if "alert" in text or "unrecognized name" in text:  # OpenSSL does not call that one an alert
        return _alert(text, place, tls)
    if any(word in text for word in _NOT_TLS):
        return Explanation(
            sentence=f"{place} does not speak TLS ({text})", remedy="is the port, or https:// itself, right?"
        )
    return Explanation(sentence=f"TLS with {place} failed: {text}")


def _alert(text: str, place: str, tls: ClientTLS | None) -> Explanation:
    """The server has said why it goes no further."""
    if any(word in text for word in _OUR_CERTIFICATE):
        ours = tls is None or not tls.origin
        remedy = (
            "tls.cert_file and tls.key_file must be of an authority that the server trusts" if ours else ""
        )
        return Explanation(sentence=f"{place} does not accept {_given(tls)} ({text})", remedy=remedy)
    for word, does, remedy in _ALERTS:
        if word in text:
            return Explanation(sentence=f"{place} {does} ({text})", remedy=remedy)
    return Explanation(sentence=f"TLS with {place} failed: {text}")


def _given(tls: ClientTLS | None) -> str:
    """What the server was shown of us."""
    if tls is not None and tls.cert_file:
        return f"the client certificate {tls.cert_file}"
    if tls is not None and tls.cert_data:
        return f"the client certificate of {tls.origin}"
    return "a missing client certificate"
