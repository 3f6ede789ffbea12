"""Where the agent finds what it starts from: the machine it is on, its state, its tokens, its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from pipeops_agent.clock import WallClock
from pipeops_agent.net import ClientTLS, TLSFileProblem
from pipeops_agent.settings import Loaded, Settings
from pipeops_agent.settings.problems import Problem
from pipeops_agent.state import FileStateStore, StateStore, find_state_file, kept_state_files
from pipeops_agent.tokens import FileToken, SettingsToken, TokenSource


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the agent takes from the machine and the process that it runs in.

    @ivar environ: the environment, and C{home} the user's directory: where the state may be.
    @ivar random_bytes: makes so many random bytes, for an id.
    """

    hostname: str
    environ: Mapping[str, str]
    home: Path
    wall: WallClock
    random_bytes: Callable[[int], bytes]


def state_store(settings: Settings, host: Host) -> StateStore:
    """Where the state is kept: in the file that the settings name, else at the first place that has one."""
    named = settings.agent.state_file
    path = Path(named) if named else lambda: find_state_file(host.environ, host.home)
    return FileStateStore(path, wall=host.wall)


def kept_states(settings: Settings, host: Host) -> list[StateStore]:
    """
    Every place that has a state, or may have one that can't be looked at.

    An agent uses one; but were only that one emptied, a state of earlier days in another place would be
    found at the next start.
    """
    named = settings.agent.state_file
    paths = [Path(named)] if named else kept_state_files(host.environ, host.home)
    return [FileStateStore(path, wall=host.wall) for path in paths]


def token_source(settings: Settings) -> TokenSource:
    """Where the API token comes from: a file, or the settings themselves."""
    pipeops = settings.pipeops
    return FileToken(Path(pipeops.token_file)) if pipeops.token_file else SettingsToken(pipeops.token)


def unusable_files(loaded: Loaded) -> list[Problem]:
    """What is wrong with the files without which no call can be made; nothing of their content is told."""
    pipeops = loaded.settings.pipeops
    tls = pipeops.tls
    found: list[tuple[str, str]] = []
    if pipeops.token_file:
        problem = FileToken(Path(pipeops.token_file)).problem
        if problem is not None:
            found.append(("pipeops.token_file", f"{pipeops.token_file}: {problem}"))
    named = (
        ("pipeops.tls.ca_file", ClientTLS(ca_file=tls.ca_file)),
        ("pipeops.tls.cert_file", ClientTLS(cert_file=tls.cert_file, key_file=tls.key_file, verify=False)),
    )
    for path, files in named:
        try:
            files.for_host("localhost")
        except TLSFileProblem as error:
            key = str(error).startswith("key file")
            found.append(("pipeops.tls.key_file" if key else path, str(error)))
    return [
        Problem(path, f"{reason}; mend that, or name another file", loaded.origins.get(path))
        for path, reason in found
    ]


def cluster_token_source(settings: Settings) -> TokenSource:
    """The token that the control plane may use on the tunnelled API; none unless a file is named."""
    path = settings.pipeops.cluster_token_file
    return FileToken(Path(path)) if path else SettingsToken(None)
