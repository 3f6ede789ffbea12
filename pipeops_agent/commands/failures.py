"""What can go wrong with what is asked for, as the caller and the audit record are told."""

from __future__ import annotations

from typing import Final

from pipeops_agent.access.audit import Verdict
from pipeops_agent.cluster.discovery import NotServed
from pipeops_agent.cluster.errors import ClusterError, Misconfigured, StatusError, Unreachable
from pipeops_agent.cluster.logs import BadLogRequest
from pipeops_agent.cluster.operations import BadRequest, OutOfTime
from pipeops_agent.cluster.proxying import OwnTokenNeeded, Refused
from pipeops_agent.cluster.reach import NotGranted
from pipeops_agent.cluster.scope import OutOfReach
from pipeops_agent.cluster.sessions import StreamCut
from pipeops_agent.cluster.stream import Cut

FAILURES: Final = (ClusterError, OutOfReach, Cut)
"""Each has a sentence for people; anything else is a mistake of the agent's."""

_CODES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (NotGranted, "forbidden"),
    (OwnTokenNeeded, "forbidden"),
    (OutOfReach, "out_of_reach"),
    (BadRequest, "bad_request"),
    (BadLogRequest, "bad_request"),
    (Refused, "bad_request"),
    (NotServed, "bad_request"),
    (OutOfTime, "timed_out"),
    (Misconfigured, "not_available"),
    (Unreachable, "unreachable"),
    (StreamCut, "cut"),
    (Cut, "cut"),
)
_STATUSES: Final = {
    400: "bad_request",
    401: "denied",
    403: "denied",
    404: "not_found",
    409: "conflict",
    422: "bad_request",
}


def code_of(error: Exception) -> str:
    """C{error}, for programs: C{forbidden} by scopes, C{out_of_reach} by the owner, C{denied} by the API."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return _STATUSES.get(error.code, "failed") if isinstance(error, StatusError) else "failed"


def verdict_of(error: Exception) -> Verdict:
    """C{error}, for the audit record."""
    return "refused" if code_of(error) in ("forbidden", "out_of_reach", "denied") else "failed"
