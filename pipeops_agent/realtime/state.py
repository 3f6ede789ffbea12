"""The present state: what a client is told first, and after every loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pipeops_agent.events import EventHub
from pipeops_agent.health import Feature, Registry
from pipeops_agent.status import StatusBoard


def present_state(board: StatusBoard, features: Registry[Feature], hub: EventHub) -> Mapping[str, Any]:
    """
    Who this agent is, how it is, and what it can do now.

    C{start} and C{seq} say which events it includes: all up to that one.
    """
    status = board.now
    return {
        "agent_id": status.agent_id,
        "cluster_id": status.registration.cluster_id,
        "status": status.phase,
        "features": {each.name: msgspec.to_builtins(each.state(status)) for each in features},
        "start": hub.start,
        "seq": hub.seq,
    }
