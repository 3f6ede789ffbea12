"""C{/api/settings}: every value that holds, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec

from pipeops_agent.settings import Loaded, Origin, Settings, compare, way_to_control_plane
from pipeops_agent.settings.report import rows


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """
    One setting, or one part of a list or mapping.

    @ivar path: where it stands in a settings file: C{tunnel.forwards[1].name}.
    @ivar value: what holds now, as it is written in a settings file; a secret as its length and a short hash.
    @ivar secret: whether C{value} stands for a secret.
    @ivar live: whether a changed value takes effect without a restart, by SIGHUP.
    @ivar changed: another value has been read by SIGHUP; it takes effect at the next start.
    """

    path: str
    value: str
    origin: Origin
    secret: bool
    live: bool
    changed: bool


class SettingsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """
    All settings.

    @ivar file: the settings file; null: there was none.
    @ivar control_plane: how the control plane is reached: directly, or through which proxy.
    @ivar cautions: what is allowed, and should be known.
    """

    file: str | None
    control_plane: str
    cautions: tuple[str, ...]
    settings: tuple[Setting, ...]


class SettingsView:
    """
    Reads the settings of the running agent.

    @param loaded: what was read last.
    @param present: those that hold.
    """

    def __init__(self, loaded: Callable[[], Loaded], present: Callable[[], Settings]) -> None:
        self._loaded = loaded
        self._present = present

    def now(self) -> SettingsAnswer:
        """All of them, at this moment."""
        loaded, present = self._loaded(), self._present()
        changed = frozenset(compare(present, loaded.settings).restart)
        return SettingsAnswer(
            file=None if loaded.file is None else str(loaded.file),
            control_plane=way_to_control_plane(loaded),
            cautions=loaded.cautions,
            settings=tuple(
                Setting(
                    path=row.path,
                    value=row.value,
                    origin=row.origin,
                    secret=row.definition.kind.secret,
                    live=row.definition.about.live,
                    changed=row.definition.path in changed,
                )
                for row in rows(replace(loaded, settings=present))
            ),
        )
