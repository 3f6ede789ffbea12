"""The last attempts to connect, as the status keeps them."""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

import msgspec

from pipeops_agent.status import Attempt
from pipeops_agent.tunnel.session_api import Target

Outcome = Literal["connected", "refused", "failed", "given up"]

MAX_ATTEMPTS_SHOWN: Final = 20
"""How many attempts the status keeps."""


class AttemptBook:
    """Keeps the last of them, oldest first."""

    def __init__(self) -> None:
        self._kept: deque[Attempt] = deque(maxlen=MAX_ATTEMPTS_SHOWN)

    @property
    def shown(self) -> tuple[Attempt, ...]:
        """What the status shows."""
        return tuple(self._kept)

    def keep(self, attempt: Attempt, role: str, target: Target, outcome: Outcome) -> None:
        """
        Keep C{attempt}.

        @param role: which line made it.
        """
        self._kept.append(
            msgspec.structs.replace(
                attempt,
                server=target.server.address.url,
                role=role,
                forwards=tuple(remote.forward for remote in target.remotes),
                outcome=outcome,
            )
        )
