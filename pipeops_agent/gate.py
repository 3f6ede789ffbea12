"""Who may be active: of several replicas one, alone everybody."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred


class StartGate(Protocol):
    """
    Stands between the start phase and the registration.

    In a cluster with several replicas it is a Lease; everywhere else it is L{OpenGate}.
    """

    async def enter(self) -> None:
        """
        Return when this agent may be active, however long that takes.

        Cancelled, it stops asking, and has not entered.
        """
        ...

    async def leave(self) -> None:
        """Let another be active. Without having entered, and the second time, this does nothing."""
        ...

    def when_lost(self) -> Deferred[str]:
        """
        Fires with the reason when this agent, having entered, may be active no more: it stops what it does at
        once, and may then L{enter} again. Each call gives a Deferred of its own.
        """
        ...


class OpenGate:
    """The gate of an agent that has no rivals (L{StartGate})."""

    async def enter(self) -> None:
        """Return at once."""

    async def leave(self) -> None:
        """Do nothing."""

    def when_lost(self) -> Deferred[str]:
        """Never fires."""
        return Deferred()
