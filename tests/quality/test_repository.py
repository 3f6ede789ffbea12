"""Rules for the repository as a whole that no linter knows. They read files and start nothing."""

from __future__ import annotations

import re
import sys
from typing import Final
from urllib.parse import unquote

from twisted.trial.unittest import SynchronousTestCase

from tests.quality.checkout import ROOT, files, texts

LIMIT: Final = 512 * 1024
"""Bytes: the largest file that has a reason to be in the repository."""

MACHINES: Final = re.compile(r"(?<![\w.~/-])/(?:home|Users)/[a-z]\w+|(?<![\w.~/-])/root/\w|[A-Z]:\\Users\\")
"""A home directory on somebody's machine."""

COMMAND: Final = re.compile(r"twistd[ \w=.,/-]* -n[ \w=.,/-]*pipeops-(?:agent|sandbox)")


class FileTests(SynchronousTestCase):
    """What lies in the repository."""

    def test_no_large_files(self) -> None:
        """No file is larger than 512 KiB: test data is made by the tests."""
        large = [str(path.relative_to(ROOT)) for path in files() if path.stat().st_size > LIMIT]
        self.assertEqual(large, [])

    def test_no_machine_shows(self) -> None:
        """No file names a home directory, the place of this checkout, or the environment that runs this."""
        # A checkout in /app or the system's own Python in /usr say nothing about a machine.
        places = [str(ROOT)] if len(ROOT.parts) > 2 else []
        places += [sys.prefix] if sys.prefix != sys.base_prefix else []
        named = [
            f"{name}: {found}"
            for name, text in texts().items()
            for found in [*(place for place in places if place in text), *MACHINES.findall(text)]
        ]
        self.assertEqual(named, [])

    def test_no_init_beside_the_drop_in(self) -> None:
        """C{twisted/} holds the drop-in alone: an C{__init__.py} would hide Twisted's own package."""
        grafted = [name for name in texts() if name.startswith("twisted/")]
        self.assertEqual(grafted, ["twisted/plugins/pipeops_agent_plugin.py"])

    def test_unix_lines(self) -> None:
        """Text has Unix line ends, ends with one, and has no blanks at the end of a line."""
        wrong = [
            name
            for name, text in texts().items()
            if text and (not text.endswith("\n") or "\r" in text or re.search(r"[ \t]$", text, re.MULTILINE))
        ]
        self.assertEqual(wrong, [])


class DocumentTests(SynchronousTestCase):
    """What people read."""

    def test_links_lead_somewhere(self) -> None:
        """Every relative link of a document names a file of the repository, every anchor a heading of it."""
        broken = []
        for name, text in texts().items():
            if not name.endswith(".md"):
                continue
            prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
            for link in re.findall(r"\]\(([^)\s]+)\)", prose):
                if re.match(r"[a-z]+:", link):
                    continue
                path, _, anchor = unquote(link).partition("#")
                target = (ROOT / name).parent / path if path else ROOT / name
                if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
                    broken.append(f"{name}: {link}")
        self.assertEqual(broken, [])

    def test_documented_commands_leave_no_pid_file(self) -> None:
        """Wherever a command line runs the agent in the foreground, it passes C{--pidfile=}."""
        careless = [
            f"{name}: {command}"
            for name, text in texts().items()
            if not name.startswith("tests/")
            for command in COMMAND.findall(text)
            if "--pidfile=" not in command
        ]
        self.assertEqual(careless, [])


def anchors(document: str) -> set[str]:
    """The anchors that a Markdown document's headings make."""
    headings = re.findall(r"^#+ +(.*?) *$", document, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


EXCEPTION: Final = re.compile(r"#\s*(?:noqa: [A-Z0-9, ]+|type: ignore\[[\w, -]+\])(?P<reason>.*)$")


def unexplained(text: str) -> list[int]:
    """
    The lines of C{text} that switch a rule off without a word about it.

    It stands on the line, in a comment above, or on the first line of an unbroken run of exceptions.
    """
    silent = []
    explained = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            explained = True
            continue
        exception = EXCEPTION.search(line)
        if exception is None:
            explained = False
        elif re.search(r"\w{3}", exception["reason"]):
            explained = True
        elif not explained:
            silent.append(number)
    return silent


class LintExceptionTests(SynchronousTestCase):
    """An exception to a rule is a decision: it says why."""

    def test_reason_beside_every_exception(self) -> None:
        """Each C{noqa} and C{type: ignore} has its reason, on its line or in the comment above it."""
        silent = [
            f"{name}:{number}"
            for name, text in texts().items()
            if name.endswith(".py")
            for number in unexplained(text)
        ]
        self.assertEqual(silent, [])

    def test_what_counts_as_a_reason(self) -> None:
        """Words after the exception, or a comment above an unbroken run of them; nothing else."""
        switch = "x  # " + "noqa: E1"
        self.assertEqual(unexplained(f"{switch}\n"), [1])
        self.assertEqual(unexplained(f"{switch} - a name of theirs\n"), [])
        self.assertEqual(unexplained(f"# Names of theirs.\n{switch}\n{switch}\ny\n{switch}\n"), [5])
        self.assertEqual(unexplained(f"{switch} - names of theirs\n{switch}\ny\n{switch}\n"), [4])

    def test_reason_beside_every_configured_exception(self) -> None:
        """Each rule that C{pyproject.toml} switches off has a comment on its line."""
        text = texts()["pyproject.toml"]
        start = text.index("\nignore = [\n", text.index("[tool.ruff.lint]"))
        block = text[start : text.index("[tool.ruff.lint.flake8-tidy-imports]")]
        silent = [
            line
            for line in block.splitlines()
            if re.search(r'"(?!\*)[A-Z]+[0-9]*"', line) and not re.search(r"# \S+", line)
        ]
        self.assertEqual(silent, [])
