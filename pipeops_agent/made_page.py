"""Pages of the documentation that are made from the code, by a command that also checks them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def make_page(arguments: Sequence[str], *, module: str, file: Path, render: Callable[[], str]) -> int:
    """
    Write the page; or with C{--check} say only whether it is up to date.

    @param arguments: of the command line; a file's name stands for C{file}.
    @param module: what is run to write it, for people.
    @return: the exit status.
    """
    words = list(arguments)
    check = "--check" in words
    if check:
        words.remove("--check")
    if len(words) > 1 or any(word.startswith("-") for word in words):
        _say(f"usage: python -m {module} [--check] [FILE]   (FILE: {file})")
        return 2
    file = Path(words[0]) if words else file
    page = render()
    if not check:
        file.write_text(page, encoding="utf-8")
        return 0
    if file.is_file() and file.read_text(encoding="utf-8") == page:
        return 0
    _say(f"{file} is stale: run python -m {module} and commit what it writes")
    return 1


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
