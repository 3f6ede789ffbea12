"""The agent's own entrance: who may ask it what, joined from its parts."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from pipeops_agent.access.audit import Audit
from pipeops_agent.access.gate import Gate
from pipeops_agent.access.guesses import Guesses
from pipeops_agent.access.kubernetes import KubernetesTokens, Sight
from pipeops_agent.access.limits import Limits
from pipeops_agent.access.sessions import Lifetime, Sessions
from pipeops_agent.access.tokens import StaticTokens
from pipeops_agent.cluster.api import Api
from pipeops_agent.cluster.reviews import Reviews
from pipeops_agent.events import EventHub
from pipeops_agent.log import Redactor
from pipeops_agent.own_sockets import OwnSockets
from pipeops_agent.settings import Settings
from pipeops_agent.status import StatusBoard
from pipeops_agent.tokens import TokenSource
from pipeops_agent.web.access import Access


class Entrance:
    """
    Everything that decides about callers.

    @param settings: as they are now; asked each time.
    @param control_plane: the agent's own token, which counts where the settings have none.
    @param api: the Kubernetes API, which is asked about its own tokens.
    @param home: the agent's namespace there; asked each time.
    @param redactor: the log's: it masks every token.
    @ivar sockets: those of the tunnel, which tells of them.
    @ivar limits: what callers take.
    @ivar audit: what they have done.
    @ivar sight: what of the cluster they are shown.
    @ivar access: who sent a request.
    """

    def __init__(
        self,
        clock: IReactorTime,
        settings: Callable[[], Settings],
        board: StatusBoard,
        *,
        control_plane: TokenSource,
        api: Api,
        home: Callable[[], str],
        hub: EventHub,
        redactor: Redactor,
    ) -> None:
        self._settings = settings
        self._static = StaticTokens(control_plane, lambda tokens: redactor.keep("server.tokens", *tokens))
        self._static.configure(settings().server.tokens)
        self.sockets = OwnSockets(clock)
        self.limits = Limits(clock, lambda: settings().server.limits)
        self.audit = Audit(clock, hub, redactor.clean)
        reviews = Reviews(clock, api)
        self.sight = Sight(reviews)
        gate = Gate(
            self._static,
            KubernetesTokens(clock, reviews, home),
            Sessions(clock, self._lifetime),
            Guesses(clock),
            plaintext=lambda: settings().server.allow_plaintext_tokens,
            cluster_id=lambda: board.now.registration.cluster_id or "",
        )
        self.access = Access(
            gate,
            self.limits,
            self.sockets,
            lambda: board.now.agent_id,
            protects_metrics=lambda: settings().server.protect_metrics,
        )

    def reconfigure(self) -> None:
        """The settings were read again."""
        self._static.configure(self._settings().server.tokens)

    def _lifetime(self) -> Lifetime:
        server = self._settings().server
        return Lifetime(server.session_lifetime, server.session_idle_timeout)
