"""Who this agent is: an id that is made once and then kept."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from twisted.logger import Logger

from pipeops_agent.state import Conflict, State, StateStore, Stored

LABEL_LIMIT: Final = 63
"""The characters of a DNS label (RFC 1035, 2.3.4): an id is used as one."""
_RANDOM_BYTES: Final = 6
_DIGEST_DIGITS: Final = 12
_ATTEMPTS: Final = 5

_log = Logger(namespace="state")


def new_agent_id(hostname: str, random: Callable[[int], bytes]) -> str:
    """
    An id for an agent on a host of its own: C{agent-<hostname>-<12 hex digits>}, a DNS label.

    @param random: returns as many random bytes as it is asked for (C{secrets.token_bytes}): hosts that were
        cloned have the same name.
    """
    return _join(hostname, random(_RANDOM_BYTES).hex())


def cluster_agent_id(cluster_name: str, kube_system_uid: str, namespace: str) -> str:
    """
    The id of an agent in a cluster: C{agent-<cluster name>-<12 hex digits>}, a DNS label.

    The digits are the first of SHA-256 over C{<kube_system_uid>/<namespace>}, so that a lost Secret gives
    the same agent, and two namespaces or two clusters of one name give two.

    @param kube_system_uid: the UID of the namespace C{kube-system}, which lives as long as its cluster.
    @param namespace: the agent's own.
    @raise ValueError: the UID or the namespace is empty: agents all over the world would share the id.
    """
    if not kube_system_uid or not namespace:
        raise ValueError(
            "an agent's id needs the UID of the namespace kube-system, and the agent's namespace"
        )
    digest = hashlib.sha256(f"{kube_system_uid}/{namespace}".encode()).hexdigest()
    return _join(cluster_name, digest[:_DIGEST_DIGITS])


def _join(name: str, suffix: str) -> str:
    # Letters lose their accents instead of being lost themselves.
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    room = LABEL_LIMIT - len("agent--") - len(suffix)
    label = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:room].rstrip("-")
    return f"agent-{label or 'host'}-{suffix}"


async def establish(store: StateStore, *, configured: str, make: Callable[[], Awaitable[str]]) -> Stored:
    """
    The state of this agent, with an id: the stored one, or a new one, which is stored before it is used.

    @param configured: the id that the settings ask for; empty: none. It replaces a stored one.
    @param make: makes a new id, where none is stored; it may raise L{Unavailable} itself.
    @raise Unavailable: the store can't be read or written: wait, and ask again. No id is made.
    @raise Conflict: others write all the time.
    """
    for _ in range(_ATTEMPTS):
        stored = await store.load()
        if stored.state is None:
            state = State(agent_id=configured or await make())
        elif configured and configured != stored.state.agent_id:
            _log.warn(
                "the settings name this agent {agent_id}; until now it was {stored_id}",
                agent_id=configured,
                stored_id=stored.state.agent_id,
            )
            state = msgspec.structs.replace(stored.state, agent_id=configured)
        else:
            return stored
        try:
            saved = await store.save(state, stored.version)
        except Conflict:
            continue  # another replica was first: then its id is ours
        return msgspec.structs.replace(saved, note=stored.note)
    raise Conflict(f"{store.describe()} is being changed all the time")
