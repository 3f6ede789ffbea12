"""What this program is: its version, and what it was made from. C{/version} and C{User-Agent} say it."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata, resources

import msgspec
from twisted.copyright import version as twisted_version

from pipeops_agent import __version__

DISTRIBUTION = "pipeops-agent"
UNKNOWN = "unknown"
_BUILD_FILE = "_build.json"


class BuildInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of C{/version}, field by field."""

    version: str
    git_commit: str
    build_date: str
    python_version: str
    twisted_version: str
    full_version: str


class _BuildFile(msgspec.Struct, frozen=True):
    """C{pipeops_agent/_build.json}, which the image's build writes; a checkout has none."""

    git_commit: str = UNKNOWN
    build_date: str = UNKNOWN


@cache
def build_info() -> BuildInfo:
    """What is running here. Read once: neither the version nor the file changes under a process."""
    return describe(installed_version(), _packaged())


def describe(version: str, build_file: bytes | None) -> BuildInfo:
    """
    Put together what C{/version} says.

    @param build_file: the text of C{_build.json}; None where there is none. A damaged one is as good
        as none: a missing commit must not keep an agent from starting.
    """
    try:
        made = msgspec.json.decode(build_file or b"{}", type=_BuildFile)
    except msgspec.DecodeError:
        made = _BuildFile()
    python = platform.python_version()
    origin = "" if made.git_commit == UNKNOWN else f" ({made.git_commit[:12]}, {made.build_date})"
    return BuildInfo(
        version=version,
        git_commit=made.git_commit,
        build_date=made.build_date,
        python_version=python,
        twisted_version=twisted_version,
        full_version=f"{DISTRIBUTION} {version}{origin} Python {python} Twisted {twisted_version}",
    )


def installed_version(distribution: str = DISTRIBUTION) -> str:
    """The version that was installed; the package's own where it runs from a checkout."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return __version__


def _packaged() -> bytes | None:
    try:
        return resources.files("pipeops_agent").joinpath(_BUILD_FILE).read_bytes()
    except OSError:
        return None
