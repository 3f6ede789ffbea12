"""Why a local target was not reached: a kind to count by, and a sentence."""

from __future__ import annotations

import msgspec
from twisted.internet import error as net_error

from pipeops_agent.net.explain import explain
from pipeops_agent.net.problems import LookupProblem


class DialProblem(msgspec.Struct, frozen=True):
    """C{kind} is one of L{DIAL_PROBLEMS<pipeops_agent.tunnel.traffic.DIAL_PROBLEMS>}."""

    kind: str
    sentence: str


def dial_problem(error: BaseException, target: str) -> DialProblem:
    """
    What C{error} means, which came of dialling.

    @param target: C{host:port}.
    """
    said = explain(error, target)
    if said.timed_out:
        kind = "timeout"
    elif isinstance(error, net_error.ConnectionRefusedError):
        kind = "refused"
    elif isinstance(error, LookupProblem | UnicodeError):
        kind = "name"
    elif isinstance(error, net_error.ConnectError | OSError):
        kind = "unreachable"
    else:
        kind = "other"
    remedy = f" ({said.remedy})" if said.remedy else ""
    return DialProblem(kind, f"the local target can't be reached: {said.sentence}{remedy}")
