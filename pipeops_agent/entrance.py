"""The agent's own entrance: who may ask it what, joined from its parts."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from pipeops_agent.access.gate import Gate, NoClusterTokens
from pipeops_agent.access.guesses import Guesses
from pipeops_agent.access.limits import Limits
from pipeops_agent.access.sessions import Lifetime, Sessions
from pipeops_agent.access.tokens import StaticTokens
from pipeops_agent.own_sockets import OwnSockets
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_server import ServerSettings
from pipeops_agent.status import StatusBoard
from pipeops_agent.tokens import TokenSource
from pipeops_agent.web.access import Access


class Entrance:
    """
    Everything that decides about callers.

    @param settings: the section C{server} as it is now; asked each time.
    @param control_plane: the agent's own token, which counts where the settings have none.
    @param learn: lets the log mask a secret.
    @ivar sockets: those of the tunnel, which tells of them.
    @ivar limits: what callers take.
    @ivar access: who sent a request.
    """

    def __init__(
        self,
        clock: IReactorTime,
        settings: Callable[[], ServerSettings],
        board: StatusBoard,
        *,
        control_plane: TokenSource,
        learn: Callable[[Secret], object],
    ) -> None:
        self._settings = settings
        self._static = StaticTokens(control_plane, learn)
        self._static.configure(settings().tokens)
        self.sockets = OwnSockets(clock)
        self.limits = Limits(clock, lambda: settings().limits)
        sessions = Sessions(clock, self._lifetime)
        gate = Gate(
            self._static,
            NoClusterTokens(),
            sessions,
            Guesses(clock),
            plaintext=lambda: settings().allow_plaintext_tokens,
            cluster_id=lambda: board.now.registration.cluster_id or "",
        )
        self.access = Access(
            gate,
            self.limits,
            self.sockets,
            lambda: board.now.agent_id,
            protects_metrics=lambda: settings().protect_metrics,
        )

    def reconfigure(self) -> None:
        """The settings were read again."""
        self._static.configure(self._settings().tokens)

    def learn(self) -> None:
        """Let the log mask every token once more: it remembers a bounded number of secrets."""
        self._static.learn()

    def _lifetime(self) -> Lifetime:
        settings = self._settings()
        return Lifetime(settings.session_lifetime, settings.session_idle_timeout)
