"""
The inputs that are kept: one text file per target, one input per line, C{name hex}.

C{python -m tests.fuzz --seeds} writes those that begin with C{seed-}; the others were found, and stay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOM: Final = Path(__file__).parent / "corpus"

SEED: Final = "seed-"


def path_of(target: str) -> Path:
    """The file of a target's inputs."""
    return ROOM / f"{target}.txt"


def kept(target: str) -> dict[str, bytes]:
    """A target's inputs by name."""
    path = path_of(target)
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return {name: bytes.fromhex(text) for name, _, text in pairs}


def keep(target: str, inputs: dict[str, bytes]) -> None:
    """Write a target's inputs, in the order of their names."""
    ROOM.mkdir(exist_ok=True)
    lines = [f"{name} {data.hex()}".rstrip() for name, data in sorted(inputs.items())]
    path_of(target).write_text("\n".join(lines) + "\n")
