"""An exception from the network, said so that an operator knows what happened and where to look."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet import error as net_error
from twisted.internet.error import ConnectError, ConnectionClosed, ConnectionDone

from pipeops_agent.net.explain_tls import explain_certificate, explain_tls_error
from pipeops_agent.net.explanation import Explanation
from pipeops_agent.net.problems import (
    CertificateProblem,
    ConnectProblem,
    LookupProblem,
    ProxyRefusal,
    TLSFileProblem,
)
from pipeops_agent.net.tls import ClientTLS
from pipeops_agent.scheduling import DeadlineExceeded


def explain(
    error: BaseException, place: str = "the peer", tls: ClientTLS | None = None, *, clock_note: str = ""
) -> Explanation:
    """
    Say what C{error} means.

    @param place: C{host:port} of the peer, for the sentence.
    @param tls: what was asked of TLS, where it was.
    @param clock_note: what is known of this machine's clock, for a certificate's dates.
    """
    if isinstance(error, CertificateProblem):
        return explain_certificate(error, place, tls, clock_note)
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


def _proxy(error: ProxyRefusal, place: str, tls: ClientTLS | None) -> Explanation:
    return Explanation(sentence=f"{place} {error.reason}", remedy=error.remedy, retryable=error.retryable)


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
    return Explanation(sentence=f"{place} {how} the connection", retryable=True, lost=True)


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


_Saying = Callable[[Any, str, ClientTLS | None], Explanation]

_SAYINGS: Final[tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], _Saying], ...]] = (
    (ConnectProblem, _connect_problem),
    (LookupProblem, _lookup),
    (ProxyRefusal, _proxy),
    (TLSFileProblem, _tls_file),
    (UnicodeError, _no_name),
    (SSL.Error, explain_tls_error),
    ((DeadlineExceeded, net_error.TimeoutError, net_error.TCPTimedOutError), _no_answer),
    (net_error.ConnectionRefusedError, _refused),
    (ConnectionClosed, _closed),
    ((ConnectError, OSError), _os_error),
)
"""Who explains what; the first that fits."""
