"""
Our programs in Go: each built once for each state of its sources, into a cache outside the checkout.

``PIPEOPS_CACHE`` names the cache's directory; the default is C{~/.cache/pipeops-agent}.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import SkipTest

_SOURCES = Path(__file__).parent
_BUILD_SECONDS = 600
"""A cold machine downloads the modules and compiles the standard library first."""


def gochisel() -> str:
    """
    Return the path of the C{gochisel} program, built if need be.

    @raise SkipTest: there is no Go here; with the environment variable C{CI} set that is an error
        instead, so that a pipeline can't lose these tests unnoticed.
    """
    return _built("gochisel")


def gohub() -> str:
    """Return the path of the C{gohub} program, in the same way."""
    return _built("gohub")


def goinformer() -> str:
    """Return the path of the C{goinformer} program, in the same way."""
    return _built("goinformer")


def chisel() -> str:
    """Return the path of chisel itself, named by the environment variable C{CHISEL}, or skip the test."""
    program = os.environ.get("CHISEL", "")
    if not program:
        raise SkipTest("the environment variable CHISEL does not name a chisel program")
    if not os.access(program, os.X_OK):
        raise RuntimeError(f"CHISEL is {program!r}, which can't be executed")
    return program


def cache() -> Path:
    """The directory for what is built once and used by every run."""
    named = os.environ.get("PIPEOPS_CACHE", "")
    return Path(named) if named else Path.home() / ".cache" / "pipeops-agent"


def _built(name: str) -> str:
    sources = _SOURCES / name
    program = cache() / f"{name}-{_digest(sources)}"
    if not program.exists():
        _build(_go(), sources, program)
    return str(program)


def _go() -> str:
    go = shutil.which("go")
    if go is None:
        reason = "`go` is not on PATH: the Go peers can't be built"
        if os.environ.get("CI"):
            raise RuntimeError(reason)
        raise SkipTest(reason)
    return go


def _digest(sources: Path) -> str:
    digest = hashlib.sha256()
    for source in sorted(sources.iterdir()):
        if source.suffix in {".go", ".mod", ".sum"} and not source.name.endswith("_test.go"):
            digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build(go: str, sources: Path, program: Path) -> None:
    """Compile into a file beside C{program} and rename it: two builds at once don't meet."""
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent, prefix="building-") as room:
        made = Path(room) / program.name
        done = subprocess.run(
            [go, "build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-o", str(made), "."],
            cwd=sources,
            env={**os.environ, "CGO_ENABLED": "0"},
            capture_output=True,
            timeout=_BUILD_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"go build failed:\n{done.stderr.decode(errors='replace')}")
        made.replace(program)
