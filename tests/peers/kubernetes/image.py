"""The agent's image, built as C{deploy/Dockerfile} says, on a base of Debian's packages."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final
from unittest import SkipTest

from tests.peers.building import cache

IMAGE: Final = "localhost/pipeops-agent:test"
ROOT: Final = Path(__file__).resolve().parents[3]

_SUITE: Final = "bookworm"
_PACKAGES: Final = "python3,python3-venv,ca-certificates"
_AUTHORITIES: Final = "/etc/ssl/certs/ca-certificates.crt"
_BUILD_SECONDS: Final = 600


def agent_image(directory: Path) -> Path:
    """
    Build the agent's image of this checkout; return it as a file (docker-archive), in C{directory}.

    The base is made once, and kept in the cache.

    @raise SkipTest: it can't be built here; with the environment variable C{CI} set that is an error instead.
    """
    if reason := _obstacle():
        if os.environ.get("CI"):
            raise RuntimeError(reason)
        raise SkipTest(reason)
    base, archive = _base(), directory / "agent.tar"
    with tempfile.TemporaryDirectory(dir=directory, prefix="storage-") as storage:
        named = "localhost/base:1"
        container = _buildah(storage, "from", "scratch")
        _buildah(storage, "add", "--quiet", container, str(base), "/")
        _buildah(storage, "commit", "--quiet", "--rm", container, named)
        _buildah(
            storage,
            "build",
            "--quiet",
            "--isolation=chroot",
            "--pull-never",
            f"--build-arg=BASE_IMAGE={named}",
            f"--volume={_AUTHORITIES}:{_AUTHORITIES}:ro",
            f"--file={ROOT / 'deploy/Dockerfile'}",
            f"--tag={IMAGE}",
            str(ROOT),
        )
        _buildah(storage, "push", "--quiet", IMAGE, f"docker-archive:{archive}:{IMAGE}")
    return archive


def _obstacle() -> str:
    if os.geteuid() != 0:
        return "an image is built as root here"
    for program in ("buildah", "debootstrap"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            return f"an image needs {program}, which is not installed"
    return ""


def _base() -> Path:
    """Debian with Python, as a tar."""
    made_of = hashlib.sha256(f"{_SUITE} {_PACKAGES}".encode()).hexdigest()[:12]
    base = cache() / f"debian-{made_of}.tar"
    if not base.exists():
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache(), prefix="building-") as room:
            _run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, f"{room}/base")
            # Lists and packages of apt are half of it, and nothing here uses them.
            shutil.rmtree(f"{room}/base/var/lib/apt/lists", ignore_errors=True)
            shutil.rmtree(f"{room}/base/var/cache/apt", ignore_errors=True)
            _run("tar", "--one-file-system", "-C", f"{room}/base", "-cf", f"{room}/base.tar", ".")
            Path(f"{room}/base.tar").replace(base)
    return base


def _buildah(storage: str, *arguments: str) -> str:
    where = (f"--root={storage}/root", f"--runroot={storage}/run", "--storage-driver=vfs")
    return _run("buildah", *where, *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout.strip()
