"""What can be done in the cluster: typed, cancellable, within the owner's rules and the caller's rights."""

from __future__ import annotations

from pipeops_agent.cluster.operations.base import (
    BadRequest,
    Kit,
    OutOfTime,
    Progress,
    Result,
    Target,
    parsed,
)
from pipeops_agent.cluster.operations.front import SAME, Command, Operations
from pipeops_agent.cluster.operations.manifests import BadManifest

__all__ = [
    "SAME",
    "BadManifest",
    "BadRequest",
    "Command",
    "Kit",
    "Operations",
    "OutOfTime",
    "Progress",
    "Result",
    "Target",
    "parsed",
]
