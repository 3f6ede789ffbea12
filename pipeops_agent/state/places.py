"""Where the state file is, or shall be, when no setting names it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pipeops_agent.state.codec import CONTENT_LIMIT
from pipeops_agent.state.disk import Disk, look, read_private
from pipeops_agent.state.model import Unavailable

SYSTEM_DIRECTORY: Final = Path("/var/lib/pipeops")
FILE_NAME: Final = "state.json"


def state_places(environ: Mapping[str, str], home: Path, system: Path = SYSTEM_DIRECTORY) -> list[Path]:
    """
    The files that may hold the state, the preferred first.

    A relative C{XDG_STATE_HOME} does not count, as its specification says; nor does a relative home.
    """
    directories = [system]
    state_home = Path(environ.get("XDG_STATE_HOME", ""))
    if state_home.is_absolute():
        directories.append(state_home / "pipeops")
    if home.is_absolute():
        directories.append(home / ".local" / "state" / "pipeops")
    return list(dict.fromkeys(directory / FILE_NAME for directory in directories))


def find_state_file(
    environ: Mapping[str, str], home: Path, *, system: Path = SYSTEM_DIRECTORY, disk: Disk | None = None
) -> Path:
    """
    The file that holds this agent's state, else the first that could be made.

    An identity is never lost for a better place. The first of the L{state_places} that can be read is it,
    wherever it is. Where none can, but one is there or may be (its directory is closed to us), that one is
    it, and loading it says why it can't be read. Only where there is surely none is it a new file, at the
    first writable place.

    @raise Unavailable: there is none, and none can be made.
    """
    disk = disk or Disk()
    places = state_places(environ, home, system)
    readable, unreadable = _taken(disk, places)
    taken = [*readable, *unreadable]
    if taken:
        return taken[0]
    for place in places:
        if _can_be_made(disk, place):
            return place
    tried = ", ".join(str(place.parent) for place in places)
    raise Unavailable(
        f"no place for the agent's state is writable (tried {tried}); "
        "make one so, or name a file with agent.state_file"
    )


def kept_state_files(
    environ: Mapping[str, str], home: Path, *, system: Path = SYSTEM_DIRECTORY, disk: Disk | None = None
) -> list[Path]:
    """
    Of the L{state_places} those where a state is, or may be since they can't be read; the preferred first.

    L{find_state_file} uses one of them. There are more where an agent's home or its rights have changed.
    """
    places = state_places(environ, home, system)
    readable, unreadable = _taken(disk or Disk(), places)
    return [place for place in places if place in (*readable, *unreadable)]


def _taken(disk: Disk, places: list[Path]) -> tuple[list[Path], list[Path]]:
    """The C{places} where there is something: those that can be read, and those that can't or may not be."""
    readable: list[Path] = []
    unreadable: list[Path] = []
    for place in places:
        try:
            if read_private(disk, place, CONTENT_LIMIT) is not None:
                readable.append(place)
        except NotADirectoryError:
            continue
        except PermissionError:
            if _is_closed_to_us(disk, place.parent):
                unreadable.append(place)
        except (OSError, Unavailable):
            unreadable.append(place)
    return readable, unreadable


def _is_closed_to_us(disk: Disk, directory: Path) -> bool:
    """
    Whether C{directory} is there, though we may not look into it. Where not even that can be known, it is
    somebody else's home (a container's C{HOME=/root}), and no agent of ours has ever been in there.
    """
    try:
        return look(disk, directory) is not None
    except OSError:
        return False


def _can_be_made(disk: Disk, place: Path) -> bool:
    directory = place.parent
    try:
        while look(disk, directory) is None:
            directory = directory.parent
        return disk.may_write(directory)
    except OSError:
        return False
