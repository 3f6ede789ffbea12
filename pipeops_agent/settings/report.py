"""Every value with its origin: what C{--check-config} prints, and C{/api/settings} answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import msgspec

from pipeops_agent.settings.definitions import DEFINITIONS, Definition, value_at
from pipeops_agent.settings.loading import Loaded
from pipeops_agent.settings.problems import DEFAULT, Origin
from pipeops_agent.settings.sources import DEFAULT_FILES

_MAX_COLUMN: Final = 48
"""The widest that the column of values is made; what is longer pushes its origin to the right."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """
    One value.

    @ivar path: the setting's, or in a list or mapping its part's: C{tunnel.forwards[1].name}.
    @ivar value: as it is written in a settings file; a secret as its length and a short hash.
    @ivar definition: the setting's.
    """

    path: str
    value: str
    origin: Origin
    definition: Definition


def report(loaded: Loaded) -> str:
    """
    Return one line per setting, and per element of a list: its path, its value, where it comes from.

    Secrets appear as length and short hash only. What was ignored, and what is dangerous, follows.
    """
    table = [(row.path, _visible(row.value), row.origin) for row in rows(loaded)]
    first = max(len(path) for path, _, _ in table)
    second = min(max(len(value) for _, value, _ in table), _MAX_COLUMN)
    nowhere = f"none (looked for {' and '.join(DEFAULT_FILES)})"
    lines = [f"settings file: {loaded.file or nowhere}", ""]
    lines += [f"{path:{first}}  {value:{second}}  {origin}" for path, value, origin in table]
    lines += ["", f"control plane: reached {way_to_control_plane(loaded)}"]
    if loaded.ignored:
        lines += ["", *(f"ignored: {path} ({origin})" for path, origin in loaded.ignored)]
    if loaded.cautions:
        lines += ["", *(f"caution: {sentence}" for sentence in loaded.cautions)]
    return "\n".join(lines)


def way_to_control_plane(loaded: Loaded) -> str:
    """How the control plane is reached: directly, or through which proxy, named by what."""
    url = urlsplit(loaded.settings.pipeops.api_url)
    tls = url.scheme == "https"
    return loaded.proxies.way_to(url.hostname or "", url.port or (443 if tls else 80), tls=tls)


def rows(loaded: Loaded) -> Iterator[Row]:
    """Every setting, and every element of a list or mapping."""
    for definition in DEFINITIONS.values():
        whole = loaded.origins.get(definition.path, DEFAULT)
        value = value_at(loaded.settings, definition.path)
        for path, text in definition.kind.rows(definition.path, value):
            origin = _part(path, definition.path, loaded) or whole
            yield Row(path=path, value=text, origin=origin, definition=definition)


def _part(path: str, whole: str, loaded: Loaded) -> Origin | None:
    """
    Where one part of a list or mapping comes from.

    An element that leaves a field out has it by default, though the list was written somewhere.
    """
    origin = loaded.origins.get(path)
    if origin is None and path.startswith(f"{whole}["):
        element = path[: path.index("]") + 1]
        return DEFAULT if element in loaded.origins else None
    return origin


def _visible(text: str) -> str:
    """C{text} on one line; what would look like nothing is quoted."""
    return text if text and text.isprintable() and text == text.strip() else repr(text)
