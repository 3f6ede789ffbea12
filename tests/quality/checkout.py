"""The checkout as the repository-wide checks see it: by its files, with git or without."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

_MADE: Final = frozenset({"__pycache__", "build", "dist", "node_modules"})
"""Directories that tools make; so is every hidden one but C{.ci}, and what trial and setuptools leave."""


def _is_source(directory: Path) -> bool:
    name = directory.name
    made = name in _MADE or name.startswith("_trial_temp") or name.endswith(".egg-info")
    return not made and (name == ".ci" or not name.startswith("."))


def _walk(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.is_symlink():
            continue
        if path.is_dir():
            if _is_source(path):
                yield from _walk(path)
        elif path.suffix not in {".pyc", ".cache"}:
            yield path


@cache
def files() -> tuple[Path, ...]:
    """Every file that belongs to the project."""
    return tuple(_walk(ROOT))


@cache
def texts() -> dict[str, str]:
    """Every text file: its path below the root, and what stands in it."""
    found = {}
    for path in files():
        try:
            found[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image or a font
    return found


@cache
def modules() -> dict[str, ast.Module]:
    """Every Python file, parsed."""
    return {name: ast.parse(text, name) for name, text in texts().items() if name.endswith(".py")}
