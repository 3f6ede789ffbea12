"""Two ways to make inputs: atheris, led by the code that they reach; without it, mutation of the corpus."""

from __future__ import annotations

import importlib
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from tests.fuzz.corpus import kept
from tests.fuzz.targets import MAX_INPUT, TARGETS, attempt, guarded

MEMORY: Final = 256 * 1024
"""KiB that a target's process may grow by in the second half of a run: caches are filled by then."""

_PROGRESS: Final = 10.0
"""Seconds between two lines about how far a run is."""


class Run:
    """Counts what is tried; prints how it goes; ends the process at the first finding."""

    def __init__(self, name: str, runs: int, findings: Path) -> None:
        self.name = name
        self._target = TARGETS[name]
        self._runs = runs
        self._findings = findings
        self._began = self._said = time.monotonic()
        self._half: int | None = None
        self.count = 0

    def one(self, data: bytes, logged: list[dict[str, object]]) -> None:
        """Try one input."""
        try:
            attempt(self._target, data, logged)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            self._found(data, error)
        self.count += 1
        if self.count % 256 == 0 and time.monotonic() - self._said > _PROGRESS:
            self._said = time.monotonic()
            print(f"{self.name}: {self._rate()}", flush=True)
        if self._half is None and self.count * 2 >= self._runs:
            self._half = _peak()

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._began, 0.001)
        return f"{self.count} inputs, {self.count / seconds:.0f}/s"

    def _found(self, data: bytes, error: BaseException) -> NoReturn:
        """Write down what went wrong, and with what."""
        self._findings.mkdir(parents=True, exist_ok=True)
        path = self._findings / f"{self.name}-{hash(data) & 0xFFFFFFFF:08x}"
        path.write_bytes(data)
        print(f"{self.name}: FOUND after {self._rate()}: {type(error).__name__}: {error}", flush=True)
        print(f"{self.name}: replay with: python -m tests.fuzz --replay {self.name} {path}", flush=True)
        raise error

    def over(self) -> int:
        """Say what was done; return the exit status."""
        grown = _peak() - (self._half or 0)
        print(f"{self.name}: done, {self._rate()}, {grown} KiB more in the second half", flush=True)
        if grown > MEMORY:
            print(f"{self.name}: FOUND: more than {MEMORY} KiB of growth", flush=True)
            return 1
        return 0


def _peak() -> int:
    """The most memory that this process has had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def mutate(pool: Sequence[bytes], randomness: random.Random) -> bytes:
    """An input made of one or two others, by a few of the changes that break parsers."""
    data = bytearray(randomness.choice(pool))
    for _ in range(1 << randomness.randrange(5)):
        place = randomness.randrange(len(data) + 1)
        change = randomness.randrange(7)
        if change == 0 and data:
            data[place % len(data)] ^= 1 << randomness.randrange(8)
        elif change == 1 and data:
            data[place % len(data)] = randomness.choice(
                (0, 1, 0x7F, 0x80, 0xFE, 0xFF, randomness.randrange(256))
            )
        elif change == 2:
            data[place:place] = randomness.randbytes(randomness.randrange(1, 9))
        elif change == 3:
            del data[place : place + randomness.randrange(1, 9)]
        elif change == 4:
            data[place:place] = data[place : place + randomness.randrange(1, 65)]
        elif change == 5:
            other = randomness.choice(pool)
            start = randomness.randrange(len(other) + 1)
            data[place:] = other[start : start + randomness.randrange(1, 257)]
        else:
            data += randomness.randbytes(randomness.randrange(1, 65))
    return bytes(data[:MAX_INPUT])


def run_mutation(name: str, runs: int, seed: int, findings: Path) -> int:
    """Try C{runs} inputs made of the corpus, and some made of nothing; return the exit status."""
    randomness = random.Random(f"{name} {seed}")
    pool = list(kept(name).values()) or [b""]
    run = Run(name, runs, findings)
    with guarded() as logged:
        for count in range(runs):
            if count % 8:
                data = mutate(pool, randomness)
            else:
                data = randomness.randbytes(randomness.choice((5, 20, 80, 300, 1000)))
            run.one(data, logged)
    return run.over()


def run_atheris(name: str, runs: int, seed: int, findings: Path) -> NoReturn:
    """Let atheris make C{runs} inputs. The process ends here: any other way out is a finding to atheris."""
    atheris = importlib.import_module("atheris")
    run = Run(name, runs, findings)
    room = Path(tempfile.mkdtemp(prefix="pipeops-fuzz-"))
    for kept_as, data in kept(name).items():
        (room / kept_as).write_bytes(data)

    def leave(status: int) -> NoReturn:
        shutil.rmtree(room, ignore_errors=True)
        sys.stdout.flush()
        os._exit(status)

    def one(data: bytes) -> None:
        if run.count >= runs:
            leave(run.over())
        try:
            run.one(data, logged)
        except BaseException:
            traceback.print_exc()
            leave(1)

    options = [f"-seed={seed + 1}", f"-max_len={MAX_INPUT}", "-print_final_stats=0", "-verbosity=0"]
    with guarded() as logged:
        atheris.Setup(["fuzz", *options, "-timeout=60", "-rss_limit_mb=2048", str(room)], one)
        atheris.Fuzz()
    raise AssertionError("atheris ends the process")
