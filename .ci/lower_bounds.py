#!/usr/bin/env python3
"""
Show that an environment has the lowest versions: ``lower_bounds.py PYPROJECT``, by its Python.

Prints each run-time dependency with its version, and fails where one is newer than its bound: then another
dependency asks for more than ours does, the bound is untested, and should say what is really needed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path


def lower_bounds(requirements: list[str]) -> dict[str, str]:
    """Each distribution's name with the version after C{>=}."""
    found = (re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement) for requirement in requirements)
    return {match[1]: match[2] for match in found if match}


def same(version: str, bound: str) -> bool:
    """Whether both name one release: C{25.5} is C{25.5.0}."""
    return re.sub(r"(\.0)+$", "", version) == re.sub(r"(\.0)+$", "", bound)


def main(pyproject: str) -> int:
    """Compare; return the exit status."""
    table = tomllib.loads(Path(pyproject).read_text(encoding="utf-8"))
    status = 0
    for name, bound in lower_bounds(table["project"]["dependencies"]).items():
        version = metadata.version(name)
        print(f"{name} {version}" + ("" if same(version, bound) else f"  but the bound is {bound}"))
        status |= not same(version, bound)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
