"""The one way out: DNS, TCP, proxy and TLS, each step timed, bounded and explained."""

from __future__ import annotations

from pipeops_agent.net.connector import Connector
from pipeops_agent.net.explain import explain
from pipeops_agent.net.explanation import Explanation
from pipeops_agent.net.problems import (
    AnswerTooLong,
    CertificateProblem,
    ConnectProblem,
    LookupProblem,
    ProxyRefusal,
    TLSFileProblem,
)
from pipeops_agent.net.resolver import Resolver, ThreadedResolver
from pipeops_agent.net.tls import ClientTLS
from pipeops_agent.net.trace import Trace

__all__ = [
    "AnswerTooLong",
    "CertificateProblem",
    "ClientTLS",
    "ConnectProblem",
    "Connector",
    "Explanation",
    "LookupProblem",
    "ProxyRefusal",
    "Resolver",
    "TLSFileProblem",
    "ThreadedResolver",
    "Trace",
    "explain",
]
