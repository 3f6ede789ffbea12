#!/usr/bin/env python3
"""
Print one of README.md's commands: ``readme_command.py run|test [README.md]``.

A command is the one line of the fenced block that follows ``<!-- command: NAME -->``. Whoever needs a command
takes it from here, so that what is documented is what is tested.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def readme_command(name: str, text: str) -> str:
    """The command called C{name} in C{text}; C{ValueError} unless it is there once, on one line."""
    blocks = re.findall(rf"<!-- command: {re.escape(name)} -->\s*```sh\n(.*?)\n```", text, re.DOTALL)
    if len(blocks) != 1:
        raise ValueError(f"expected one command {name!r} in the README, found {len(blocks)}")
    if "\n" in blocks[0]:
        raise ValueError(f"the command {name!r} is not one line: {blocks[0]!r}")
    return str(blocks[0])


if __name__ == "__main__":
    readme = Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parents[1] / "README.md")
    print(readme_command(sys.argv[1], readme.read_text(encoding="utf-8")))
