"""What C{--check-config} prints: every value with its origin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from pipeops_agent.settings.definitions import DEFINITIONS, Definition, value_at
from pipeops_agent.settings.loading import Loaded
from pipeops_agent.settings.problems import DEFAULT, Origin
from pipeops_agent.settings.sources import DEFAULT_FILES

_MAX_COLUMN: Final = 48
"""The widest that the column of values is made; what is longer pushes its origin to the right."""


def report(loaded: Loaded) -> str:
    """
    Return one line per setting, and per element of a list: its path, its value, where it comes from.

    Secrets appear as length and short hash only. What was ignored, and what is dangerous, follows.
    """
    rows = [row for definition in DEFINITIONS.values() for row in _rows(definition, loaded)]
    first = max(len(path) for path, _, _ in rows)
    second = min(max(len(value) for _, value, _ in rows), _MAX_COLUMN)
    nowhere = f"none (looked for {' and '.join(DEFAULT_FILES)})"
    lines = [f"settings file: {loaded.file or nowhere}", ""]
    lines += [f"{path:{first}}  {value:{second}}  {origin}" for path, value, origin in rows]
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


def _rows(definition: Definition, loaded: Loaded) -> Iterator[tuple[str, str, Origin]]:
    whole = loaded.origins.get(definition.path, DEFAULT)
    value = value_at(loaded.settings, definition.path)
    for path, text in definition.kind.rows(definition.path, value):
        yield path, _visible(text), _part(path, definition.path, loaded) or whole


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
