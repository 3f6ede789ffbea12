"""The token that the control plane is given for the tunnelled API, and by what it knows that API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from twisted.application.service import MultiService
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pipeops_agent.clock import WallClock
from pipeops_agent.cluster.errors import Misconfigured
from pipeops_agent.cluster.service import ClusterService
from pipeops_agent.cluster.service_token import ServiceAccountToken
from pipeops_agent.facts import FACT_TIMEOUT
from pipeops_agent.scheduling import DeadlineExceeded, bounded
from pipeops_agent.secrets import Secret
from pipeops_agent.settings.model_pipeops import PipeopsSettings
from pipeops_agent.status import StatusBoard
from pipeops_agent.tokens import FileToken, SettingsToken, TokenSource

_log = Logger(namespace="cluster")


class Given(TypedDict):
    """What registrations say of it."""

    cluster_token: Secret | None
    cluster_ca: str
    cluster_server_name: str


class ClusterToken(MultiService):
    """
    Has the token: a service account's, asked for and renewed; or that in a file; or none.

    @param keep: lets the log mask it, before anybody else has it.
    @param changed: called when the control plane should be told of another token, or another CA.
    """

    def __init__(
        self,
        clock: IReactorTime,
        settings: PipeopsSettings,
        cluster: ClusterService,
        board: StatusBoard,
        *,
        wall: WallClock,
        keep: Callable[[str, Secret], None],
        changed: Callable[[], None],
    ) -> None:
        super().__init__()
        self._clock = clock
        self._cluster = cluster
        self._board = board
        self._keep = keep
        self._changed = changed
        self._account: ServiceAccountToken | None = None
        self._problem: Callable[[], str | None] = lambda: None
        self._source = self._find_source(settings, wall)
        self._unknown_ca = ""
        self._learn()
        self._given = self._now()
        self._source.on_change(self._another)

    def _find_source(self, settings: PipeopsSettings, wall: WallClock) -> TokenSource:
        if settings.cluster_token_file:
            file = FileToken(Path(settings.cluster_token_file))
            self._problem = lambda: file.problem
            return file
        if settings.cluster_service_account and self._cluster.configured:
            self._account = account = ServiceAccountToken(
                self._clock,
                self._cluster.api,
                lambda: self._cluster.home,
                settings.cluster_service_account,
                wall=wall,
                told=self._show,
            )
            self._problem = lambda: account.problem
            account.setServiceParent(self)
            return account
        if settings.cluster_service_account:
            self._problem = lambda: "no cluster is configured"
        return SettingsToken(None)

    async def obtain(self) -> None:
        """Wait for the first token, a moment: the registration goes without one that can't be had."""
        self.startService()
        self._show()
        if self._account is None:
            return
        try:
            await bounded(self._clock, FACT_TIMEOUT, self._account.asked(), "asking for the token")
        except DeadlineExceeded as error:
            _log.warn(
                "the registration goes without the control plane's own token: {error}", error=str(error)
            )

    def describe(self) -> Given:
        """What a registration says now."""
        self._given = self._now()
        return self._given

    def look(self) -> None:
        """See whether something else should be told than was. Reading a file's token notices a change."""
        self._show()
        if self._now() != self._given:
            self._changed()

    def _now(self) -> Given:
        token = self._source.current()
        authority, name = self._verification() if token else ("", "")
        return Given(cluster_token=token, cluster_ca=authority, cluster_server_name=name)

    def _verification(self) -> tuple[str, str]:
        try:
            found, problem = self._cluster.verification, ""
        except Misconfigured as error:
            found, problem = ("", ""), error.sentence
        if problem and problem != self._unknown_ca:
            _log.warn("the control plane is not told by which CA to know the API: {problem}", problem=problem)
        self._unknown_ca = problem
        return found

    def _another(self) -> None:
        self._learn()
        self.look()

    def _learn(self) -> None:
        token = self._source.current()
        if token:
            self._keep("the token for the tunnelled API", token)

    def _show(self) -> None:
        self._board.set_cluster(token_message=self._problem() or "")
