"""The state, and the interface of whatever keeps it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from pipeops_agent.secrets import Secret


class State(msgspec.Struct, frozen=True, kw_only=True):
    """
    What survives a restart.

    @ivar cluster_id: the UUID by which the control plane knows the cluster; None before the first
        registration.
    @ivar previous_cluster_id: the one before, where an answer has replaced it.
    @ivar cluster_token: the token that came with the registration, where one came.
    """

    agent_id: str
    cluster_id: str | None = None
    previous_cluster_id: str | None = None
    cluster_token: Secret | None = None

    def registered_as(self, cluster_id: str, cluster_token: Secret | None) -> State:
        """
        This agent after an answer to its registration.

        Another cluster than before replaces it, and the old one is kept beside it. An answer without a
        token leaves that of the same cluster as it is; a token of the cluster before is not kept.
        """
        if cluster_id == self.cluster_id:
            return msgspec.structs.replace(self, cluster_token=cluster_token or self.cluster_token)
        return State(
            agent_id=self.agent_id,
            cluster_id=cluster_id,
            previous_cluster_id=self.cluster_id or self.previous_cluster_id,
            cluster_token=cluster_token,
        )


class Stored(msgspec.Struct, frozen=True):
    """
    What a store holds at one moment.

    @ivar state: None where there is none yet, or none any more.
    @ivar version: stands for just this content; handed back to L{StateStore.save}. Opaque.
    @ivar note: a sentence for the operator where loading has found damage and set it aside.
    """

    state: State | None
    version: str
    note: str | None = None


class Unavailable(Exception):
    """
    The store can't be read or written now. That is not the same as empty: wait, and ask again.

    The message is a sentence for the operator, with the remedy where one is known, free of secrets.
    """


class Conflict(Exception):
    """Somebody else has written since the version to be replaced was loaded: load again, and decide."""


class StateStore(Protocol):
    """
    Keeps one L{State}.

    What C{save} has returned is kept, also when the process or the machine dies right after; where it
    dies before, the old state or the new one is there, never a mixture.
    """

    async def load(self) -> Stored:
        """
        Return what is kept.

        Content that can't be understood is set aside under another name, never overwritten, reported as
        an error and in the C{note}; then the store is empty.

        @raise Unavailable: it can't be read, or a newer agent has written it.
        """
        ...

    async def save(self, state: State, version: str) -> Stored:
        """
        Replace what is kept, provided that it is still what C{version} stands for.

        @raise Conflict: it is not; nothing was changed.
        @raise Unavailable: it can't be written.
        @raise ValueError: C{state} can't be stored: an empty or overlong name, control characters.
        """
        ...

    async def reset(self) -> None:
        """
        Forget the state, because a person said so. A copy is kept aside.

        @raise Unavailable: it can't be written.
        """
        ...

    def describe(self) -> str:
        """Where the state is kept, for people: "the file /var/lib/pipeops/state.json"."""
        ...
