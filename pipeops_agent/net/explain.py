"""An exception from the network, said so that an operator knows what happened and where to look."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

import msgspec
from OpenSSL import SSL
from twisted.internet import error as net_error
from twisted.internet.error import ConnectError, ConnectionClosed, ConnectionDone

from pipeops_agent.net.problems import CertificateProblem, ConnectProblem, LookupProblem, TLSFileProblem
from pipeops_agent.net.tls import ClientTLS
from pipeops_agent.scheduling import DeadlineExceeded


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """
    What happened, and what may help.

    @ivar sentence: what happened.
    @ivar remedy: where to look; empty where there is nothing to add.
    @ivar retryable: whether the same attempt can succeed later without anybody changing anything.
    @ivar timed_out: whether time ran out.
    """

    sentence: str
    remedy: str = ""
    retryable: bool = False
    timed_out: bool = False


def explain(error: BaseException, place: str = "the peer", tls: ClientTLS | None = None) -> Explanation:
    """
    Say what C{error} means.

    @param place: C{host:port} of the peer, for the sentence.
    @param tls: what was asked of TLS, where it was.
    """
    for kinds, say in _SAYINGS:
        if isinstance(error, kinds):
            return say(error, place, tls)
    return Explanation(sentence=f"{type(error).__name__}: {error}")


def _connect_problem(error: ConnectProblem, place: str, tls: ClientTLS | None) -> Explanation:
    return Explanation(
        sentence=error.sentence,
        remedy=error.remedy,
        retryable=error.retryable,
        timed_out=error.timed_out,
    )


def _tls_file(error: TLSFileProblem, place: str, tls: ClientTLS | None) -> Explanation:
    return Explanation(sentence=str(error))


def _no_name(error: UnicodeError, place: str, tls: ClientTLS | None) -> Explanation:
    return Explanation(sentence=f"{place} has no valid host name")


def _no_answer(error: Exception, place: str, tls: ClientTLS | None) -> Explanation:
    return Explanation(
        sentence=f"no answer from {place} in time",
        remedy="a firewall may drop the packets, or the host is down",
        retryable=True,
        timed_out=True,
    )


def _refused(error: Exception, place: str, tls: ClientTLS | None) -> Explanation:
    return Explanation(
        sentence=f"{place} refuses connections",
        remedy="nothing listens on this port at the moment",
        retryable=True,
    )


def _closed(error: ConnectionClosed, place: str, tls: ClientTLS | None) -> Explanation:
    how = "closed" if isinstance(error, ConnectionDone) else "broke off"
    return Explanation(sentence=f"{place} {how} the connection", retryable=True)


def _lookup(error: LookupProblem, place: str, tls: ClientTLS | None) -> Explanation:
    return Explanation(
        sentence=f"no address found for {error.host}: {error.reason}",
        remedy=(
            "does this machine's DNS work?" if error.temporary else "is the name spelt right in the settings?"
        ),
        retryable=error.temporary,
    )


def _os_error(error: ConnectError | OSError, place: str, tls: ClientTLS | None) -> Explanation:
    # Twisted's ConnectError keeps the errno and its text apart; an OSError is complete.
    reason = (error.args[0] if isinstance(error, ConnectError) else error.strerror) or str(error)
    return Explanation(
        sentence=f"cannot connect to {place}: {reason}",
        remedy="is there a route from this machine to it?",
        retryable=not isinstance(error, socket.gaierror),
    )


_CLOCK: Final = "or this machine's clock is wrong"


def _certificate(error: CertificateProblem, place: str, tls: ClientTLS | None) -> Explanation:
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
                remedy=f"the server needs a new one, {_CLOCK}",
            )
        case "not yet valid":
            return Explanation(
                sentence=(
                    f"the certificate of {error.subject} at {place} is not valid before "
                    f"{error.not_before:%Y-%m-%d %H:%M} UTC"
                ),
                remedy=f"it is too new, {_CLOCK}",
            )
        case "unknown CA" | "self-signed":
            trusted = f"the CA file {tls.ca_file}" if tls and tls.ca_file else "the system's authorities"
            return Explanation(
                sentence=(
                    f"the certificate of {place} is issued by {error.issuer}, which is not among {trusted}"
                ),
                remedy="the issuer's certificate belongs into tls.ca_file",
            )
    return Explanation(sentence=f"the certificate of {place} was not accepted: {error}")


_VERSION: Final = ("protocol version", "unsupported protocol", "no protocols available")
_NOT_TLS: Final = ("wrong version number", "http request", "packet length too long", "record layer failure")
_OUR_CERTIFICATE: Final = ("certificate required", "bad certificate", "unknown ca", "certificate unknown")


def _tls_error(error: SSL.Error, place: str, tls: ClientTLS | None) -> Explanation:
    """OpenSSL's reasons are a list of C{(library, function, reason)}; the first one tells most."""
    reasons = [str(item[2]) for item in error.args[0]] if error.args and error.args[0] else []
    text = ", ".join(reason for reason in reasons if reason) or type(error).__name__
    if any(word in text for word in _VERSION):
        lowest = tls.min_version if tls else "1.3"
        return Explanation(
            sentence=f"{place} does not speak TLS {lowest} or newer ({text})",
            remedy='tls.min_version: "1.2" lets an older server in' if lowest == "1.3" else "",
        )
    if "alert" in text and any(word in text for word in _OUR_CERTIFICATE):
        given = (
            f"the client certificate {tls.cert_file}"
            if tls and tls.cert_file
            else "a missing client certificate"
        )
        return Explanation(
            sentence=f"{place} does not accept {given} ({text})",
            remedy="tls.cert_file and tls.key_file must be of an authority that the server trusts",
        )
    if "alert handshake failure" in text:
        return Explanation(
            sentence=f"{place} ended the TLS handshake ({text})",
            remedy="no common cipher, or it wants a client certificate (tls.cert_file)",
        )
    if any(word in text for word in _NOT_TLS):
        return Explanation(
            sentence=f"{place} does not speak TLS ({text})", remedy="is the port, or https:// itself, right?"
        )
    return Explanation(sentence=f"TLS with {place} failed: {text}")


_Saying = Callable[[Any, str, ClientTLS | None], Explanation]

_SAYINGS: Final[tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], _Saying], ...]] = (
    (ConnectProblem, _connect_problem),
    (LookupProblem, _lookup),
    (CertificateProblem, _certificate),
    (TLSFileProblem, _tls_file),
    (UnicodeError, _no_name),
    (SSL.Error, _tls_error),
    ((DeadlineExceeded, net_error.TimeoutError, net_error.TCPTimedOutError), _no_answer),
    (net_error.ConnectionRefusedError, _refused),
    (ConnectionClosed, _closed),
    ((ConnectError, OSError), _os_error),
)
"""Who explains what; the first that fits."""
