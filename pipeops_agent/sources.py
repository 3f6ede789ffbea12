"""Where the agent finds what it starts from: the machine it is on, its state, its tokens, its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from twisted.internet.interfaces import IReactorTime

from pipeops_agent.clock import WallClock
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.config import SERVICE_ACCOUNT, account_namespace
from pipeops_agent.cluster.errors import ClusterError
from pipeops_agent.cluster.finding import Surroundings, home_namespace, uses_service_account
from pipeops_agent.cluster.lease import LeaseGate
from pipeops_agent.cluster.resources import NAMESPACES
from pipeops_agent.cluster.secret_store import SecretStateStore
from pipeops_agent.gate import OpenGate, StartGate
from pipeops_agent.identity import cluster_agent_id, new_agent_id
from pipeops_agent.net import ClientTLS, TLSFileProblem
from pipeops_agent.settings import Loaded, Settings
from pipeops_agent.settings.problems import Problem
from pipeops_agent.state import (
    FileStateStore,
    StateStore,
    Unavailable,
    find_state_file,
    kept_state_files,
)
from pipeops_agent.tokens import FileToken, SettingsToken, TokenSource


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the agent takes from the machine and the process that it runs in.

    @ivar environ: the environment, and C{home} the user's directory: where the state may be.
    @ivar random_bytes: makes so many random bytes, for an id.
    @ivar service_account: where a pod's service account is mounted.
    """

    hostname: str
    environ: Mapping[str, str]
    home: Path
    wall: WallClock
    random_bytes: Callable[[int], bytes]
    service_account: Path = SERVICE_ACCOUNT

    @property
    def cluster_surroundings(self) -> Surroundings:
        """What of it decides which cluster is meant."""
        return Surroundings(
            environ=self.environ,
            wall=self.wall,
            hostname=self.hostname,
            service_account=self.service_account,
        )


class Home(msgspec.Struct, frozen=True, kw_only=True):
    """
    The cluster that an agent lives in, where it does.

    @ivar namespace: the agent's own.
    """

    api: Api
    namespace: str


def home_of(settings: Settings, host: Host, api: Api) -> Home | None:
    """Where the agent lives; None: in no cluster, or in none that it serves."""
    if not uses_service_account(settings.kubernetes, host.environ):
        return None
    return Home(api=api, namespace=home_namespace(settings, account_namespace(host.service_account)))


def state_store(settings: Settings, host: Host, home: Home | None = None) -> StateStore:
    """
    Where the state is kept: in the file that the settings name; else, where the agent has a home, in its
    Secret there; else at the first place that has one.
    """
    named = settings.agent.state_file
    if home is not None and not named:
        return SecretStateStore(home.api, home.namespace, settings.kubernetes.state_secret, wall=host.wall)
    path = Path(named) if named else lambda: find_state_file(host.environ, host.home)
    return FileStateStore(path, wall=host.wall)


def start_gate(
    clock: IReactorTime, settings: Settings, host: Host, home: Home | None, say: Callable[[str], None]
) -> StartGate:
    """
    Who may be active: by a Lease where the settings want one and the agent has a home; else this one.

    @param say: told why this agent waits.
    """
    if home is None or not settings.agent.leader_election:
        return OpenGate()
    # Of a pod that was made anew with its old name (a stateful set's) the one before is another one.
    name = settings.agent.pod_name or host.hostname
    return LeaseGate(
        clock,
        home.api,
        home.namespace,
        settings.kubernetes.lease,
        identity=f"{name}_{host.random_bytes(4).hex()}",
        strict=settings.leader_election.strict,
        wall=host.wall,
        say=say,
    )


async def make_agent_id(settings: Settings, host: Host, home: Home | None) -> str:
    """
    A new id: of the cluster and the namespace where the agent lives in one, else of this host.

    @raise Unavailable: the cluster can't be asked who it is.
    """
    if home is None:
        return new_agent_id(host.hostname, host.random_bytes)
    try:
        found = await home.api.get(_Uid, NAMESPACES, "kube-system")
    except ClusterError as error:
        raise Unavailable(
            f"an agent's id is made of the UID of the namespace kube-system, which can't be had:"
            f" {error.sentence} (right: get on namespaces/kube-system; or set agent.id)"
        ) from error
    return cluster_agent_id(settings.agent.cluster_name, found.metadata.uid, home.namespace)


class _Meta(msgspec.Struct, frozen=True):
    uid: str


class _Uid(msgspec.Struct, frozen=True):
    metadata: _Meta


def kept_states(settings: Settings, host: Host, home: Home | None = None) -> list[StateStore]:
    """
    Every place that has a state, or may have one that can't be looked at.

    An agent uses one; but were only that one emptied, a state of earlier days in another place would be
    found at the next start.
    """
    named = settings.agent.state_file
    if home is not None and not named:
        return [state_store(settings, host, home)]
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
    serving = loaded.settings.server.tls
    named = (
        (
            "server.tls.cert_file",
            ClientTLS(cert_file=serving.cert_file, key_file=serving.key_file, verify=False),
        ),
        ("pipeops.tls.ca_file", ClientTLS(ca_file=tls.ca_file)),
        ("pipeops.tls.cert_file", ClientTLS(cert_file=tls.cert_file, key_file=tls.key_file, verify=False)),
    )
    for path, files in named:
        try:
            files.for_host("localhost")
        except TLSFileProblem as error:
            key = str(error).startswith("key file")
            found.append((path.replace("cert_file", "key_file") if key else path, str(error)))
    return [
        Problem(path, f"{reason}; mend that, or name another file", loaded.origins.get(path))
        for path, reason in found
    ]
