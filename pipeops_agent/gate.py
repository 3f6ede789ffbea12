"""Who may be active: of several replicas one, alone everybody."""

from __future__ import annotations

from typing import Protocol


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


class OpenGate:
    """The gate of an agent that has no rivals (L{StartGate})."""

    async def enter(self) -> None:
        """Return at once."""

    async def leave(self) -> None:
        """Do nothing."""
