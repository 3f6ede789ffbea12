"""What the command line can ask for instead of a running agent: to look at settings, agent or state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from pipeops_agent.build import build_info
from pipeops_agent.cluster.access import ClusterAccess
from pipeops_agent.cluster.finding import Finder
from pipeops_agent.errors import ExitStatus
from pipeops_agent.launch import Surroundings
from pipeops_agent.settings import Settings, report
from pipeops_agent.sources import Host, home_of, kept_states
from pipeops_agent.state import Conflict, StateStore, Unavailable
from pipeops_agent.web.client import fetch_status

Errand = Callable[[Any, Mapping[str, Any], Surroundings], Awaitable[tuple[str, ExitStatus]]]
"""Takes the reactor, the options and the surroundings; returns what to print, and the exit status."""


async def check_config(
    reactor: Any, options: Mapping[str, Any], around: Surroundings
) -> tuple[str, ExitStatus]:
    """
    Every setting with its origin.

    @raise SettingsError: they can't be used.
    """
    return report(around.load_to_run(options)), ExitStatus.OK


async def show_status(
    reactor: Any, options: Mapping[str, Any], around: Surroundings
) -> tuple[str, ExitStatus]:
    """
    How the running agent is: 0 when it is ready or stands by.

    @raise SettingsError: where it listens can't be found out.
    """
    server = around.load(options, token_required=False).settings.server
    text, well = await fetch_status(reactor, server.bind, server.port, tls=server.tls.mode != "off")
    return text, ExitStatus.OK if well else ExitStatus.FAILURE


async def reset_state(
    reactor: Any, options: Mapping[str, Any], around: Surroundings
) -> tuple[str, ExitStatus]:
    """
    Forget who this agent is, in every place where it is kept. Nothing else ever does.

    @raise SettingsError: where the state is can't be found out.
    """
    return await reset_state_of(reactor, around.load(options, token_required=False).settings, around.host())


async def reset_state_of(reactor: Any, settings: Settings, host: Host) -> tuple[str, ExitStatus]:
    """As L{reset_state}, of this host with these settings."""
    finder = Finder(reactor, settings.kubernetes, host.cluster_surroundings)
    access = ClusterAccess(
        reactor,
        finder,
        version=build_info().version,
        observe=lambda *_: None,
        keep=lambda *_: None,  # an errand has no log
    )
    home = home_of(settings, host, access.api)
    if home is not None:
        access.look()
    said = [await _forget(store) for store in kept_states(settings, host, home)]
    await access.close()
    lines = [line for line, _ in said if line] or ["there is no state to forget"]
    well = all(done for _, done in said)
    return "\n".join(lines), ExitStatus.OK if well else ExitStatus.FAILURE


async def _forget(store: StateStore) -> tuple[str, bool]:
    """Empty C{store}; return what to say (nothing where there was nothing), and whether it is empty now."""
    try:
        stored = await store.load()
    except (Unavailable, Conflict):
        was = "what could not be read"  # a newer agent's, say: that is no reason to keep it
    else:
        if stored.state is None:
            return stored.note or "", True
        was = f"agent {stored.state.agent_id}, cluster {stored.state.cluster_id or 'not registered'}"
    try:
        await store.reset()
    except (Unavailable, Conflict) as error:
        return f"{store.describe()} was not reset: {error}", False
    return f"forgotten: {was}; a copy is kept beside {store.describe()}", True


ERRANDS: Final[Mapping[str, Errand]] = {
    "check-config": check_config,
    "status": show_status,
    "reset-state": reset_state,
}
"""By option."""
