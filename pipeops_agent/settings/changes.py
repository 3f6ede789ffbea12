"""What a second reading of the settings has changed, and whether the running agent can take it in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from pipeops_agent.settings.definitions import DEFINITIONS, ROOT, value_at
from pipeops_agent.settings.model import Settings


@dataclass(frozen=True)
class Changes:
    """
    The paths of the settings whose values differ.

    @ivar live: those that take effect at once.
    @ivar restart: those that need a restart; until then the old values hold.
    """

    live: tuple[str, ...]
    restart: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.live or self.restart)


def compare(old: Settings, new: Settings) -> Changes:
    """Compare the values, not where they come from: a value that moved to another source is the same."""
    changed = [each for each in DEFINITIONS.values() if value_at(old, each.path) != value_at(new, each.path)]
    return Changes(
        live=tuple(each.path for each in changed if each.about.live),
        restart=tuple(each.path for each in changed if not each.about.live),
    )


def take_live(old: Settings, new: Settings) -> Settings:
    """C{old} with the live settings of C{new}: what holds in the running agent after a SIGHUP."""
    values = {
        each.path: value_at(new if each.about.live else old, each.path) for each in DEFINITIONS.values()
    }
    return cast(Settings, ROOT.build(values))
