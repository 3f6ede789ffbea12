"""
The fuzzer's command, from the root of the checkout::

    python -m tests.fuzz --runs 1000000         # all targets, a million inputs in all
    python -m tests.fuzz --runs 100000 --target connection --seed 7
    python -m tests.fuzz --replay connection FILE
    python -m tests.fuzz --seeds                # writes the seeds in tests/fuzz/corpus anew

Each target runs in a process of its own; a finding ends it, and the input is left in C{.fuzz/}. The exit
status is 0 where nothing was found.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Final

FINDINGS: Final = Path(".fuzz")

INSTRUMENTED: Final = ("pipeops_agent.tunnel", "pipeops_agent.controlplane")
"""What atheris watches the coverage of."""


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit status."""
    options = _parse(arguments)
    if options.seeds:
        from tests.fuzz.seeds import write_seeds

        write_seeds()
        return 0
    if options.replay:
        return _replay(*options.replay)
    if options.only:
        return _one(options)
    return _all(options)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--runs", type=int, default=10_000, help="inputs in all, shared by the targets")
    parser.add_argument("--target", action="append", help="only this one; may be given again")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--engine", choices=["atheris", "mutation"], help="atheris where it is installed")
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "FILE"), help="try one input")
    parser.add_argument("--seeds", action="store_true", help="write the corpus's seeds anew")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one target, in this process
    return parser.parse_args(arguments)


def _all(options: argparse.Namespace) -> int:
    """Run the targets, one after the other, each in a process that it may take with it."""
    from tests.fuzz.targets import TARGETS

    names = options.target or list(TARGETS)
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        print(f"no such target: {', '.join(unknown)}; there are: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    shares = sum(TARGETS[name].share for name in names)
    failed = []
    for name in names:
        runs = max(options.runs * TARGETS[name].share // shares, 1)
        command = [sys.executable, "-m", "tests.fuzz", "--only", name, "--runs", str(runs)]
        command += ["--seed", str(options.seed)]
        command += ["--engine", options.engine] if options.engine else []
        if subprocess.run(command, check=False).returncode != 0:
            failed.append(name)
    print(f"{len(names) - len(failed)} targets without a finding" + (f"; FOUND: {failed}" if failed else ""))
    return 1 if failed else 0


def _one(options: argparse.Namespace) -> int:
    atheris = options.engine != "mutation" and _instrument()
    if options.engine == "atheris" and not atheris:
        print("atheris is not installed", file=sys.stderr)
        return 2
    from tests.fuzz import engine  # after the package was instrumented, or left as it is

    print(f"{options.only}: {options.runs} inputs by {'atheris' if atheris else 'mutation'}", flush=True)
    run = engine.run_atheris if atheris else engine.run_mutation
    return run(options.only, options.runs, options.seed, FINDINGS)


def _instrument() -> bool:
    """Import what is fuzzed so that atheris sees what an input reaches; False where there is no atheris."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        return False
    with (
        redirect_stderr(StringIO()),
        atheris.instrument_imports(include=list(INSTRUMENTED)),
    ):  # it lists them all
        importlib.import_module("tests.fuzz.targets")
    return True


def _replay(name: str, path: str) -> int:
    from tests.fuzz.targets import TARGETS, attempt, guarded

    with guarded() as logged:
        attempt(TARGETS[name], Path(path).read_bytes(), logged)
    print("nothing was found")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
