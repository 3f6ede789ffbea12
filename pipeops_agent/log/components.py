"""The components that records come from, by the names that C{logging.levels} takes."""

from __future__ import annotations

from typing import Final

AUDIT: Final = "audit"
"""What was done through the agent: shown whatever the level, unless it has one of its own."""

COMPONENTS: Final = (
    "access",
    "agent",
    AUDIT,
    "cluster",
    "controlplane",
    "events",
    "heartbeat",
    "lease",
    "log",
    "net",
    "realtime",
    "sandbox",
    "scheduling",
    "settings",
    "state",
    "tunnel",
    "tunnel.canary",
    "tunnel.carrier",
    "tunnel.forward",
    "tunnel.session",
    "tunnel.ssh",
    "web",
)
"""The agent's own: the namespace of each of its loggers. A test compares them with the source."""

LIBRARIES: Final = ("asyncio", "autobahn", "twisted", "txaio")
"""Those of the libraries that log; theirs are called after their modules."""


def is_component(name: str) -> bool:
    """Whether a level for C{name} can ever decide about a record."""
    return name in COMPONENTS or name.partition(".")[0] in LIBRARIES
