#!/usr/bin/env python3
"""
Read what trial printed: ``trial_summary.py [--may-skip WORD] LOG…``.

Prints ``PASSED FAILED SKIPPED`` summed over the logs. Every skip is listed on standard error with its reason;
with ``--may-skip WORD`` a skip whose reason does not hold the word counts as a failure: in CI a test runs, or
there is a named reason why it can't. A log without trial's last line is a failure: trial did not get so far.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

SUMMARY = re.compile(r"^(?:PASSED|FAILED) \((?P<counts>[^)]*)\)$", re.MULTILINE)
RULE = re.compile(r"^(?:={79}|-{79})\n", re.MULTILINE)
FAILING = ("failures", "errors", "unexpectedSuccesses")


def counts(text: str) -> dict[str, int]:
    """What trial's last line says: C{"successes": 12, "skips": 1}."""
    last = SUMMARY.findall(text)
    if not last:
        raise ValueError("trial's last line is missing")
    pairs = (pair.split("=") for pair in last[-1].split(", ") if pair)
    return {name: int(number) for name, number in pairs}


def skips(text: str) -> list[tuple[str, str]]:
    """Every skipped test with its reason."""
    found = []
    for block in RULE.split(text):
        if block.startswith("[SKIPPED]\n"):
            reason, _, names = block.removeprefix("[SKIPPED]\n").rstrip("\n").rpartition("\n\n")
            found += [(name, " ".join(reason.split())) for name in names.split("\n")]
    return found


def summary(text: str, may_skip: str | None) -> tuple[int, int, int, list[str]]:
    """Passed, failed, skipped, and a line for each skip or other thing that a reader should know."""
    try:
        said = counts(text)
    except ValueError as error:
        return 0, 1, 0, [str(error)]
    passed = said.get("successes", 0) + said.get("expectedFailures", 0)
    failed = sum(said.get(kind, 0) for kind in FAILING)
    skipped = skips(text)
    remarks = [f"skipped: {name}: {reason}" for name, reason in skipped]
    if len(skipped) != said.get("skips", 0):
        remarks.append(f"trial counts {said.get('skips', 0)} skips, its report shows {len(skipped)}")
        failed += 1
    if may_skip is not None:
        unfounded = [name for name, reason in skipped if may_skip not in reason]
        remarks += [f"must not be skipped here: {name}" for name in unfounded]
        failed += len(unfounded)
    if passed == 0 and failed == 0:
        remarks.append("no test ran")
        failed = 1
    return passed, failed, len(skipped), remarks


def main(arguments: list[str]) -> None:
    """Sum up the logs that C{arguments} name."""
    may_skip = None
    if arguments[:1] == ["--may-skip"]:
        may_skip, arguments = arguments[1], arguments[2:]
    total = [0, 0, 0]
    for name in arguments:
        *numbers, remarks = summary(Path(name).read_text(encoding="utf-8", errors="replace"), may_skip)
        total = [before + more for before, more in zip(total, numbers, strict=True)]
        for remark in remarks:
            print(remark, file=sys.stderr)
    print(*total)


if __name__ == "__main__":
    main(sys.argv[1:])
