"""The project's wheel and source distribution, built once for all tests from a copy of the checkout."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Final

from tests.quality.checkout import ROOT, files

BUILD_TIMEOUT: Final = 120.0


@cache
def copied() -> Path:
    """A copy of the checkout, with what a used one has beside its sources; removed at the process's end."""
    place = Path(tempfile.mkdtemp(prefix="pipeops-packaging-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    tree = place / "tree"
    for path in files():
        target = tree / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    plugins = tree / "twisted" / "plugins"
    (plugins / "dropin.cache").write_bytes(b"left by twistd")
    (plugins / "__pycache__").mkdir()
    (plugins / "__pycache__" / "pipeops_agent_plugin.cpython-311.pyc").write_bytes(b"left by Python")
    return tree


@cache
def built() -> Path:
    """A directory with the wheel and the source distribution; the tools are those of this environment."""
    out = copied().parent / "dist"
    command = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel", "--outdir", str(out)]
    done = subprocess.run(
        [*command, str(copied())], capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT
    )
    if done.returncode:
        raise AssertionError(f"the build failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return out


def wheel_names() -> list[str]:
    """What the wheel holds."""
    (wheel,) = built().glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def wheel_metadata() -> str:
    """The wheel's C{METADATA}."""
    (wheel,) = built().glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(name).decode()


def sdist_names() -> list[str]:
    """What the source distribution holds, without its top directory."""
    (sdist,) = built().glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        return [member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()]


@cache
def unpacked() -> Path:
    """The wheel as it lies in a site-packages."""
    place = copied().parent / "site-packages"
    (wheel,) = built().glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)  # noqa: S202 - our own wheel, made a moment ago
    return place
